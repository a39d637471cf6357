"""A crew that is killed in mid-task, and the proof that nothing was lost or done twice.

`crew.py` is the crew, an example to read; `script.py` the model it runs on without a network;
`child.py` the process that is killed; `director.py` kills, resumes and checks.
"""
