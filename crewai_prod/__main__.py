"""`python -m crewai_prod`: the command line."""

from __future__ import annotations

from crewai_prod.cli import main

if __name__ == "__main__":
    main(prog_name="crewai-prod")
