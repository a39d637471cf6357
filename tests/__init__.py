"""The tests of crewai-prod."""
