"""What a function takes, as a pydantic model whose schema a model is shown, and read strictly.

Arguments arrive as JSON: a date, a UUID or a path is a string there, and is taken as one; a number
in quotes is not a number. Whatever the schema does not know is refused, at any depth: dropped, it
would be something that the model meant and the tool never heard of.
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Collection, KeysView, Mapping
from dataclasses import dataclass, field
from types import new_class
from typing import Any, ClassVar, get_args, get_type_hints

import orjson
from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, ValidationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import SchemaError

from crewai_prod.docstrings import Told, read_docstring
from crewai_prod.errors import UsageError
from crewai_prod.misfits import Misfit, misfits_of, unknown_at
from crewai_prod.schemas import fit, fitting_names, hidden_names, strict_schema


class _Schema(GenerateJsonSchema):
    """Without warnings about defaults that JSON cannot say: the function knows them."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012


@dataclass(frozen=True, slots=True)
class Meaning:
    """The schemas of a model of arguments.

    Attributes:
        schema: As pydantic means it.
        shown: As a model is shown it.
        hidden: Names, at any depth, whose values are secrets.
        names: Of the arguments, in their order.
        fitting: Those of which a single value is as it should be, whatever it is.
        kept: The model whose schema is shown instead.
    """

    schema: Mapping[str, Any]
    shown: Mapping[str, Any]
    hidden: frozenset[str]
    names: tuple[str, ...]
    fitting: frozenset[str]
    kept: type[BaseModel] | None = None


class _AnyName(KeysView[str]):
    def __contains__(self, name: object) -> bool:
        return True


class Properties(dict[str, Any]):
    """The properties of a schema; whoever asks whether a name is among them is told that it is.

    CrewAI's text path drops the arguments whose names are not among `properties.keys()` before it
    validates. Nothing is dropped so, and what there is too much of is refused.
    """

    def keys(self) -> Any:
        """The names, and any other."""
        return _AnyName(self)


class Arguments(BaseModel):
    """What a tool takes; the base of the models made here."""

    model_config = ConfigDict(arbitrary_types_allowed=True, protected_namespaces=())
    meaning_: ClassVar[Meaning]
    said_: ClassVar[dict[Any, bytes] | None] = None

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The strict schema, whatever form is asked for; or the one that was always shown."""
        shown = cls._shown(args, kwargs)
        return {**shown, "properties": Properties(shown.get("properties", {}))}

    @classmethod
    def show_once(cls) -> None:
        """A task begins that asks for the schema in each call: it is made once for all of them.

        Making it takes pydantic longer than a short call of a tool takes in all. Whoever never
        calls this gets a new one each time: a user's model may say something else tomorrow.
        """
        cls.said_ = {}

    @classmethod
    def _shown(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        kept, asked = cls.meaning_.kept, (args, *kwargs.items())
        if kept is None:
            return copy.deepcopy(dict(cls.meaning_.shown))
        try:
            said = None if cls.said_ is None else cls.said_.get(asked)
        except TypeError:  # asked for in a way that cannot be compared
            return kept.model_json_schema(*args, **kwargs)
        if said is not None:
            known: dict[str, Any] = orjson.loads(said)
            return known
        shown = kept.model_json_schema(*args, **kwargs)
        faithful = _faithful(shown)
        if cls.said_ is not None and faithful is not None:
            cls.said_[asked] = faithful
        return shown

    @classmethod
    def understand(
        cls,
        tool: str,
        kept: type[BaseModel] | None = None,
        meant: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the schemas.

        Args:
            tool: The tool's name.
            kept: The model whose schema a model is to be shown as before.
            meant: The schema that this model was made of; pydantic's own is wider.

        Raises:
            UsageError: A type of an argument cannot be said in JSON.
        """
        try:
            schema = meant or super().model_json_schema(schema_generator=_Schema)
            shown = strict_schema(schema) if kept is None else {}
        except (PydanticInvalidForJsonSchema, PydanticUserError, ValueError) as error:
            raise UsageError(
                f"Tool {tool!r}: a model cannot be told what to give for its arguments: "
                f"{str(error).splitlines()[0]}"
            ) from error
        names = tuple(info.alias or name for name, info in cls.model_fields.items())
        hidden, fitting = hidden_names(schema), fitting_names(schema)
        cls.meaning_ = Meaning(schema, shown, hidden, names, fitting, kept)


