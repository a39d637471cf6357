"""Killed between intent, effect and commit, for every way in which a tool may be declared."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crewai_prod.crashtest.sessions import DONE, PAUSED
from tests.crash.conftest import Stage
from tests.crash.declared import DECLARED

_BEFORE_BODY = ("tool.before_body", 2)
_AFTER_BODY = ("tool.after_body", 2)
_AFTER_COMMIT = ("commit.after:finish_step", 5)
"""Of the charge, the second of three tools."""

_READ = {"effect": "read"}
_UNDECLARED: dict[str, Any] = {}
_WRITE = {"effect": "write"}
_IDEMPOTENT = {"effect": "write", "idempotent": True}
_LOOKS = {"effect": "write", "reconcile": "look"}
_SHRUGS = {"effect": "write", "reconcile": "unknown"}
_BOTH = {"effect": "write", "idempotent": True, "reconcile": "unknown"}

_TABLE = [
    (_BEFORE_BODY, _READ, DONE, 1),
    (_BEFORE_BODY, _UNDECLARED, PAUSED, 0),
    (_BEFORE_BODY, _WRITE, PAUSED, 0),
    (_BEFORE_BODY, _IDEMPOTENT, DONE, 1),
    (_BEFORE_BODY, _LOOKS, DONE, 1),
    (_BEFORE_BODY, _SHRUGS, PAUSED, 0),
    (_BEFORE_BODY, _BOTH, DONE, 1),
    (_AFTER_BODY, _READ, DONE, 2),
    (_AFTER_BODY, _UNDECLARED, PAUSED, 1),
    (_AFTER_BODY, _WRITE, PAUSED, 1),
    (_AFTER_BODY, _IDEMPOTENT, DONE, 2),
    (_AFTER_BODY, _LOOKS, DONE, 1),
    (_AFTER_BODY, _SHRUGS, PAUSED, 1),
    (_AFTER_BODY, _BOTH, DONE, 2),
    *[
        (_AFTER_COMMIT, said, DONE, 1)
        for said in (_READ, _UNDECLARED, _WRITE, _IDEMPOTENT, _LOOKS, _SHRUGS)
    ],
]


@pytest.mark.parametrize(("point", "said", "end", "effects"), _TABLE)
def test_killed_around_an_effect(
    stage: Stage, point: tuple[str, int], said: dict[str, Any], end: int, effects: int
) -> None:
    """What may be repeated is, with the same key; else it is found out, or a person is asked."""
    how = {
        "target": "tests.crash.declared:declared",
        "env": {**stage.template.env, DECLARED: json.dumps(said)},
    }
    at, hit = point
    assert stage.run("killed", at=at, kill_at=hit, **how) == {}
    told = stage.run("resumed", **how)
    assert told["status"] == end, told
    charges = [effect for effect in stage.effects if effect.tool == "charge"]
    assert len(charges) == effects
    assert len({effect.step for effect in charges}) == min(effects, 1)
    if end == PAUSED:
        told = stage.run("answered", answers={told["step"]: _DONE}, **how)
        assert told["status"] == DONE, told
        assert len([one for one in stage.effects if one.tool == "charge"]) == effects
    assert [one.tool for one in stage.effects if one.tool != "charge"] == ["reserve", "mail"]
    # None of the six model calls was made twice.
    assert len(stage.sent) == 6


_DONE = {"kind": "done", "result": "charged 30"}
