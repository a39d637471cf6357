"""`tool`: what it takes, what it gives, and what travels with it."""

from __future__ import annotations

import asyncio
import copy
import warnings
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from crewai.tools import BaseTool
from crewai.tools import tool as crewais_tool
from crewai.tools.base_tool import Tool
from pydantic import BaseModel
from typing_extensions import TypedDict

from crewai_prod import Retry, errors, tool
from crewai_prod._crewai.takeover import Seamed, take_over
from crewai_prod._crewai.typed import declared_options
from crewai_prod.tooling import ToolOptions


class Receipt(BaseModel):
    """What was paid."""

    amount: int
    on: date


class Row(TypedDict):
    """A row."""

    amount: int


@dataclass
class Point:
    """A dataclass."""

    x: int


class Mail(BaseTool):
    """A tool with a state of its own, whose `run` does the work."""

    name: str = "Send mail"
    description: str = "Send it."
    sent: list[str] = []  # noqa: RUF012

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Note it, then do as every tool does."""
        self.sent.append("run")
        return super().run(*args, **kwargs)

    def _run(self, to: str, copies: int = 1) -> str:
        self.sent.append(f"{to} {copies}")
        return f"sent to {to}"


def test_three_forms_are_crewais() -> None:
    """Changing the import is enough."""

    @tool
    def plain(a: int) -> str:
        """Plain."""
        return f"plain {a}"

    @tool("My Name")
    def named(a: int) -> str:
        """Named."""
        return f"named {a}"

    @tool(result_as_answer=True, max_usage_count=2, result_schema=Receipt)
    def optioned(a: int) -> Any:
        """Optioned."""
        return {"amount": a, "on": "2026-01-31"}

    made = (plain, named, optioned)
    assert all(isinstance(one, Tool) for one in made)
    assert [one.name for one in made] == ["plain", "My Name", "optioned"]
    assert [one.description.rpartition("Description: ")[2] for one in made] == [
        "Plain.",
        "Named.",
        "Optioned.",
    ]
    assert (optioned.result_as_answer, optioned.max_usage_count) == (True, 2)
    assert (plain.run(a=1), plain.run(1), named.run(a=2)) == ("plain 1", "plain 1", "named 2")
    assert optioned.run(a=3) == {"amount": 3, "on": "2026-01-31"}
    assert optioned.format_output_for_agent({"amount": 3, "on": "2026-01-31"}) == (
        '{"amount":3,"on":"2026-01-31"}'
    )


def test_every_option_travels() -> None:
    """Through copies, bindings, structured tools and what a run takes over."""
    options: dict[str, Any] = {
        "effect": "write",
        "idempotent": True,
        "reconcile": lambda arguments, key: None,
        "required": True,
        "timeout": 3.0,
        "retry": Retry(attempts=2),
        "max_calls": 4,
        "max_output": 50,
        "sensitive": frozenset({"to"}),
        "result_schema": str,
        "strict": False,
    }

    @tool(**options)
    def mail(to: str) -> str:
        """Mail."""
        return to

    wanted = ToolOptions(**options)
    for made in (mail, tool(Mail(), **options)):
        taken = take_over(made, Seamed, None)
        for one in (made, copy.copy(made), made.model_copy(), taken):
            assert declared_options(one) == wanted
        assert declared_options(made.to_structured_tool()._original_tool) == wanted
    assert declared_options(Mail()) is None


def test_existing_tool_keeps_its_class_and_its_state() -> None:
    """A copy is declared; what it does it does to the object it was made of."""
    mail = Mail(sent=[])
    made = tool(mail, effect="write")
    assert isinstance(made, Mail)
    assert made.tool_type == mail.tool_type
    assert made.run(to="ann", copies=None) == "sent to ann"
    assert mail.sent == ["run", "ann 1"]
    assert declared_options(mail) is None
    with pytest.raises(errors.ToolInputInvalid, match='copies: expected integer, got "2"'):
        made.run(to="ann", copies="2")
    assert len(mail.sent) == 2


def test_declaration_can_be_added_to() -> None:
    """A second declaration goes over the first one, option by option."""
    first = tool(Mail(), effect="write", required=True)
    second = tool(first, max_calls=2, effect="read")
    options = declared_options(second)
    assert options is not None
    assert (options.effect, options.required, options.max_calls) == ("read", True, 2)
    assert declared_options(first) == ToolOptions(effect="write", required=True)


def test_name_and_crewais_options_of_a_copy() -> None:
    """They are the copy's."""
    mail = Mail()
    made = tool("Post")(mail)
    limited = tool(mail, max_usage_count=1)
    assert (made.name, mail.name) == ("Post", "Send mail")
    assert (limited.max_usage_count, mail.max_usage_count) == (1, None)


