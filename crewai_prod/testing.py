"""What users' tests may want: a model that needs no network."""

from __future__ import annotations

from crewai_prod._crewai.scripted import Script, ScriptedLLM

__all__ = ["Script", "ScriptedLLM"]
