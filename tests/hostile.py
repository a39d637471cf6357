"""Values that nobody sends on purpose, and what must be true of a journal after they came by."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import UserDict, UserList, deque, namedtuple
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from click.testing import CliRunner
from hypothesis import strategies as st
from pydantic import BaseModel, PrivateAttr, model_serializer

from crewai_prod import open_journal
from crewai_prod.cli.show import show

Pair = namedtuple("Pair", "one other")


class Rude:
    """Raises whatever it is asked."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    def __iter__(self) -> Iterator[Any]:
        raise RuntimeError("no items")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    def __hash__(self) -> int:
        raise RuntimeError("no hash")

    __repr__ = __str__


class Liar:
    """Has no class that it would tell."""

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        raise RuntimeError("no class")


class RudeMapping(Mapping[str, Any]):
    """Says that it has items, and does not give them."""

    def __getitem__(self, key: str) -> Any:
        raise RuntimeError("no item")

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])

    def __len__(self) -> int:
        return 1


class Secretive(BaseModel):
    """Keeps something to itself."""

    shown: int = 1
    _kept: Any = PrivateAttr(default_factory=Rude)


class Unserializable(BaseModel):
    """Will not be dumped."""

    value: int = 1

    @model_serializer
    def refuse(self) -> dict[str, Any]:
        """Fail."""
        raise RuntimeError("not to be stored")


class Holder(BaseModel):
    """Holds anything."""

    model_config = {"arbitrary_types_allowed": True}
    value: Any = None


@dataclass
class Node:
    """Points to itself, perhaps."""

    next: Any = None
    others: list[Any] = field(default_factory=list)


class Colour(Enum):
    """An enum whose value is no plain one."""

    RED = (1, b"\xff")


