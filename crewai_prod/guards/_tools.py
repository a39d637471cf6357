"""`tools`: which tools may be called by whom, and with which arguments."""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from crewai_prod.errors import UsageError
from crewai_prod.guards._predicates import Predicate, why_not
from crewai_prod.guards._texts import DEEPEST, as_tree, texts
from crewai_prod.guards._types import Allow, Escalate, Guard, GuardContext, Reject, Verdict
from crewai_prod.guards._versions import version_of

Names = Collection[str]
Rule = Names | Mapping[Literal["allow", "deny"], Names]
Rules = Predicate | Sequence[Predicate]

_BETWEEN = re.compile(r"[^a-z0-9*?]+")
_EVERY: Final = "*"


def tools(
    *,
    allow: Names | None = None,
    deny: Names = (),
    agents: Mapping[str, Rule] | None = None,
    tasks: Mapping[str, Rule] | None = None,
    arguments: Mapping[str, Mapping[str, Rules]] | None = None,
    otherwise: Literal["reject", "escalate"] = "reject",
    name: str = "tools",
    order: int = 0,
) -> Guard:
    """A guard that lets only those tool calls pass that are allowed.

        tools(
            deny=["delete_*"],
            agents={"Researcher": ["search", "read_page"], "Clerk": {"deny": ["search"]}},
            arguments={"send": {"url": hosts("api.example.com"), "amount": at_most(100)}},
        )

    A call passes if every list that speaks of it lets it pass: that for all, that of its agent and
    that of its task. Names are compared as CrewAI shows them to models (`Send Mail` is
    `send_mail`), and may hold `*` and `?`. What a run itself adds (`ask_human`, `read_tool_result`)
    is allowed unless it is denied.

    Args:
        allow: Tools that may be called; None: all.
        deny: Tools that may not, whatever is allowed elsewhere.
        agents: By role, a list of tools that may be called, or `{"allow": [...], "deny": [...]}`.
            `"*"` is for those that are not named.
        tasks: The same by the name of the task.
        arguments: By tool, what holds of its arguments: `hosts`, `inside`, `at_most`, `one_of`,
            `matches`, `receivers`, `shorter_than`, or any function of a value that says True,
            False or why not; or several. A name holds at any depth, also in an argument that is
            JSON in a text; `"order.lines.price"` only there, with lists passed through. Of a value
            that holds others it has to be true of each.
        otherwise: What becomes of other calls: `reject` tells the model why, `escalate` asks a
            person.
        name: Of the guard.
        order: Of the guard.

    Raises:
        UsageError: A rule that is none.
    """
    if otherwise not in ("reject", "escalate"):
        raise UsageError(f"otherwise={otherwise!r} does not exist; there are reject and escalate.")
    rules = _Rules(
        every=_Lists.read(allow, deny, "all"),
        agents={role: _Lists.of(rule, f"agent {role!r}") for role, rule in (agents or {}).items()},
        tasks={task: _Lists.of(rule, f"task {task!r}") for task, rule in (tasks or {}).items()},
        arguments=_argument_rules(arguments or {}),
    )
    end = Reject if otherwise == "reject" else Escalate

    def check(value: Any, context: GuardContext) -> Verdict:
        for _ in texts(value):  # too large or too deep is not looked at in part
            pass
        why = rules.refuse(context) or rules.refuse_arguments(value, context)
        return Allow() if why is None else end(why)

    said = (allow, deny, agents or {}, tasks or {}, arguments or {}, otherwise)
    return Guard(name, check, frozenset({"tool_call"}), version_of("1", *said), order)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rules:
    every: _Lists
    agents: Mapping[str, _Lists]
    tasks: Mapping[str, _Lists]
    arguments: Mapping[str, list[tuple[tuple[str, ...], Predicate]]]

    def refuse(self, context: GuardContext) -> str | None:
        """Why the tool itself may not be called here."""
        tool = _plain(context.tool or "")
        agent = self.agents.get(context.agent or "", self.agents.get(_EVERY))
        task = self.tasks.get(context.task or "", self.tasks.get(_EVERY))
        for whose, lists in (
            ("", self.every),
            (f" for agent {context.agent!r}", agent),
            (f" in task {context.task!r}", task),
        ):
            if lists is not None and not lists.pass_(tool, built_in=context.built_in):
                return f"The tool {context.tool!r} is not allowed{whose}.{lists.hint}"
        return None

    def refuse_arguments(self, value: Any, context: GuardContext) -> str | None:
        """Why it may not be called with these arguments."""
        tool = _plain(context.tool or "")
        for pattern, rules in self.arguments.items():
            for path, predicate in rules if fnmatch.fnmatchcase(tool, pattern) else ():
                for where, given in _given(value, path):
                    why = why_not(predicate, given)
                    if why is not None:
                        return f"Argument {where}: {why}."
        return None


