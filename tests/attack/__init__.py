"""Hostile cases, as data: what is tried, and what counts as blocked."""