class LoudStr(str):
    """A text of a class of its own."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Nowhere(tzinfo):
    """A zone without an offset."""

    def utcoffset(self, moment: datetime | None) -> Any:
        """Fail."""
        raise RuntimeError("no offset")

    dst = tzname = utcoffset


class HostileError(Exception):
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class SurrogateError(Exception):
    """Its text cannot be written as UTF-8."""

    def __str__(self) -> str:
        return "lone \ud800 surrogate"


def deep(levels: int, wrap: Callable[[Any], Any] = lambda inner: [inner]) -> Any:
    """A value nested so deep."""
    value: Any = "end"
    for _ in range(levels):
        value = wrap(value)
    return value


def _looped_list() -> Any:
    loop: list[Any] = []
    loop.extend([loop, loop, loop])
    return loop


def _looped_dict() -> Any:
    loop: dict[Any, Any] = {}
    loop.update(self=loop, again={"self": loop}, number={1: loop})
    return loop


def _looped_node() -> Any:
    node = Node()
    node.next, node.others = node, [node, node]
    return node


def _looped_model() -> Any:
    holder = Holder()
    holder.value = [holder, holder]
    return holder


VALUES: Mapping[str, Callable[[], Any]] = {
    "none": lambda: None,
    "empty": lambda: "",
    "nan": lambda: math.nan,
    "infinities": lambda: [math.inf, {"a": -math.inf}],
    "surrogate": lambda: "lone \ud800 surrogate",
    "surrogate key": lambda: {"\udfff": "\ud800"},
    "nul": lambda: "a\x00b",
    "controls": lambda: "".join(map(chr, range(32))) + "\x7f\u2028\ufeff\u202e",
    "binary": lambda: b"\x00\xff\xfe",
    "bytearray": lambda: bytearray(b"\x00\xff"),
    "memoryview": lambda: memoryview(b"\x00\xff"),
    "huge text": lambda: "x" * 500_000,
    "huge list": lambda: list(range(100_000)),
    "huge integer": lambda: 10**5000,
    "negative huge integer": lambda: {"n": [-(7**9000)]},
    "deep list": lambda: deep(5000),
    "deep dict": lambda: deep(5000, lambda inner: {"a": inner}),
    "deep tuple": lambda: deep(300, lambda inner: (inner,)),
    "deep numbered": lambda: deep(300, lambda inner: {1: inner}),
    "deep nodes": lambda: deep(300, lambda inner: Node(next=inner)),
    "looped list": _looped_list,
    "looped dict": _looped_dict,
    "looped node": _looped_node,
    "looped model": _looped_model,
    "set": lambda: {1, "a", (2, 3), frozenset({4})},
    "generator": lambda: (n for n in range(3)),
    "iterator": lambda: iter([1, 2]),
    "numbered keys": lambda: {1: "a", None: "b", (1, 2): "c", 1.5: "d", False: "e"},
    "tagged": lambda: {"$": "bytes", "v": "!!"},
    "tagged answer": lambda: {"answer": "list", "v": 3},
    "tool failure": lambda: {"$": "tool_failure", "v": 3},
    "rude": Rude,
    "rude within": lambda: {"a": [Rude(), {"b": Rude()}]},
    "liar": Liar,
    "rude mapping": RudeMapping,
    "proxy": lambda: MappingProxyType({"a": 1}),
    "user dict": lambda: UserDict({"a": UserList([deque([1])])}),
    "pair": lambda: Pair(1, other=Rude()),
    "loud text": lambda: LoudStr("a"),
    "enum": lambda: Colour.RED,
    "class": lambda: Rude,
    "function": lambda: deep,
    "module": lambda: math,
    "private": Secretive,
    "unserializable": Unserializable,
    "holder": lambda: Holder(value=Rude()),
    "nowhere": lambda: datetime(2026, 1, 1, tzinfo=Nowhere()),
    "moment": lambda: datetime.max.replace(tzinfo=UTC),
    "decimal": lambda: [Decimal("sNaN"), Decimal("1e999999")],
    "complex": lambda: complex(1, math.nan),
    "exception": lambda: HostileError(),
    "ellipsis": lambda: ...,
    "range": lambda: range(10**12),
}
"""Ready-made ones by name; made anew for each use."""

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**6000), 10**6000)
    | st.floats()
    | st.text(alphabet=st.characters(codec=None))
    | st.binary()
    | st.decimals()
    | st.complex_numbers()
    | st.sampled_from(sorted(set(VALUES) - {"liar"})).map(lambda name: VALUES[name]())
)
"""No liar: Hypothesis itself does not survive one."""

ANYTHING = st.recursive(
    _LEAVES,
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text(alphabet=st.characters(codec=None)) | st.integers() | st.just("$"), inner
        )
        | st.builds(Holder, value=inner)
        | st.builds(Node, next=inner)
    ),
    max_leaves=8,
)
"""Any of them within any other."""

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(alphabet=st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
"""What `json.dumps` writes, NaN and lone surrogates included."""

_JSON_COLUMNS = {
    "runs": ("inputs", "result", "error", "versions"),
    "tasks": ("parts", "error", "output"),
    "steps": ("error", "arguments", "result"),
    "attempts": ("error",),
    "messages": ("body",),
    "approvals": ("arguments", "answer", "who", "form"),
}


def assert_journal_whole(path: Path) -> None:
    """Assert that the journal is sound: for SQLite, for JSON, for `Journal` and for `show`."""
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        for table, columns in _JSON_COLUMNS.items():
            for column in columns:
                for (text,) in connection.execute(f"SELECT {column} FROM {table}"):
                    if text is not None:
                        json.loads(text)
        for (view,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'view'"):
            connection.execute(f"SELECT * FROM {view}").fetchall()
    book = open_journal(path)
    for run in book.runs(limit=None):
        assert book.run(run.run_id).run_id == run.run_id
        book.transitions(run.run_id)
        book.attempts(run.run_id)
        book.approvals(run.run_id)
        tasks, steps = book.tasks(run.run_id), book.steps(run.run_id)
        for step in steps:
            if step.request is not None:
                assert book.conversation(run.run_id, step.request)
        for options in ([], ["--json"]):
            shown = CliRunner().invoke(show, [run.run_id, "--journal", str(path), *options])
            assert shown.exit_code == 0, (shown.output, shown.exception)
        said = json.loads(shown.stdout)
        assert (len(said["tasks"]), len(said["steps"])) == (len(tasks), len(steps))
