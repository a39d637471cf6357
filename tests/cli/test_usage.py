"""`crewai-prod usage` on journals made by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from crewai_prod.records import Cost, CostStatus, RunStatus, StepKind, TaskStatus, Usage
from tests.cli.conftest import Book, Cli

ROW_KEYS = {
    *("llm_calls", "tool_calls", "input_tokens", "output_tokens", "cache_read_tokens"),
    *("cache_write_tokens", "reasoning_tokens", "total_tokens", "cost_usd", "known_cost_usd"),
    "unpriced_llm_calls",
}
DAY = 86_400.0
UNPRICED = Cost(status=CostStatus.UNPRICED)


def priced(usd: str) -> Cost:
    """A cost in dollars."""
    return Cost(status=CostStatus.PRICED, picousd=round(float(usd) * 10**12), source="prices")


def call(book: Book, lease: Any, seq: int, cost: Cost, **more: Any) -> None:
    """A model call of 100 + 20 tokens."""
    book.step(lease, seq, StepKind.MODEL, "m", model="m-1", provider="acme", cost=cost, **more)


@pytest.fixture
def billed(book: Book) -> Book:
    """`desk` has a run of two agents, one call of it unpriced; `lab` has one at work."""
    lease = book.start("order-1")
    book.task(lease)
    call(book, lease, 1, priced("0.25"))
    book.step(lease, 2, StepKind.TOOL, "look_up")
    usage = Usage(input_tokens=50, output_tokens=5, cache_read_tokens=40, calls=1)
    editor = {"usage": usage, "agent": "Editor", "task": 1, "scope": "tasks/1/Editor"}
    call(book, lease, 3, UNPRICED, **editor)
    book.end(lease, RunStatus.COMPLETED)
    lab = book.start("test-1", crew="lab")
    call(book, lab, int(DAY), priced("0.5"))
    return book


def _usage(cli: Cli, book: Book, *options: object) -> Any:
    return json.loads(cli("usage", "--journal", book.path, "--json", *options).stdout)


def _rows(cli: Cli, book: Book, *options: object) -> list[tuple[Any, ...]]:
    rows = _usage(cli, book, *options)["rows"]
    return [tuple(v for k, v in row.items() if k not in ROW_KEYS) for row in rows]


def test_usage_json_has_the_documented_shape(cli: Cli, billed: Book) -> None:
    """Sums by day unless told otherwise, and one over all; a cost is complete or null."""
    shown = _usage(cli, billed)
    assert set(shown) == {"by", "since", "rows", "total"}
    assert (shown["by"], shown["since"]) == (["day"], None)
    assert set(shown["total"]) == ROW_KEYS
    assert all(set(row) == {"day", *ROW_KEYS} for row in shown["rows"])
    newest, oldest = shown["rows"]
    assert (newest["day"], newest["cost_usd"], newest["unpriced_llm_calls"]) == (
        "2023-11-15",
        0.5,
        0,
    )
    assert (oldest["cost_usd"], oldest["known_cost_usd"]) == (None, 0.25)
    assert (oldest["llm_calls"], oldest["tool_calls"]) == (2, 1)
    total = shown["total"]
    assert (total["input_tokens"], total["output_tokens"], total["total_tokens"]) == (250, 45, 295)
    assert (total["cache_read_tokens"], total["known_cost_usd"]) == (40, 0.75)
    assert (total["cost_usd"], total["unpriced_llm_calls"]) == (None, 1)


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("run", [("test-1",), ("order-1",)]),
        ("crew", [("lab", "crew"), ("desk", "crew")]),
        ("agent", [("Clerk",), ("Editor",)]),
        ("model", [("acme", "m-1")]),
        ("day", [("2023-11-15",), ("2023-11-14",)]),
        (
            "task",
            [
                ("lab", "crew", 0, None),
                ("desk", "crew", 0, "find the order"),
                ("desk", "crew", 1, None),
            ],
        ),
    ],
)
def test_usage_is_summed_up_by_anything(
    cli: Cli, billed: Book, by: str, keys: list[tuple[Any, ...]]
) -> None:
    """Newest first by run and day, dearest first otherwise; runs at work are in all of them."""
    assert _rows(cli, billed, "--by", by) == keys
    rows = _usage(cli, billed, "--by", by)["rows"]
    assert sum(row["llm_calls"] for row in rows) == 3
    assert sum(row["known_cost_usd"] or 0 for row in rows) == 0.75


def test_usage_by_two_things_and_filtered(cli: Cli, billed: Book) -> None:
    """`--by` may be given twice; --run, --crew, --since and --limit narrow it."""
    assert _rows(cli, billed, "--by", "crew", "--by", "agent") == [
        ("lab", "crew", "Clerk"),
        ("desk", "crew", "Clerk"),
        ("desk", "crew", "Editor"),
    ]
    assert _rows(cli, billed, "--by", "agent", "--run", "order-1") == [("Clerk",), ("Editor",)]
    assert _rows(cli, billed, "--by", "run", "--crew", "lab") == [("test-1",)]
    assert _rows(cli, billed, "--by", "run", "--since", "2023-11-15") == [("test-1",)]
    assert _rows(cli, billed, "--by", "day", "--run", "order-1") == [("2023-11-14",)]
    assert _rows(cli, billed, "--since", "2023-11-15T12:00:00+02:00") == [("2023-11-15",)]
    assert _rows(cli, billed, "--since", "1d") == []
    assert len(_rows(cli, billed, "--since", "9999w")) == 2
    assert _rows(cli, billed, "--limit", 1) == [("2023-11-15",)]
    assert _usage(cli, billed, "--limit", 1)["total"]["llm_calls"] == 3
    assert _usage(cli, billed, "--crew", "lab")["total"]["cost_usd"] == 0.5


def test_usage_is_a_table_for_people(cli: Cli, billed: Book) -> None:
    """What is known, what is not, and a last row with all of it."""
    head, *rows = cli("usage", "--journal", billed.path, "--by", "crew").stdout.splitlines()
    assert head.split() == ["CREW", "CALLS", "TOOLS", "IN", "CACHED", "OUT", "COST"]
    assert rows[0].split() == ["lab", "1", "0", "100", "0", "20", "$0.5000"]
    assert rows[1].split()[-4:] == ["$0.2500", "+", "1", "unpriced"]
    assert rows[2].split()[0] == "total"
    assert cli("usage", "--journal", billed.path, "--crew", "x").stdout == "No calls.\n"


def test_usage_is_what_the_runs_cost(cli: Cli, billed: Book) -> None:
    """`runs` and `show` give the same: null where it is not known, and they say what is missing."""
    printed = cli("runs", "--journal", billed.path, "--json").stdout
    assert [run["cost_usd"] for run in json.loads(printed)] == [0.5, None]
    assert "$0.2500 + 1 unpriced" in cli("runs", "--journal", billed.path).stdout
    shown = json.loads(cli("show", "order-1", "--journal", billed.path, "--json").stdout)
    assert shown["usage"]["cost_usd"] is None
    assert [step["cost_usd"] for step in shown["steps"]] == [0.25, None, None]
    assert shown["tasks"][0]["cost_usd"] == 0.25
    text = cli("show", "order-1", "--journal", billed.path).stdout
    assert "$0.2500 + 1 unpriced" in text
    assert "COST" in text


@pytest.mark.parametrize("since", ["yesterday", "7", "1y", "2023-13-01", "-1d"])
def test_a_time_that_is_none(cli: Cli, billed: Book, since: str) -> None:
    """Said with what would be one."""
    result = cli("usage", "--journal", billed.path, f"--since={since}", status=2)
    assert "7d" in result.stderr


def test_a_run_that_is_none(cli: Cli, billed: Book) -> None:
    """As for `show`."""
    assert (
        "crewai-prod runs" in cli("usage", "--journal", billed.path, "--run", "x", status=1).stderr
    )


# -- --check --------------------------------------------------------------------------------------


def history(book: Book, tokens: Sequence[int], crew: str = "desk") -> None:
    """Completed runs of one task that took so many tokens each."""
    for number, count in enumerate(tokens):
        lease = book.start(f"{crew}-{number}", crew=crew)
        book.task(lease, TaskStatus.DONE)
        usage = Usage(input_tokens=count, calls=1)
        call(book, lease, 1, priced("0.5"), usage=usage)
        book.end(lease, RunStatus.COMPLETED)


def test_check_names_what_is_out_of_the_ordinary(cli: Cli, book: Book) -> None:
    """Exit status 1, and which run of which crew took how much in which task."""
    history(book, [*[100] * 8, 400])
    result = cli("usage", "--journal", book.path, "--check", status=1)
    assert "'desk-8' of 'desk', task 'find the order': 400 tokens" in result.stdout
    found = json.loads(cli("usage", "--journal", book.path, "--check", "--json", status=1).stdout)
    assert set(found) == {"ok", "checked_runs", "outliers"}
    assert (found["ok"], found["checked_runs"]) == (False, 1)
    assert found["outliers"] == [
        {
            "run_id": "desk-8",
            "crew": "desk",
            "task": "find the order",
            "position": 0,
            "metric": "tokens",
            "value": 400.0,
            "median": 100.0,
            "limit": 150.0,
            "runs": 8,
        }
    ]


def test_check_looks_at_the_newest_run_of_each_crew(cli: Cli, book: Book) -> None:
    """An older one counts with --since or --run; crews do not count for each other."""
    history(book, [*[100] * 8, 400, 100])
    history(book, [900], crew="lab")

    def check(*options: object, status: int = 0) -> Any:
        printed = cli("usage", "--journal", book.path, "--check", "--json", *options, status=status)
        found = json.loads(printed.stdout)
        return found["checked_runs"], [one["run_id"] for one in found["outliers"]]

    assert check() == (2, [])
    assert check("--crew", "lab") == (1, [])
    assert check("--since", "1d", status=1) == (11, ["desk-8"])
    assert check("--since", "1d", "--crew", "lab") == (1, [])
    assert check("--run", "desk-8", status=1) == (1, ["desk-8"])
    assert check("--run", "desk-9") == (1, [])
    said = cli("usage", "--journal", book.path, "--check").stdout
    assert said == "Nothing out of the ordinary in 2 runs.\n"


def test_check_is_asked_sensibly(cli: Cli, book: Book) -> None:
    """Not with --by, and not of a run that is at work."""
    result = cli("usage", "--journal", book.path, "--check", "--by", "run", status=2)
    assert "--by" in result.stderr
    book.start("r")
    result = cli("usage", "--journal", book.path, "--check", "--run", "r", status=2)
    assert "at work" in result.stderr
    assert "in 0 runs" in cli("usage", "--journal", book.path, "--check").stdout
