"""Tools whose arguments and results have types that hold, on both of CrewAI's tool paths.

CrewAI reads arguments before a tool's body sees them: the native path in `_validate_kwargs`, the
text path in a `CrewStructuredTool`. Both coerce, drop what they do not know and hand nested models
on as mappings. Here both hand on what the model gave, and it is read once, where the paths meet: in
`_run`. In a hardened run that is behind the seam, so that a refused call is recorded like any call
that failed.

A refused call has done nothing. It is no use of the tool (`max_usage_count`), and on the text path,
where CrewAI repeats what raises, it is told and not raised.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

from crewai.tools.base_tool import BaseTool, Tool
from crewai.tools.structured_tool import CrewStructuredTool
from crewai.utilities.string_utils import sanitize_tool_name
from pydantic import PrivateAttr

from crewai_prod._crewai.private import found_at_once
from crewai_prod._crewai.stop import is_tool_failure, refused_input
from crewai_prod._crewai.takeover import front_class, put
from crewai_prod.arguments import Arguments, Signature, Unfit, closed_model, read_arguments
from crewai_prod.bodies import current_scope
from crewai_prod.corrections import Corrections
from crewai_prod.errors import ToolInputInvalid, ToolOutputInvalid, UsageError
from crewai_prod.misfits import Misfit, told
from crewai_prod.results import Results
from crewai_prod.tooling import ToolOptions

_COMPOSED = re.compile(r"^Tool Name:.*\nTool Arguments:.*\nTool Description:\s*", re.DOTALL)
"""What older releases of CrewAI put in front of a tool's own description."""

MISFIT = (ToolInputInvalid, ToolOutputInvalid)
"""What a typed tool raises. On the text path it is told, not raised: see `TypedStructuredTool`."""


class Work(Protocol):
    """What does a tool's work."""

    def call(self, read: Arguments | None, given: Mapping[str, Any]) -> Any:
        """Do it; `read` is None if nothing is known of the arguments."""

    def acall(self, read: Arguments | None, given: Mapping[str, Any]) -> Awaitable[Any]:
        """Do it asynchronously."""


@dataclass(slots=True)
class Declared:
    """What a tool is, besides what CrewAI knows of it.

    Attributes:
        options: What was declared.
        inputs: The model of its arguments; None: nothing is known of them.
        results: What it returns; None: nothing is known.
        work: What does its work.
        corrections: How often it was given wrong arguments.
    """

    options: ToolOptions
    inputs: type[Arguments] | None
    results: Results | None
    work: Work
    corrections: Corrections = field(default_factory=Corrections)


@dataclass(frozen=True, slots=True)
class Reading:
    """The arguments of one call as they were read, to make its first try with.

    A further one reads them anew: what does the work may have changed them.

    Attributes:
        given: By name, as the model gave them.
        read: What they are.
    """

    given: dict[str, Any]
    read: Arguments


