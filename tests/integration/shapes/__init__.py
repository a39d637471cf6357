"""Shapes of crew, by subject. Importing this package registers all of them."""

from tests.integration.shapes import memory, models, outside, processes

__all__ = ["memory", "models", "outside", "processes"]