@dataclass(frozen=True, slots=True)
class _Lists:
    allow: tuple[str, ...] | None
    deny: tuple[str, ...]
    hint: str

    @classmethod
    def of(cls, rule: Rule, whose: str) -> _Lists:
        if isinstance(rule, Mapping):
            unknown = sorted(set(rule) - {"allow", "deny"})
            if unknown:
                raise UsageError(f"The tools of {whose}: no {unknown}; there are allow and deny.")
            return cls.read(rule.get("allow"), rule.get("deny", ()), whose)
        return cls.read(rule, (), whose)

    @classmethod
    def read(cls, allow: Names | None, deny: Names, whose: str) -> _Lists:
        for names in (allow, deny):
            if isinstance(names, str) or not all(isinstance(one, str) for one in names or ()):
                raise UsageError(f"The tools of {whose} are a list of names, not {names!r}.")
        hint = f" Allowed are: {', '.join(sorted(allow))}." if allow else ""
        allowed = None if allow is None else tuple(map(_plain, allow))
        return cls(allowed, tuple(map(_plain, deny)), hint)

    def pass_(self, tool: str, *, built_in: bool) -> bool:
        if any(fnmatch.fnmatchcase(tool, one) for one in self.deny):
            return False
        return (
            self.allow is None
            or built_in
            or any(fnmatch.fnmatchcase(tool, one) for one in self.allow)
        )


def _plain(name: str) -> str:
    """A name as models are shown it, more or less: what is told apart here, CrewAI tells apart."""
    return _BETWEEN.sub("_", unicodedata.normalize("NFKC", name).casefold()).strip("_")


def _argument_rules(
    arguments: Mapping[str, Mapping[str, Rules]],
) -> dict[str, list[tuple[tuple[str, ...], Predicate]]]:
    checked: dict[str, list[tuple[tuple[str, ...], Predicate]]] = {}
    for tool, rules in arguments.items():
        for path, given in rules.items():
            for one in given if isinstance(given, (list, tuple)) else (given,):
                if not callable(one):
                    raise UsageError(f"Argument {path!r} of tool {tool!r}: {one!r} is no function.")
                names = tuple(map(_name, path.split(".")))
                checked.setdefault(_plain(tool), []).append((names, one))
    return checked


def _name(name: Any) -> str:
    return re.sub(r"[\W_]", "", unicodedata.normalize("NFKC", str(name)).casefold())


def _given(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The values that a rule speaks of, with where each stands."""
    if len(path) > 1:
        yield from _at(value, path, "")
    else:
        yield from _anywhere(value, path[0], "", DEEPEST)


def _at(value: Any, path: tuple[str, ...], where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _at(item, path, f"{where}[{number}]")
    elif not path:
        yield from _leaves(value, where)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if path[0] in (_name(key), ""):
                yield from _at(item, path[1:], f"{where}.{key}".lstrip("."))
    elif isinstance(value, str) and (tree := as_tree(value)) is not None:
        yield from _at(tree, path, where)


def _anywhere(value: Any, name: str, where: str, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, str) and depth > 0:
        tree = as_tree(value)
        if tree is not None:
            yield from _anywhere(tree, name, where, depth - 1)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            place = f"{where}.{key}".lstrip(".")
            if _name(key) == name:
                yield from _leaves(item, place)
            else:
                yield from _anywhere(item, name, place, depth - 1)
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _anywhere(item, name, f"{where}[{number}]", depth - 1)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{where}.{key}")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, item in enumerate(value):
            yield from _leaves(item, f"{where}[{number}]")
    else:
        yield where, value
