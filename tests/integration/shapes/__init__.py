"""Shapes of crew, by subject. Importing this package registers all of them."""

from tests.integration.shapes import (
    coworkers,
    judged,
    limits,
    memory,
    models,
    orders,
    outputs,
    outside,
    people,
    plans,
    processes,
)

__all__ = [
    "coworkers",
    "judged",
    "limits",
    "memory",
    "models",
    "orders",
    "outputs",
    "outside",
    "people",
    "plans",
    "processes",
]
