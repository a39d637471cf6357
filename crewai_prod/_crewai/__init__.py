"""The only place that imports crewai: the seams.

Mechanism: for each run the crew, its agents, tasks, models and tools are taken over by copies whose
class is made at run time, `class X(Seam, type(original))`. They are what they were to `isinstance`,
to CrewAI and to the provider, but their calls pass through the run. No global is patched and no
object of the user's changes its class. Feature detection, not version numbers, decides where
releases differ.
"""
