"""Shapes of crew, by subject. Importing this package registers all of them."""

from tests.integration.shapes import processes

__all__ = ["processes"]
