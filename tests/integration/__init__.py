"""Hardened crews on CrewAI's OpenAI provider against the wire-level server."""
