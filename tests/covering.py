"""A test that is asked of every path and every form of kickoff is asked of some, in turn.

Rule: of a test's combinations of tool path and form of kickoff those stay that hold each path and
each form at least once, and no more than needed; which these are depends on the test's name. So
every test meets both paths and all forms, and all tests together meet every combination, in half
the time. `pytest --whole` runs every combination; `--sparse` one of each test, in turn: for another
release of crewai, beside a run on the first.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

PATH, FORM = "path", "mode"


def few(name: str, pairs: Iterable[tuple[Any, Any]], *, dear: bool = False) -> set[tuple[Any, Any]]:
    """The pairs that stay of a test with this name.

    Args:
        name: Of the test, its other parameters included.
        pairs: Of path and form, those that can be run.
        dear: Each path once will do, with forms in turn.
    """
    given = list(dict.fromkeys(pairs))
    if not given:
        return set()
    turn = crc32(name.encode("utf-8", "backslashreplace"))
    paths, forms = (_turned({pair[at]: None for pair in given}, turn) for at in (0, 1))
    kept: set[tuple[Any, Any]] = set()
    for number in range(len(paths) if dear else max(len(paths), len(forms))):
        wanted = paths[number % len(paths)], forms[number % len(forms)]
        kept |= {wanted} & set(given)
    for at in (0,) if dear else (0, 1):  # what cannot be run leaves gaps
        for pair in given:
            if pair[at] not in {one[at] for one in kept}:
                kept.add(pair)
    return kept


def _turned(values: Mapping[Any, None], turn: int) -> Sequence[Any]:
    """The values, begun at another one by the turn; in the other direction every second time."""
    several = list(values)
    start = turn % len(several)
    turned = several[start:] + several[:start]
    return turned[::-1] if turn // 7 % 2 else turned


def one(name: str, pairs: Iterable[tuple[Any, Any]]) -> set[tuple[Any, Any]]:
    """The one pair that stays of a test with this name, if there is any."""
    given = list(dict.fromkeys(pairs))
    return {given[crc32(name.encode("utf-8", "backslashreplace")) % len(given)]} if given else set()


def deselected(items: Sequence[Any], *, sparse: bool = False) -> list[Any]:
    """The items, as pytest collects them, that are left out."""
    groups: dict[str, list[Any]] = defaultdict(list)
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if (PATH in params and FORM in params) or (sparse and (PATH in params or FORM in params)):
            groups[_name(item)].append(item)
    left_out = []
    for name, group in groups.items():
        able = [item for item in group if not _skipped(item)]
        pairs, dear = map(_pair, able), group[0].get_closest_marker("dear") is not None
        kept = one(name, pairs) if sparse else few(name, pairs, dear=dear)
        left_out += [item for item in able if _pair(item) not in kept]
    return left_out


def _pair(item: Any) -> tuple[Any, Any]:
    return item.callspec.params.get(PATH), item.callspec.params.get(FORM)


def _skipped(item: Any) -> bool:
    return item.get_closest_marker("skip") is not None


def _name(item: Any) -> str:
    others = {key: value for key, value in item.callspec.params.items() if key not in (PATH, FORM)}
    ids = [f"{key}={_told(value)}" for key, value in sorted(others.items())]
    return "|".join([item.nodeid.partition("[")[0], *ids])


def _told(value: Any) -> str:
    try:
        return f"{value!s:.80}"
    except Exception:  # noqa: BLE001 - hostile values are what some tests are about
        return type(value).__name__