class Typed:
    """A tool with a declaration, in front of one of CrewAI's classes of tools."""

    _declared: Declared

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The native path; a refused call is not counted."""
        try:
            return BaseTool.run(self, *args, **kwargs)  # type: ignore[arg-type]
        except ToolInputInvalid:
            not_counted(self)
            raise

    async def arun(self, *args: Any, **kwargs: Any) -> Any:
        """The asynchronous twin of `run`."""
        try:
            return await BaseTool.arun(self, *args, **kwargs)  # type: ignore[arg-type]
        except ToolInputInvalid:
            not_counted(self)
            raise

    def _validate_kwargs(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Later, in `_run`."""
        return kwargs

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        return self._worked(*self._read(args, kwargs))

    async def _arun(self, *args: Any, **kwargs: Any) -> Any:
        given, read = self._read(args, kwargs)
        return self._checked(await self._declared.work.acall(read, given))

    def begin(self, reading: Reading) -> Any:
        """`_run` with what was read before.

        Raises:
            ToolInputInvalid: Too many arguments did not fit before.
        """
        self._accept()
        return self._worked(reading.given, reading.read)

    async def abegin(self, reading: Reading) -> Any:
        """The asynchronous twin of `begin`."""
        self._accept()
        return self._checked(await self._declared.work.acall(reading.read, reading.given))

    def _worked(self, given: dict[str, Any], read: Arguments | None) -> Any:
        result = self._declared.work.call(read, given)
        return self._later(result) if inspect.isawaitable(result) else self._checked(result)

    async def _later(self, result: Awaitable[Any]) -> Any:
        return self._checked(await result)

    def _read(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], Arguments | None]:
        """The arguments by name, and read.

        Raises:
            ToolInputInvalid: They do not fit, or too many did not fit before.
        """
        declared, where = self._declared, _here()
        if declared.inputs is None:
            return kwargs, None
        given = _by_name(declared.inputs, args, kwargs)
        self._refuse_if_spent(where)
        options = declared.options
        try:
            read = read_arguments(
                declared.inputs, given, strict=options.strict, hidden=options.sensitive
            )
        except Unfit as error:
            left = declared.corrections.refuse(where)
            raise self._refusal(error.misfits, left) from None  # its cause would show secrets
        declared.corrections.accept(where)
        return given, read

    def _accept(self) -> None:
        if self._declared.corrections.any:
            where = _here()
            self._refuse_if_spent(where)
            self._declared.corrections.accept(where)

    def _refuse_if_spent(self, where: Hashable) -> None:
        if self._declared.corrections.spent(where):
            raise self._refusal([], 0)

    def _refusal(self, misfits: list[Misfit], left: int) -> ToolInputInvalid:
        then = (
            "Mend this and call it again."
            if left
            else f"Its arguments were wrong {self._declared.corrections.limit + 1} times in a row: "
            "do not call it again for this task."
        )
        name = sanitize_tool_name(self.name)  # type: ignore[attr-defined]
        text = " ".join(filter(None, (f"Tool {name!r} was not called.", told(misfits), then)))
        return ToolInputInvalid(text, tool=name, misfits=_facts(misfits), corrections_left=left)

    def _checked(self, result: Any) -> Any:
        """The result, if it is what the tool says it returns.

        Raises:
            ToolOutputInvalid: It is not.
        """
        results = self._declared.results
        if results is None or is_tool_failure(result):
            return result
        misfits = results.misfits(result)
        if misfits:
            name = sanitize_tool_name(self.name)  # type: ignore[attr-defined]
            text = f"Tool {name!r} did its work, but returned something else than it says."
            raise ToolOutputInvalid(f"{text} {told(misfits)}", tool=name, misfits=_facts(misfits))
        return result

    def format_output_for_agent(self, raw_result: Any) -> str:
        """What the model reads of a result."""
        if self._declared.results is not None and not is_tool_failure(raw_result):
            return self._declared.results.say(raw_result)
        shown: str = super().format_output_for_agent(raw_result)  # type: ignore[misc]
        return shown

    def to_structured_tool(self) -> CrewStructuredTool:
        """As the text path wants it, for the next task."""
        declared = self._declared
        declared.corrections.accept(None)
        if declared.inputs is not None:
            declared.inputs.show_once()
        made: CrewStructuredTool = super().to_structured_tool()  # type: ignore[misc]
        made.__class__ = TypedStructuredTool
        private = made.__pydantic_private__
        assert private is not None
        private["_counted"] = False
        return made


class TypedStructuredTool(CrewStructuredTool):
    """A typed tool on the text path."""

    _counted: bool = PrivateAttr(default=False)
    """Whether CrewAI is not to count the call that it has just made."""

    def _parse_args(self, raw_args: Any) -> dict[str, Any]:
        """Read where the paths meet."""
        return raw_args if isinstance(raw_args, dict) else super()._parse_args(raw_args)

    def invoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        """Call the tool; that it refused, or returned something else, is told."""
        self._counted = False
        try:
            return super().invoke(input, config, **kwargs)
        except MISFIT as error:
            return self._tell(error)

    async def ainvoke(self, input: Any, config: Any = None, **kwargs: Any) -> Any:
        """The asynchronous twin of `invoke`, which also awaits what the tool gives it to await."""
        self._counted = False
        try:
            result = await super().ainvoke(input, config, **kwargs)
            return await result if inspect.isawaitable(result) else result
        except MISFIT as error:
            return self._tell(error)

    def _tell(self, error: ToolInputInvalid | ToolOutputInvalid) -> Any:
        if isinstance(error, ToolInputInvalid):
            self._counted = True
            self.current_usage_count -= 1
            self._original_tool.current_usage_count = self.current_usage_count
        return refused_input(error)

    def _increment_usage_count(self) -> None:
        if self._counted:
            self._counted = False
            return
        super()._increment_usage_count()


def not_counted(tool: Any) -> None:
    """CrewAI counts a call before it is made; take that of one that was refused back."""
    if isinstance(tool, Typed):
        with tool._usage_lock:  # type: ignore[attr-defined]
            tool.current_usage_count -= 1  # type: ignore[attr-defined]


def _here() -> Hashable:
    """The task that calls; None outside of runs, where a tool is told when one begins."""
    within = current_scope.get()
    if within is None:
        return None
    run, scope = within
    return run.run_id, scope.path.rpartition("/")[0]


