"""`pii`: what is told of people does not go where it has no business."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from importlib import import_module
from typing import Any, Final

from crewai_prod.errors import UsageError
from crewai_prod.guards._replacing import (
    REMEMBERED,
    RESTORED,
    Action,
    Finder,
    Found,
    found_in,
    replacing_guard,
)
from crewai_prod.guards._shapes import FINDERS
from crewai_prod.guards._types import Guard, Place
from crewai_prod.guards._versions import version_of
from crewai_prod.guards._views import readings

_PLACES: Final[tuple[Place, ...]] = ("model_input", "task_output", "final_output")


def pii(
    action: Action = "redact",
    *,
    kinds: Collection[str] | None = None,
    also: Sequence[Finder] = (),
    places: Collection[Place] | None = None,
    restore: Collection[Place] = RESTORED,
    tools: Collection[str] | None = None,
    key: str | bytes | None = None,
    name: str = "pii",
    order: int = 0,
) -> Guard:
    """A guard against personal data: e-mail, phone, card, IBAN, US SSN and IP addresses.

    It is found in any reading of a text: with invisible characters within, in full-width or other
    digits, in base64, hex, percent signs, escapes or entities. Names and street addresses are not
    known by their shape: `also=[presidio()]` asks a library.

    Args:
        action: `block` rejects what holds some; `redact` puts `[redacted email]` in its place;
            `mask` leaves the last four characters of it; `pseudonymise` puts a sealed name there
            (`EMAIL_mzxw6...`) where the model reads it, and the value back where the crew acts and
            answers. The same value has the same name all over a run, also after a resume.
        kinds: Of `email`, `phone`, `card`, `iban`, `ssn`, `ip`; default all.
        also: Further finders: functions of a text that give `(start, end, kind)`.
        places: Where it is looked for; default `model_input`, `task_output`, `final_output`; with
            `pseudonymise` only `model_input`.
        restore: Where names are put back; default `tool_call`, `task_output`, `final_output`.
        tools: The tools that get the values back in their arguments; default all.
        key: The secret that names are sealed with; default `CREWAI_PROD_ENCRYPTION_KEY`.
        name: Of the guard.
        order: Of the guard.

    Raises:
        UsageError: A kind, action or place that does not exist; no key for `pseudonymise`.
    """
    unknown = sorted(set(kinds or ()) - set(FINDERS))
    if unknown or (kinds is not None and not kinds and not also):
        raise UsageError(f"pii: no kind {unknown}; there are {', '.join(FINDERS)}.")
    finders = [find for kind, find in FINDERS.items() if kinds is None or kind in kinds]
    every = (*finders, *also)

    @lru_cache(maxsize=REMEMBERED)
    def find(text: str) -> list[Found]:
        return found_in(text, readings(text), lambda said: _all(every, said))

    def search(text: str, key: str) -> list[Found]:
        return find(text)

    default: Collection[Place] = ("model_input",) if action == "pseudonymise" else _PLACES
    where = default if places is None else places
    return replacing_guard(
        name,
        search,
        action,
        where,
        key=key,
        restore=restore,
        tools=tools,
        order=order,
        version=version_of("1", action, kinds, also, restore, tools),
    )


def _all(finders: Sequence[Finder], text: str) -> Iterator[Found]:
    for find in finders:
        for one in find(text):
            yield Found(*one)


def presidio(
    analyzer: Any = None,
    *,
    language: str = "en",
    entities: Collection[str] | None = None,
    score: float = 0.5,
) -> Finder:
    """A finder that asks Microsoft's Presidio (`pip install 'crewai-prod[pii]'`).

    Args:
        analyzer: An `AnalyzerEngine`; default a new one, which needs the language model of spaCy
            that Presidio's documentation names to be installed.
        language: Of the texts.
        entities: Presidio's names of what is looked for; default all it knows.
        score: How sure it has to be, from 0 to 1.

    Raises:
        UsageError: Presidio is not installed.
    """
    if analyzer is None:
        try:
            engine = import_module("presidio_analyzer").AnalyzerEngine
        except ImportError as error:
            raise UsageError(
                "presidio() needs Presidio: pip install 'crewai-prod[pii]'."
            ) from error
        analyzer = engine()
    asked = None if entities is None else sorted(entities)

    def find(text: str) -> Iterator[Found]:
        for one in analyzer.analyze(
            text=text, language=language, entities=asked, score_threshold=score
        ):
            yield Found(one.start, one.end, one.entity_type.lower().replace("_", " "))

    return find
