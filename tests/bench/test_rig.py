"""The hostile tools do what they say, and their file is the truth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.bench.rig import GARBAGE, HARMS, Harm, Rig, strike_at_rate, tools_of


def rig_with(folder: Path, *harms: Harm | None) -> Rig:
    """A world in which these things happen to a tool's first calls, in order, then nothing."""
    return Rig(
        folder / "effects",
        lambda _, __, nth: harms[nth - 1] if nth <= len(harms) else None,
        hang=0.05,
    )


def called(rig: Rig, tool: str, **arguments: Any) -> Any:
    """What a call returns, or the class of what it raises."""
    try:
        return tools_of(rig)[tool].run(**arguments)
    except Exception as error:  # noqa: BLE001 - whichever it is
        return type(error)


@pytest.mark.parametrize(
    ("harm", "outcome", "effects"),
    [
        (None, "charged 7", 1),
        ("raise", ConnectionRefusedError, 0),
        ("hang", TimeoutError, 0),
        ("die_after", ConnectionResetError, 1),
        ("hang_after", "charged 7", 1),
        ("late", "charged 7", 1),
    ],
)
def test_writes(tmp_path: Path, harm: Harm | None, outcome: Any, effects: int) -> None:
    """Each harm comes before or after the effect, and the file says which."""
    rig = rig_with(tmp_path, harm)
    begun = time.monotonic()
    assert called(rig, "charge", amount=7) == outcome
    assert (time.monotonic() - begun >= 0.05) == (harm in ("hang", "hang_after", "late"))
    wanted = {"tool": "charge", "arguments": {"amount": 7}, "key": None, "result": "charged 7"}
    assert rig.effects == [wanted] * effects
    assert called(rig, "charge", amount=7) == "charged 7"
    assert len(rig.effects) == effects + 1


def test_reads_return_garbage(tmp_path: Path) -> None:
    """One of the kinds of garbage, the same for the same call."""
    got = [rig_with(tmp_path, "garbage").read("stock", {"item": "a"}, "12 of a") for _ in range(2)]
    assert repr(got[0]) == repr(got[1])
    assert any(got[0] is one or repr(got[0]) == repr(one) for one in GARBAGE)
    assert rig_with(tmp_path).effects == []


def test_reconcile_looks_into_the_file(tmp_path: Path) -> None:
    """By the key under which the effect was had."""
    rig = rig_with(tmp_path)
    rig.log.write_text('{"tool": "charge", "arguments": {}, "key": "k1", "result": "charged 7"}\n')
    assert rig.reconcile({}, "k1").kind == "done"
    assert rig.reconcile({}, "k1").result == "charged 7"
    assert rig.reconcile({}, "k2").kind == "not_done"


def test_strikes_go_by_the_call_alone() -> None:
    """About the share that was asked for, the same ones each time, of the tool's own harms."""
    some, again = (strike_at_rate(0.3, HARMS, seed=5) for _ in range(2))
    calls = [(name, str(n), nth) for name in HARMS for n in range(200) for nth in (1, 2)]
    drawn = [some(*call) for call in calls]
    assert drawn == [again(*call) for call in calls]
    assert 0.25 < sum(harm is not None for harm in drawn) / len(drawn) < 0.35
    assert all(harm in HARMS[name] for (name, _, _), harm in zip(calls, drawn, strict=True) if harm)