def test_methods_and_coroutines_are_tools() -> None:
    """Bound where they are decorated or later; asynchronous ones on every way in."""

    class Shop:
        def __init__(self, name: str) -> None:
            self.name = name

        @tool(effect="read")
        def sell(self, what: str) -> str:
            """Sell."""
            return f"{self.name} sells {what}"

        async def buy(self, what: str) -> str:
            """Buy."""
            return f"{self.name} buys {what}"

    a, b = Shop("a"), Shop("b")
    assert (a.sell.run(what="x"), b.sell.run(what="y")) == ("a sells x", "b sells y")
    assert declared_options(a.sell) == ToolOptions(effect="read")
    buy = tool(a.buy)
    assert buy.run(what="x") == asyncio.run(buy.arun(what="x")) == "a buys x"
    structured = buy.to_structured_tool()
    assert structured.invoke({"what": "x"}) == "a buys x"
    assert asyncio.run(structured.ainvoke({"what": "x"})) == "a buys x"


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "text"),
    [
        (int, 5, "5", "5"),
        (str, "x", 5, "x"),
        (bool, True, 1, "True"),
        (None, None, "x", "None"),
        (date, date(2026, 1, 31), "2026-01-31", "2026-01-31"),
        (Receipt, Receipt(amount=1, on=date(2026, 1, 31)), "x", '{"amount":1,"on":"2026-01-31"}'),
        (
            list[Receipt],
            [{"amount": 1, "on": "2026-01-31"}],
            [{}],
            '[{"amount":1,"on":"2026-01-31"}]',
        ),
        (Row, {"amount": 1}, {"amount": "1"}, '{"amount":1}'),
        (Point, Point(1), Row(amount=1), '{"x":1}'),
        (dict[str, int], {"é": 1}, {"a": 0.5}, '{"é":1}'),
        (tuple[int, ...], (1, 2), ("1",), "[1,2]"),
        (int | str, "x", 0.5, "x"),
        (Mail, Mail(), "x", None),
    ],
    ids=str,
)
def test_results_are_what_is_annotated(kind: Any, right: Any, wrong: Any, text: str | None) -> None:
    """A misfit is an error and never text; what fits is told in few characters."""

    def give(wrongly: bool):  # type: ignore[no-untyped-def]
        """Give."""
        return wrong if wrongly else right

    give.__annotations__ = {"wrongly": bool, "return": kind}
    made = tool(give)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert made.run(wrongly=False) is right
        assert text is None or made.format_output_for_agent(right) == text
        with pytest.raises(errors.ToolOutputInvalid, match="'give' did its work"):
            made.run(wrongly=True)
    assert made.to_structured_tool().invoke({"wrongly": True}) != wrong


def test_result_schema_goes_before_the_annotation() -> None:
    """Also as a JSON schema; without either nothing is checked."""

    @tool(
        result_schema={
            "type": "object",
            "properties": {"a": {"type": "integer"}},
            "required": ["a"],
        }
    )
    def give(a: str) -> str:
        """Give."""
        return {"a": a}  # type: ignore[return-value]

    @tool
    def free(a: str):  # type: ignore[no-untyped-def]
        """Give."""
        return {"a": a}

    with pytest.raises(errors.ToolOutputInvalid, match="a: expected integer"):
        give.run(a="x")
    assert free.run(a="x") == {"a": "x"}
    assert free.format_output_for_agent({"a": "x"}) == "{'a': 'x'}"