class Unfit(Exception):
    """Arguments that do not fit.

    Attributes:
        misfits: What is wrong with them.
    """

    def __init__(self, misfits: list[Misfit]) -> None:
        super().__init__("The arguments do not fit.")
        self.misfits = misfits


def read_arguments(
    kind: type[Arguments], given: Mapping[str, Any], *, strict: bool, hidden: Collection[str] = ()
) -> Arguments:
    """Validate arguments: JSON values as JSON, Python objects as what they are.

    Raises:
        Unfit: Something is missing, too much, or of another type.
    """
    meaning, mode = kind.meaning_, True if strict else None
    value: Any = dict(given)
    try:
        found: list[Misfit] = []
        single = value.keys() <= meaning.fitting and {*map(type, value.values())} <= _SINGLE
        if not single:
            if not is_json(value):
                return kind.model_validate(value, strict=mode)
            value, unknown = fit(value, meaning.schema)
            found += unknown_at(unknown)
        try:
            read = kind.model_validate_json(_json(value), strict=mode)
        except ValidationError as error:
            found += misfits_of(_errors(error), value, meaning.hidden.union(hidden))
    except ValidationError as error:
        found = misfits_of(_errors(error), value, meaning.hidden.union(hidden))
    except RecursionError:
        found = [Misfit((), "values that are not nested as deep", "an object")]
    if found:
        raise Unfit(list({misfit.place: misfit for misfit in reversed(found)}.values())[::-1])
    return read


def is_json(value: Any) -> bool:
    """Whether this is what `json.loads` could have given."""
    kind = type(value)
    if kind in _LEAVES:
        return True
    if kind is list:
        return all(map(is_json, value))
    if kind is dict:
        return {*map(type, value)} <= _TEXT and all(map(is_json, value.values()))
    return False


_SINGLE = frozenset({str, int, float, bool})
_LEAVES = _SINGLE | {type(None)}
_TEXT = frozenset({str})


def _json(value: Any) -> bytes | str:
    """JSON, also of what only Python's own writer takes for it: NaN, long numbers."""
    try:
        said = orjson.dumps(value)
    except TypeError:
        return json.dumps(value)
    return json.dumps(value) if b"null" in said else said  # perhaps it was NaN


def _faithful(schema: dict[str, Any]) -> bytes | None:
    """JSON of a schema that is the same when it is read; None: there is none."""
    try:
        said = orjson.dumps(schema)
    except (TypeError, ValueError, RecursionError):
        return None
    return said if orjson.loads(said) == schema else None


def _errors(error: ValidationError) -> Any:
    return error.errors(include_url=False, include_input=False)


# -- of a function --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signature:
    """What is known of a function that is a tool.

    Attributes:
        kind: The model of its arguments.
        told: What its docstring says.
        returns: Its return annotation; `inspect.Parameter.empty`: none.
        names: The model's field for each parameter.
        by_position: Parameters that take no name.
        always: Parameters whose default the function does not know itself.
    """

    kind: type[Arguments]
    told: Told
    returns: Any
    names: Mapping[str, str] = field(default_factory=dict)
    by_position: tuple[str, ...] = ()
    always: frozenset[str] = frozenset()

    def unpack(self, read: Arguments) -> tuple[list[Any], dict[str, Any]]:
        """The arguments to call the function with; its own defaults stay its own."""
        named = {
            name: getattr(read, attribute)
            for name, attribute in self.names.items()
            if attribute in read.model_fields_set or name in self.always
        }
        positional = []
        for name in self.by_position:
            if name not in named:
                break
            positional.append(named.pop(name))
        return positional, named


def read_signature(
    func: Callable[..., Any],
    tool: str,
    *,
    strict: bool = True,
    bound: bool = False,
    names: Mapping[str, Any] | None = None,
) -> Signature:
    """Read what a function takes from its annotations, defaults and docstring.

    Args:
        func: Any callable.
        tool: Its name as a tool.
        strict: Whether every parameter must be annotated.
        bound: Whether the first parameter is the object that the function belongs to.
        names: What names stand for where the function is defined, besides its globals.

    Raises:
        UsageError: A parameter cannot be described to a model.
    """
    hints = _hints(func, tool, names or {})
    told = read_docstring(inspect.getdoc(func))
    fields: dict[str, Any] = {}
    attributes: dict[str, str] = {}
    by_position, always = [], set()
    for number, parameter in enumerate(inspect.signature(func).parameters.values()):
        if bound and number == 0:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            _refuse_variable(parameter, tool, strict=strict)
            continue
        name = parameter.name
        hint = _hint(parameter, hints, tool, strict=strict)
        attributes[name] = _attribute(name)
        fields[attributes[name]] = (hint, _field(name, hint, parameter.default, told))
        if parameter.kind is parameter.POSITIONAL_ONLY:
            by_position.append(name)
        if parameter.default is parameter.empty or isinstance(parameter.default, FieldInfo):
            always.add(name)
    kind = _create("".join(tool.split()).title(), tool, fields)
    returns = hints.get("return", inspect.Parameter.empty)
    return Signature(kind, told, returns, attributes, tuple(by_position), frozenset(always))


