"""Which combinations of path and form stay."""

from __future__ import annotations

from itertools import product

import pytest

from tests.covering import few, one

PATHS = ("native", "text")
FORMS = ("kickoff", "kickoff_async", "akickoff")
ALL = list(product(PATHS, FORMS))


@pytest.mark.parametrize("forms", [FORMS, FORMS[:2], FORMS[:1]], ids=len)
@pytest.mark.parametrize("name", ["one", "two", "three", "test_x|kind=sync"])
def test_each_path_and_each_form_stays(name: str, forms: tuple[str, ...]) -> None:
    """No test loses a path or a form, and none keeps more than it takes."""
    kept = few(name, product(PATHS, forms))
    assert {path for path, _ in kept} == set(PATHS)
    assert {form for _, form in kept} == set(forms)
    assert len(kept) == max(len(PATHS), len(forms))


def test_all_combinations_are_met_by_some_test() -> None:
    """Over many tests every combination has its turn."""
    met = [pair for number in range(60) for pair in few(f"test_{number}", ALL)]
    assert all(met.count(pair) >= 15 for pair in ALL)


def test_what_cannot_be_run_is_made_up_for() -> None:
    """A combination that is skipped takes no path or form with it."""
    for gone in ALL:
        kept = few("a test", [pair for pair in ALL if pair != gone])
        assert {path for path, _ in kept} == set(PATHS)
        assert {form for _, form in kept} == set(FORMS)


def test_one_stays_where_few_are_too_many() -> None:
    """Each combination is met by some test, and a test that can run none has none."""
    assert {pair for number in range(60) for pair in one(f"test_{number}", ALL)} == set(ALL)
    assert one("a test", []) == set()


def test_a_dear_test_keeps_each_path_once() -> None:
    """Many tests like it together meet every combination all the same."""
    met = [few(f"test_{number}", ALL, dear=True) for number in range(60)]
    assert all(len(kept) == 2 and {path for path, _ in kept} == set(PATHS) for kept in met)
    assert set().union(*met) == set(ALL)
    assert few("a test", []) == set()
