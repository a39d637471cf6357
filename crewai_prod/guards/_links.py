"""`urls`: where texts point to, and what they tell whoever serves it.

A picture in an answer is fetched by whoever shows the answer, and its address can carry what the
crew has read. So an address is refused if its host is not among those that are allowed; if it is
none that everybody reads alike; and on other hosts than the allowed ones if it carries much, or
something that reads like words in a code.

Not noticed: a word at a time over many answers, and what is agreed on as a sign for something else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote

from crewai_prod.errors import UsageError
from crewai_prod.guards._replacing import Found, apart, found_in
from crewai_prod.guards._texts import rewritten, texts
from crewai_prod.guards._types import (
    Allow,
    Escalate,
    Guard,
    GuardContext,
    Modify,
    Place,
    Reject,
    Verdict,
)
from crewai_prod.guards._urls import Hosts, Unclear, read_url
from crewai_prod.guards._versions import version_of
from crewai_prod.guards._views import in_plain_letters, readings, without_entities
from crewai_prod.redact import find_secrets

_PLACES: Final[tuple[Place, ...]] = ("tool_call", "task_output", "final_output")
_WEB: Final = ("http", "https")
_HARMLESS: Final = frozenset({"mailto", "tel"})
_REMOVED: Final = "[link removed]"
_LINK_CARRIES: Final = 120
_PICTURE_CARRIES: Final = 40
_WORDS: Final = 12
"""Characters of readable text in a code, from which on it is no accident."""
_LONGEST_LABEL: Final = 40

_TARGET = r"(?P<{0}>[^\s<>\"'`)\]]{{1,8192}})"
_LOADED = re.compile(
    r"!\[[^\]]{0,500}\]\(\s{0,9}<?" + _TARGET.format("image") + r"|"
    r"\b(?:src|srcset|poster|background|data)\s{0,3}=\s{0,3}[\"']?\s{0,9}"
    + _TARGET.format("source")
    + r"|\burl\(\s{0,3}[\"']?"
    + _TARGET.format("style"),
    re.IGNORECASE,
)
_LINKED = re.compile(
    r"\]\(\s{0,9}<?" + _TARGET.format("link") + r"|"
    r"^[ ]{0,3}\[[^\]\n]{1,200}\]:\s{0,9}<?" + _TARGET.format("reference") + r"|"
    r"\b(?:href|action|formaction|cite|ping)\s{0,3}=\s{0,3}[\"']?\s{0,9}" + _TARGET.format("href"),
    re.IGNORECASE | re.MULTILINE,
)
_BARE = re.compile(
    r"(?<![A-Za-z0-9+.-])(?P<bare>[A-Za-z][A-Za-z0-9+.-]{1,20}://[^\s<>\"'`]{1,8192}"
    r"|www\.[^\s<>\"'`]{1,8192})"
)
_SCRIPTED = re.compile(
    "|".join(
        r"[\t\r\n]{0,3}".join(f"[{one}{one.upper()}]" for one in word) + r"[\t\r\n ]{0,3}:(?=\S)"
        for word in ("javascript", "vbscript")
    )
    + r"|\bdata:[\w.+-]+/[\w.+-]+[;,]|\bdata:[;,]|\bdata:text",
    re.IGNORECASE,
)
_ACTIVE = re.compile(
    r"<\s{0,3}(?:script|iframe|object|embed|applet|form|base|meta|link|svg|math)\b"
    r"|<[^<>]{1,500}?[\s/\"']on[a-z]{3,20}\s{0,3}=|@import\s{0,9}(?:url\(|[\"'])",
    re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]{1,500}`", re.DOTALL)
_TRAILING = ".,;:!?*_)]}>'\""


class _Link(NamedTuple):
    start: int
    end: int
    target: str
    loaded: bool


@dataclass(frozen=True, slots=True)
class _Judge:
    """Says of an address why it may not be there."""

    allowed: Hosts | None
    known: tuple[str, ...]

    def why(self, link: _Link) -> str | None:
        target = link.target
        scheme = target.partition(":")[0].lower()
        if scheme in _HARMLESS and "://" not in target:
            return None
        if _is_local(target):
            return None
        whole = f"https:{target}" if target.startswith(("//", "\\\\")) else target
        whole = f"https://{target}" if target.lower().startswith("www.") else whole
        try:
            url = read_url(whole)
        except Unclear as error:
            return str(error)
        if url.scheme not in _WEB:
            return f"{url.scheme}: is no address on the web"
        if self.allowed is not None:
            return self.allowed.refuse(whole)
        if any(find_secrets(view.text) for view in readings(whole)) or self._known(whole):
            return "it carries a secret"
        return _carries(url.host, url.rest, link.loaded)

    def _known(self, text: str) -> bool:
        return any(one in view.text for view in readings(text) for one in self.known)


def _is_local(target: str) -> bool:
    """Whether it points within the document or site that it stands in."""
    return not re.match(r"[\\/]{2}|[a-z][a-z0-9+.-]*:|www\.", target, re.IGNORECASE)


def _carries(host: str, rest: str, loaded: bool) -> str | None:
    """What an address on a host that nobody has allowed tells it, if it is too much."""
    if any(len(label) > _LONGEST_LABEL for label in host.split(".")):
        return "the name of its host is unusually long"
    path, _, query = rest.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    parts = [*(unquote(one) for one in path.split("/")), *(text for pair in pairs for text in pair)]
    most = _PICTURE_CARRIES if loaded else _LINK_CARRIES
    if any(len(one) > most for one in parts) or len(query) > 4 * most:
        return "it carries a long text"
    for part in parts:
        if any(
            len(view.text) >= _WORDS for view in readings(part) if view.whole and " " in view.text
        ):
            return "it carries a text in a code"
    if loaded and any(one.count(" ") >= 3 for one in parts):
        return "it carries a text"
    return None


def urls(
    allow_hosts: Collection[str] | None = None,
    *,
    action: Literal["reject", "redact", "escalate"] = "reject",
    known: Collection[str] = (),
    active: bool = True,
    places: Collection[Place] = _PLACES,
    name: str = "urls",
    order: int = 0,
) -> Guard:
    """A guard over the addresses in outputs and arguments, and what could leave the house in them.

    Markdown's and HTML's pictures and links, bare addresses; `data:` and `javascript:` wherever
    they are; in plain letters, entities, and with invisible characters.

    Args:
        allow_hosts: Hosts that may be pointed to, as with `hosts`; None: any, as long as the
            address carries no secret, no long text and none in a code.
        action: `reject`; `redact` puts `[link removed]` in its place; `escalate` asks a person.
        known: Texts that may be in no address, in any code: secrets, names, parts of what was said.
        active: Whether HTML that does something (scripts, frames, forms, event handlers) is
            refused as well, outside of code.
        places: Where; default arguments of tools, outputs of tasks and of the crew.
        name: Of the guard.
        order: Of the guard.

    Raises:
        UsageError: A host or an action that does not exist.
    """
    if action not in ("reject", "redact", "escalate"):
        raise UsageError(f"action={action!r} does not exist; there are reject, redact, escalate.")
    allowed = None if allow_hosts is None else Hosts.read(allow_hosts, _WEB)
    judge = _Judge(allowed, tuple(one for one in known if len(one) >= 4))

    def find(text: str) -> list[Found]:
        views = [view for view in (in_plain_letters(text), without_entities(text)) if view]
        found = found_in(text, views, lambda said: _bad(said, judge, active))
        return apart([*_bad(text, judge, active), *found])

    def check(value: Any, context: GuardContext) -> Verdict:
        why = list(dict.fromkeys(one.kind for text, _ in texts(value) for one in find(text)))
        if not why:
            return Allow()
        told = f"An address in it is not allowed: {'; '.join(why[:5])}."
        if action == "redact":
            return Modify(rewritten(value, lambda text, _: _without(text, find(text))), told)
        return Reject(f"{told} Leave it out.") if action == "reject" else Escalate(told)

    said = (allow_hosts, action, len(known), active)
    return Guard(name, check, frozenset(places), version_of("1", *said), order)


def _without(text: str, found: list[Found]) -> str:
    for one in reversed(found):
        text = f"{text[: one.start]}{_REMOVED}{text[one.end :]}"
    return text


def _bad(text: str, judge: _Judge, active: bool) -> Iterator[Found]:
    for link in _links(text):
        why = judge.why(link)
        if why is not None:
            yield Found(link.start, link.end, why)
    for one in _SCRIPTED.finditer(text):
        end = re.compile(r"[^\s\"'<>)]*").match(text, one.end())
        yield Found(one.start(), end.end() if end else one.end(), "it is a program or a document")
    if active and "<" in text:
        bare = _CODE.sub(lambda code: " " * len(code[0]), text)
        for one in _ACTIVE.finditer(bare):
            yield Found(*one.span(), "it is HTML that does something")


def _links(text: str) -> Iterator[_Link]:
    for pattern, loaded in ((_LOADED, True), (_LINKED, False), (_BARE, False)):
        for one in pattern.finditer(text):
            group = one.lastgroup or ""
            target = one[group].rstrip(_TRAILING)
            if target:
                start = one.start(group)
                yield _Link(start, start + len(target), target, loaded)
