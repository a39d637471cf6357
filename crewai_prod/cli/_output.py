"""What is printed: made harmless, as JSON, as a table on a terminal, as plain text elsewhere."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TextIO

import click

from crewai_prod.records import Spending, shown_dollars

# Control characters, lone surrogates, and what changes the direction of text or breaks lines.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_GIVING = ("CREW", "WHY", "TASK / STEP", "AGENT", "NOTES", "ITEM")
"""The columns that give way where a terminal is narrow."""
_STYLES = {
    "completed": "green",
    "done": "green",
    "ok": "green",
    "running": "cyan",
    "started": "cyan",
    "paused": "yellow",
    "interrupted": "yellow",
    "cancelled": "yellow",
    "superseded": "yellow",
    "warn": "yellow",
    "failed": "red",
    "fail": "red",
}


def safe(text: object, *, lines: bool = False) -> str:
    r"""The text with control characters shown as `\x1b`, so that no terminal obeys them.

    Args:
        text: What was stored, by whomever.
        lines: Keep line breaks and tabs; otherwise they become spaces.
    """
    shown = str(text) if lines else " ".join(str(text).split())
    return _UNSAFE.sub(_visible, shown.replace("\r\n", "\n"))


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def short(text: object, width: int) -> str:
    """The text on one line, harmless, and cut to a width."""
    line = safe(text)
    return line if len(line) <= width else line[: width - 1] + "…"


def print_json(value: Any, *, err: bool = False, file: TextIO | None = None) -> None:
    """One JSON value, ASCII only: no stored text reaches a terminal or breaks an encoding."""
    click.echo(
        json.dumps(value, indent=2, default=str).replace("\x7f", "\\u007f"), err=err, file=file
    )


def styled(word: str) -> str:
    """A status in its colour; click drops the colour where there is no terminal."""
    return click.style(word, fg=_STYLES.get(word))


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table: drawn on a terminal, aligned columns elsewhere. Cells are made harmless here."""
    cells = [[safe(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(head, cells)
        return
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    for row in (list(head), *cells):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def _draw(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for title in head:
        table.add_column(title, overflow="fold", no_wrap=title not in _GIVING)
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(table)


# -- values for people ----------------------------------------------------------------------------


def iso(seconds: float | None) -> str | None:
    """A time for `--json`: ISO 8601 in UTC, milliseconds."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"


def clock(seconds: float) -> str:
    """A time for people, where they are."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def duration(seconds: float | None) -> str:
    """How long something took."""
    if seconds is None:
        return ""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def count(number: int, noun: str) -> str:
    """`1 task`, `1,200 tokens`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def money(spent: Spending) -> str:
    """An amount, as far as it is known, and how many calls are not in it."""
    known = "" if spent.known_usd is None else shown_dollars(spent.known_usd)
    missing = f"{spent.unpriced:,} unpriced" if spent.unpriced else ""
    return " + ".join(part for part in (known, missing) if part)


def dollars(usd: Decimal | None) -> float | None:
    """An amount for `--json`: the one place where money becomes a float."""
    return None if usd is None else float(usd)