def closed_model(
    schema: type[BaseModel],
    tool: str,
    names: Mapping[str, Any] | None = None,
    *,
    keep: bool = False,
    meant: Mapping[str, Any] | None = None,
) -> type[Arguments]:
    """An existing model of arguments, read as strictly.

    Args:
        schema: The model.
        tool: The tool's name.
        names: What names stand for where the tool is defined: CrewAI makes models of annotations
            without resolving them, and cannot read them where they are postponed.
        keep: Whether its schema is shown as it is, and not made strict.
        meant: The JSON schema that it was made of, if it was.

    Raises:
        UsageError: It cannot be described to a model.
    """
    namespace = {"__module__": schema.__module__, "__qualname__": f"{schema.__qualname__}.strict"}
    made: type[Arguments] = new_class(
        schema.__name__, (Arguments, schema), exec_body=lambda body: body.update(namespace)
    )
    made.__doc__ = schema.__doc__
    if not made.__pydantic_complete__:
        made.model_rebuild(raise_errors=False, _types_namespace=names)
    made.understand(tool, schema if keep else None, meant)
    return made


def _create(title: str, tool: str, fields: Mapping[str, Any]) -> type[Arguments]:
    try:
        made: type[Arguments] = create_model(title, __base__=Arguments, **fields)
    except (PydanticUserError, SchemaError, NameError, TypeError) as error:
        raise UsageError(
            f"Tool {tool!r} has an argument of a type that cannot be validated: "
            f"{' '.join(str(error).split())}"
        ) from error
    made.understand(tool)
    return made


def _hints(func: Callable[..., Any], tool: str, names: Mapping[str, Any]) -> dict[str, Any]:
    plain = inspect.unwrap(func)
    if not (inspect.isfunction(plain) or inspect.ismethod(plain)):
        plain = getattr(plain, "func", None) or type(plain).__call__
    try:
        return get_type_hints(plain, localns=dict(names), include_extras=True)
    except (NameError, TypeError) as error:
        raise UsageError(
            f"Tool {tool!r} has an annotation that cannot be read ({error}). Import the name where "
            "the tool is defined, outside of `if TYPE_CHECKING`."
        ) from error


def _hint(
    parameter: inspect.Parameter, hints: Mapping[str, Any], tool: str, *, strict: bool
) -> Any:
    if parameter.name in hints:
        return hints[parameter.name]
    if strict:
        raise UsageError(
            f"Tool {tool!r}: parameter {parameter.name!r} has no type. Annotate it, or declare the "
            "tool with strict=False to have it take anything."
        )
    return Any


def _refuse_variable(parameter: inspect.Parameter, tool: str, *, strict: bool) -> None:
    if strict:
        raise UsageError(
            f"Tool {tool!r}: a model cannot be told what {str(parameter)!r} takes. Name the "
            "parameters, or declare the tool with strict=False to have it left out."
        )


def _attribute(name: str) -> str:
    """A name that pydantic can give a field, and that hides none of its methods."""
    if name.startswith(("_", "model_")) or hasattr(Arguments, name):
        return f"arg_{name.lstrip('_')}"
    return name


def _field(name: str, hint: Any, default: Any, told: Told) -> Any:
    """The field of a parameter, with the docstring's text if it has none of its own."""
    own = [default] if isinstance(default, FieldInfo) else []
    own += [one for one in get_args(hint)[1:] if isinstance(one, FieldInfo)]
    said: dict[str, Any] = {}
    if name in told.parameters and not any(one.description for one in own):
        said["description"] = told.parameters[name]
    if _attribute(name) != name:
        said["alias"] = name
    if isinstance(default, FieldInfo):
        return FieldInfo.merge_field_infos(default, **said) if said else default
    if default is not inspect.Parameter.empty:
        said["default"] = default
    return Field(**said)