def _by_name(
    inputs: type[Arguments], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    names = inputs.meaning_.names
    if len(args) > len(names) or any(name in kwargs for name in names[: len(args)]):
        raise TypeError(f"takes {list(names)}; got {len(args)} by position, and {sorted(kwargs)}")
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _facts(misfits: list[Misfit]) -> list[dict[str, str | None]]:
    return [{"field": m.field, "expected": m.expected, "got": m.got} for m in misfits]


# -- what can be declared -------------------------------------------------------------------------


@found_at_once
class FunctionTool(Typed, Tool):  # type: ignore[type-arg]
    """A function as a tool."""

    _declared: Declared = PrivateAttr()
    _belongs: bool = PrivateAttr(default=False)
    """Whether it is a method that has not been bound to its object yet."""

    def __get__(self, owner: Any, kind: type | None = None) -> FunctionTool:
        """As an attribute of an object: the method of that object."""
        if owner is None or not self._belongs:
            return self
        bound = copy.copy(self)
        work = bound._declared.work
        assert isinstance(work, FunctionWork)
        func = work.func.__get__(owner, kind)
        bound._belongs = False
        bound._declared = replace(
            self._declared, work=replace(work, func=func), corrections=Corrections()
        )
        put(bound, func=func)
        return bound


@found_at_once
class ForeignTool(Typed, BaseTool):
    """A tool of LangChain, or one that looks like it."""

    _declared: Declared = PrivateAttr()


@dataclass(frozen=True, slots=True)
class FunctionWork:
    """A function, called as it is annotated: with models, dates and enums, not with mappings."""

    func: Any
    signature: Signature

    def call(self, read: Arguments | None, given: Mapping[str, Any]) -> Any:
        """Its own defaults are its own."""
        assert read is not None
        positional, named = self.signature.unpack(read)
        return self.func(*positional, **named)

    async def acall(self, read: Arguments | None, given: Mapping[str, Any]) -> Any:
        """One that is not asynchronous is called all the same."""
        result = self.call(read, given)
        return await result if inspect.isawaitable(result) else result


@dataclass(frozen=True, slots=True)
class ToolWork:
    """A tool of CrewAI, called as CrewAI calls it: with everything as plain values."""

    tool: BaseTool

    def call(self, read: Arguments | None, given: Mapping[str, Any]) -> Any:
        """Its own method does it, so that what it keeps on itself stays with it."""
        return body_of(self.tool)(**_dumped(read, given))

    async def acall(self, read: Arguments | None, given: Mapping[str, Any]) -> Any:
        """As `call`."""
        return await self.tool._arun(**_dumped(read, given))


@dataclass(frozen=True, slots=True)
class ForeignWork:
    """A tool that is invoked with one mapping, which it reads itself."""

    tool: Any

    def call(self, read: Arguments | None, given: Mapping[str, Any]) -> Any:
        """With what the model gave."""
        return self.tool.invoke(_said(read, given))

    async def acall(self, read: Arguments | None, given: Mapping[str, Any]) -> Any:
        """As `call`."""
        return await self.tool.ainvoke(_said(read, given))


def _dumped(read: Arguments | None, given: Mapping[str, Any]) -> dict[str, Any]:
    return dict(given) if read is None else read.model_dump()


def _said(read: Arguments | None, given: Mapping[str, Any]) -> dict[str, Any]:
    if read is None:
        return dict(given)
    return read.model_dump(by_alias=True, exclude_unset=True)


def body_of(tool: BaseTool) -> Callable[..., Any]:
    """The method that does the work, on the user's own object.

    A class that overrides `run` itself (other than CrewAI's `Tool` and ours) does its work there.
    """
    return tool._run if type(tool).run in (BaseTool.run, Tool.run, Typed.run) else tool.run


def declared_options(tool: Any) -> ToolOptions | None:
    """What was declared with the tool itself, secrets among its arguments included."""
    if not isinstance(tool, Typed):
        return None
    declared = tool._declared
    secret = declared.inputs.meaning_.hidden if declared.inputs is not None else frozenset()
    return replace(declared.options, sensitive=declared.options.sensitive | secret)


def arguments_of(
    tool: BaseTool, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Reading | None]:
    """What a call means: its validated arguments, defaults included; as they are if they are wrong.

    A tool that is declared from one session to the next is called with the same.

    Returns:
        That, and how they were read; None: they were not, or they are wrong.
    """
    raw = {**kwargs, "*": list(args)} if args else kwargs
    declared = tool._declared if isinstance(tool, Typed) else None
    if declared is None or declared.inputs is None:
        return raw, None
    inputs = declared.inputs
    try:
        given = _by_name(inputs, args, kwargs)
        read = read_arguments(inputs, given, strict=declared.options.strict)
    except (Unfit, TypeError):
        return raw, None
    meant = read.model_dump(by_alias=isinstance(declared.work, FunctionWork))
    return meant, Reading(given, read)


def as_declared(tool: BaseTool, options: ToolOptions, *, keep: bool = False) -> BaseTool:
    """The tool with these options: a copy, whose work the user's own object does.

    Args:
        tool: Any tool of CrewAI.
        options: What is declared about it.
        keep: Whether a model is told of it in the same words as before.

    Raises:
        UsageError: Its arguments cannot be described to a model, or an option does not fit it.
    """
    if isinstance(tool, Typed):
        return _changed(tool, options)
    name = sanitize_tool_name(tool.name)
    inputs = _inputs(tool, name, keep=keep)
    kind = options.result_schema or tool.result_schema
    results = None if kind is None else Results(kind, name, strict=options.strict)
    declared = Declared(options, inputs, results, ToolWork(tool))
    check_options(declared, name)
    made = _in_front(tool, declared)
    if inputs is not None:
        put(made, args_schema=inputs)
    if not keep and _COMPOSED.match(tool.description):
        put(made, description=_COMPOSED.sub("", tool.description))
        made._generate_description()
    return cast(BaseTool, made)


def doing_within(tool: BaseTool, worker: Callable[[BaseTool], BaseTool]) -> BaseTool:
    """The tool whose work is done by what `worker` makes of the one that does it now."""
    if not isinstance(tool, Typed):
        return worker(tool)
    work = tool._declared.work
    if not isinstance(work, ToolWork):
        return tool
    doing = worker(work.tool)
    return (
        tool if doing is work.tool else _with(tool, replace(tool._declared, work=ToolWork(doing)))
    )


def check_options(declared: Declared, tool: str) -> None:
    """Refuse options that name what the tool does not have.

    Raises:
        UsageError: An argument named in `sensitive` does not exist: what it means would be shown.
    """
    if declared.inputs is None:
        return
    names = {info.alias or name for name, info in declared.inputs.model_fields.items()}
    wrong = sorted(declared.options.sensitive - names - declared.inputs.meaning_.hidden)
    if wrong:
        raise UsageError(
            f"Tool {tool!r} has no arguments {wrong}, which are declared sensitive; there are "
            f"{sorted(names)}."
        )


def _changed(tool: Any, options: ToolOptions) -> BaseTool:
    before: Declared = tool._declared
    name = sanitize_tool_name(tool.name)
    kind = options.result_schema or (before.results and before.results.kind)
    results = None if kind is None else Results(kind, name, strict=options.strict)
    declared = replace(before, options=options, results=results, corrections=Corrections())
    check_options(declared, name)
    return _with(tool, declared)


def _with(tool: Any, declared: Declared) -> BaseTool:
    made: Any = copy.copy(tool)
    made._declared = declared
    return made  # type: ignore[no-any-return]


def _in_front(tool: BaseTool, declared: Declared) -> Any:
    """A copy of the tool, built without its constructor, under a class that reads arguments."""
    kind = front_class(_WrappedTool, type(tool), {"_declared": PrivateAttr()})
    made: Any = object.__new__(kind)
    object.__setattr__(made, "__dict__", dict(tool.__dict__))
    object.__setattr__(made, "__pydantic_fields_set__", set(tool.__pydantic_fields_set__))
    object.__setattr__(made, "__pydantic_extra__", copy.copy(tool.__pydantic_extra__))
    private = {**(tool.__pydantic_private__ or {}), "_declared": declared}
    object.__setattr__(made, "__pydantic_private__", private)
    return made


class _WrappedTool(Typed):
    """In front of a tool of the user's."""

    @property
    def tool_type(self) -> str:
        """The original's: CrewAI shows it to models, and finds classes by it."""
        work = self._declared.work
        kind = type(work.tool) if isinstance(work, ToolWork) else type(self)
        return f"{kind.__module__}.{kind.__qualname__}"


def _inputs(tool: BaseTool, name: str, *, keep: bool) -> type[Arguments] | None:
    """The model of its arguments; None if it takes whatever it is given."""
    schema = tool.args_schema
    if not schema.model_fields:
        takes = inspect.signature(tool._run).parameters.values()
        if any(one.kind is one.VAR_KEYWORD for one in takes):
            return None
    func = inspect.unwrap(getattr(tool, "func", None) or tool._run)
    return closed_model(schema, name, getattr(func, "__globals__", None), keep=keep)