def test_lenient_result_is_coerced_where_it_can_be() -> None:
    """`strict=False` is about what a tool returns, too."""

    @tool(strict=False)
    def give(a: str) -> int:
        """Give."""
        return a  # type: ignore[return-value]

    assert give.run(a="5") == "5"
    with pytest.raises(errors.ToolOutputInvalid):
        give.run(a="x")


class OpenTool(BaseTool):
    """As an MCP server's tool without a schema: takes whatever there is."""

    name: str = "open"
    description: str = "Take it."

    def _run(self, **kwargs: Any) -> str:
        return str(sorted(kwargs))


def test_tool_without_a_schema_takes_what_it_is_given() -> None:
    """Nothing is known of its arguments, so nothing is refused."""
    assert tool(OpenTool(), effect="read").run(a=1, b=2) == "['a', 'b']"


class Foreign:
    """What `langchain_core.tools.StructuredTool` shows; LangChain itself is not installed."""

    name = "search"
    description = "Search."

    def __init__(self, args_schema: Any) -> None:
        self.args_schema = args_schema

    def invoke(self, input: dict[str, Any], config: Any = None, **kwargs: Any) -> Any:
        """Do it."""
        return f"found {input}"

    async def ainvoke(self, input: dict[str, Any], config: Any = None, **kwargs: Any) -> Any:
        """Do it."""
        return f"awaited {input}"


class Query(BaseModel):
    """Arguments."""

    text: str
    limit: int = 5


@pytest.mark.parametrize(
    "schema",
    [Query, Query.model_json_schema(), type("Old", (), {"schema": Query.model_json_schema})],
    ids=["model", "json", "pydantic 1"],
)
def test_langchains_tools_are_tools(schema: Any) -> None:
    """Their arguments are described in three ways; all are read strictly."""
    made = tool(Foreign(schema), effect="read")
    assert isinstance(made, BaseTool)
    assert made.run(text="x", limit=None) == "found {'text': 'x'}"
    assert asyncio.run(made.arun(text="x")) == "awaited {'text': 'x'}"
    with pytest.raises(errors.ToolInputInvalid, match="limit: expected integer"):
        made.run(text="x", limit="5")


def test_wrong_declarations_are_refused_at_once() -> None:
    """Where the tool is defined, and in words that say what to do."""

    def undocumented(a: int) -> int:
        return a

    def fine(a: int) -> int:
        """Fine."""
        return a

    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (undocumented, {}, "no docstring"),
        (fine, {"sensitive": ["b"]}, r"no arguments \['b'\]"),
        (fine, {"sensitive": "a"}, "collection of names"),
        (fine, {"effect": "wrote"}, "'wrote'"),
        (fine, {"speed": 3}, "unknown options"),
        (5, {}, "no name"),
        (Foreign(None), {}, "args_schema"),
    ]
    for target, options, text in wrong:
        with pytest.raises(errors.UsageError, match=text):
            tool(target, **options)


def test_copied_tool_of_crewais_decorator() -> None:
    """A function that CrewAI made a tool of is called as CrewAI calls it."""

    @crewais_tool
    def pay(amount: int, note: str = "x") -> str:
        """Pay."""
        return f"{amount} {note}"

    made = tool(pay, effect="write")
    assert isinstance(made, Tool)
    assert made.run(amount=5) == "5 x"
    with pytest.raises(errors.ToolInputInvalid, match="amount: expected integer"):
        made.run(amount="5")


def test_error_says_which_tool_and_what() -> None:
    """Facts are in fields, for those who catch it."""

    @tool
    def pay(amount: int) -> str:
        """Pay."""
        return "paid"

    with pytest.raises(errors.ToolInputInvalid) as caught:
        pay.run(amount="five")
    assert caught.value.fields == {
        "tool": "pay",
        "misfits": [{"field": "amount", "expected": "integer", "got": '"five"'}],
        "corrections_left": 3,
    }
    assert caught.value.__cause__ is None
