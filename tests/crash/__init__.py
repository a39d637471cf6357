"""Crews that are killed anywhere, against a model server that counts."""
