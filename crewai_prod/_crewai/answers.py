"""Every form in which a provider of CrewAI answers, as JSON and back.

Forms: text; an instance of the caller's `response_model` (or of the model's `response_format`); a
list of tool calls as dicts or SDK objects; the Responses API's result object; what an executed tool
returned. The live answer goes through here as well, so that CrewAI sees the same thing when it is
replayed: OpenAI, LiteLLM and Anthropic calls become plain dicts. Google's parts come back as parts,
because their signatures must return to the provider unchanged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import orjson
from pydantic import BaseModel

from crewai_prod import codec

Types = Iterable[type[BaseModel] | None]


def encode_answer(answer: Any) -> tuple[str, str | None]:
    """JSON for the journal, and the text that a later message may repeat."""
    if isinstance(answer, str):
        return codec.encode(str(answer)), answer
    if isinstance(answer, BaseModel) and not _is_part(answer):
        return _tagged("model", _dump(answer)), None
    if isinstance(answer, list):
        return _tagged("list", [_encode_item(item) for item in answer]), None
    if _is_responses_result(answer):
        return _tagged("responses", codec.to_tree(_shallow(answer))), getattr(answer, "text", None)
    return _tagged("value", codec.to_tree(answer)), None


def decode_answer(text: str, types: Types) -> Any:
    """The answer as the live call handed it over; `types` are the structured ones that may occur.

    Raises:
        ValueError: A recorded structured answer does not fit any of `types`.
    """
    tree = orjson.loads(text)
    if not isinstance(tree, dict) or "answer" not in tree:
        return codec.from_tree(tree)
    return _DECODERS[tree["answer"]](tree["v"], types)


def chunks_of(answer: Any) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """An answer as a stream tells it: text, or a tool call with its arguments as text."""
    if isinstance(answer, BaseModel) and not _is_part(answer):
        yield answer.model_dump_json(), None
        return
    for index, item in enumerate(answer if isinstance(answer, list) else [answer]):
        function = item.get("function") if isinstance(item, dict) else None
        if isinstance(item, str):
            yield item, None
        elif function is not None:
            call = {"id": item.get("id"), "function": function, "type": "function", "index": index}
            yield function["arguments"], call


def _tagged(name: str, value: Any) -> str:
    return orjson.dumps({"answer": name, "v": value}).decode()


def _dump(model: BaseModel) -> dict[str, Any]:
    return {"type": type(model).__qualname__, "data": codec.to_tree(model.model_dump(mode="json"))}


def _encode_item(item: Any) -> dict[str, Any]:
    """One tool call: the dict CrewAI reads, a Google part, or any other value."""
    if _is_part(item):
        return {"part": item.model_dump(mode="json", exclude_none=True)}
    call = _call_dict(item)
    return {"call": codec.to_tree(call)} if call is not None else {"value": codec.to_tree(item)}


def _call_dict(item: Any) -> dict[str, Any] | None:
    if isinstance(item, dict):
        return item
    function = getattr(item, "function", None)
    if function is not None:
        call = {"name": function.name, "arguments": function.arguments}
        return {"id": getattr(item, "id", None), "type": "function", "function": call}
    if hasattr(item, "name") and hasattr(item, "input"):
        return {"id": getattr(item, "id", None), "name": item.name, "input": item.input}
    return None


def _is_part(item: Any) -> bool:
    return type(item).__qualname__ == "Part" and type(item).__module__.startswith("google.genai")


def _is_responses_result(answer: Any) -> bool:
    return type(answer).__qualname__ == "ResponsesAPIResult" and dataclasses.is_dataclass(answer)


def _shallow(answer: Any) -> dict[str, Any]:
    return {f.name: getattr(answer, f.name) for f in dataclasses.fields(answer)}


def _decode_model(value: Any, types: Types) -> Any:
    data = codec.from_tree(value["data"])
    known = [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]
    named = [kind for kind in known if kind.__qualname__ == value["type"]]
    for kind in named or known:
        return kind.model_validate(data)
    raise ValueError(f"a recorded answer is a {value['type']}, which this call does not ask for")


def _decode_list(value: Any, types: Types) -> list[Any]:
    return [_decode_item(item) for item in value]


def _decode_item(item: dict[str, Any]) -> Any:
    if "part" in item:
        from google.genai import types as genai  # only where Google answered

        return genai.Part.model_validate(item["part"])
    return codec.from_tree(item.get("call", item.get("value")))


def _decode_responses(value: Any, types: Types) -> Any:
    from crewai.llms.providers.openai.completion import ResponsesAPIResult

    return ResponsesAPIResult(**codec.from_tree(value))


_DECODERS: dict[str, Callable[[Any, Types], Any]] = {
    "model": _decode_model,
    "list": _decode_list,
    "responses": _decode_responses,
    "value": lambda value, _: codec.from_tree(value),
}


def as_text(edited: Any) -> str:
    """What a person has put in an answer's place: a text, or JSON for a form."""
    return edited if isinstance(edited, str) else orjson.dumps(edited).decode()
