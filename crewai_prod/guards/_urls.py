"""URLs read as the strictest of all that may follow them: what two parsers read differently is bad.

Pure. Nothing is resolved: a name that points to an address inside is for the network to stop.
"""

from __future__ import annotations

import ipaddress
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote

from crewai_prod.errors import UsageError
from crewai_prod.guards._views import INVISIBLE

PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]+)(?P<rest>.*)", re.DOTALL
)
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]@]+)(?::(?P<port>\d{1,5}))?")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER = re.compile(r"0x[0-9a-f]*|\d+", re.IGNORECASE)
_ELSEWHERE = re.compile(
    r"(?:(?:[a-z][a-z0-9+.-]*:)?[\\/]{2}|(?:https?|wss?|ftp):[\\/]?)[^\\/?#\s]", re.IGNORECASE
)
_DOT: Final = "\u3002"
"""Not a letter that stands for a dot, says Unicode; a dot, say those who look a name up."""
_DECODED: Final = 3


@dataclass(frozen=True, slots=True)
class Url:
    """A URL that all parsers read alike.

    Attributes:
        scheme: In lower case.
        host: A name in ASCII and lower case without its last dot, or an address in its usual form.
        port: As given, else that of the scheme; None if it has none.
        rest: Path, query and fragment.
    """

    scheme: str
    host: str
    port: int | None
    rest: str


class Unclear(ValueError):
    """What is no URL, or may be read as another one. The text says why."""


def read_url(text: str) -> Url:
    """A URL as all who follow it read it.

    Raises:
        Unclear: It is none, or it may be read in two ways.
    """
    if any(ord(letter) <= 32 or ord(letter) == 127 for letter in text) or INVISIBLE.search(text):
        raise Unclear("it has blanks, control or invisible characters")
    if "\\" in text:
        raise Unclear("it has a backslash")
    whole = _URL.fullmatch(text)
    if whole is None:
        raise Unclear("it is not a whole URL")
    scheme, authority, rest = whole["scheme"].lower(), whole["authority"], whole["rest"]
    if "@" in authority:
        raise Unclear("it has a user before the host")
    if rest[:1] in ("?", "#") and "@" in rest:
        raise Unclear("its host can be read in two ways")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise Unclear("its host can be read in two ways")
    port = int(parts["port"]) if parts["port"] else PORTS.get(scheme)
    return Url(scheme, read_host(parts["host"]), port, rest)


def read_host(text: str) -> str:
    """A host as all read it: a name in ASCII, or an address in its usual form.

    Raises:
        Unclear: It is none, or it may be read in two ways.
    """
    if "%" in text:
        raise Unclear("its host is percent-encoded")
    if text.startswith("["):
        return _ipv6(text[1:-1])
    host = _ascii(text).removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        raise Unclear("its host is not a name")
    if _NUMBER.fullmatch(labels[-1]):
        return _ipv4(host)
    return host


def _ascii(text: str) -> str:
    """A name in ASCII. One whose letters stand for others is refused, not translated."""
    host = text.lower()
    if host.isascii():
        return host
    if unicodedata.normalize("NFKC", host) != host or _DOT in host:
        raise Unclear("its host has letters that stand for others")
    try:
        return host.encode("idna").decode()
    except UnicodeError as error:
        raise Unclear("its host is not a name") from error


def _ipv4(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError as error:
        raise Unclear("its host is an address written in an unusual way") from error


def _ipv6(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError as error:
        raise Unclear("its host is not an address") from error
    if address.ipv4_mapped is not None or address.sixtofour is not None:
        raise Unclear("its host is an IPv4 address within an IPv6 address")
    return f"[{address.compressed}]"


def inner_urls(rest: str) -> list[str]:
    """The URLs that a path, query or fragment holds: where a redirect may lead.

    They are found plain and percent-encoded, up to three times.
    """
    found: dict[str, None] = {}
    path, _, query = rest.partition("?")
    parts = [value for _, value in parse_qsl(query.replace("#", "&"), keep_blank_values=True)]
    parts += [name for name, _ in parse_qsl(query.replace("#", "&"), keep_blank_values=True)]
    _, _, fragment = path.partition("#")
    for part in (*parts, fragment, *_in_path(path)):
        said = part
        for _ in range(_DECODED):
            if _ELSEWHERE.match(said.strip()):
                found[said.strip()] = None
            if unquote(said) == said:
                break
            said = unquote(said)
    return list(found)


def _in_path(path: str) -> Iterable[str]:
    """A whole URL as the end of a path: `/proxy/https://elsewhere`."""
    said = path
    for _ in range(_DECODED):
        at = re.search(r"[a-z][a-z0-9+.-]*:/{1,2}[^/]", said[1:], re.IGNORECASE)
        if at is not None:
            yield re.sub(":/+", "://", said[1:][at.start() :], count=1)
        elif said.startswith("//"):
            yield said
        said = unquote(said)


@dataclass(frozen=True, slots=True)
class Hosts:
    """Hosts that are allowed.

    Attributes:
        names: Pairs of name (or `*.name`) and port; None: the usual one of the scheme.
        schemes: Those that are allowed.
    """

    names: frozenset[tuple[str, int | None]]
    schemes: frozenset[str]

    @classmethod
    def read(cls, names: Iterable[str], schemes: Iterable[str]) -> Hosts:
        """From names as users write them: `api.example.com`, `*.example.com`, `localhost:8080`.

        Raises:
            UsageError: One is no host.
        """
        pairs = set()
        for name in names:
            parts = _AUTHORITY.fullmatch(name)
            try:
                if parts is None:
                    raise Unclear("it is not a host")
                host = read_host(parts["host"].removeprefix("*."))
            except Unclear as error:
                raise UsageError(f"{name!r} names no host: {error}.") from error
            star = "*." if name.startswith("*.") else ""
            pairs.add((star + host, int(parts["port"]) if parts["port"] else None))
        return cls(frozenset(pairs), frozenset(one.lower() for one in schemes))

    def refuse(self, text: str) -> str | None:
        """Why a URL is not allowed, and no URL that it holds may be elsewhere; None if it is."""
        try:
            url = read_url(text)
        except Unclear as error:
            return str(error)
        if url.scheme not in self.schemes:
            return f"{url.scheme}: is not one of {', '.join(sorted(self.schemes))}"
        if not self.holds(url.host, url.port, PORTS.get(url.scheme)):
            return f"host {url.host!r} is not allowed"
        for inner in inner_urls(url.rest):
            try:
                led = read_url(inner if "://" in inner else f"{url.scheme}:{inner}")
            except Unclear as error:
                return f"it leads on to a URL: {error}"
            if not self.holds(led.host, led.port, PORTS.get(led.scheme)):
                return f"it leads on to host {led.host!r}, which is not allowed"
        return None

    def holds(self, host: str, port: int | None, usual: int | None) -> bool:
        """Whether a host is among them, on this port."""
        labels = host.split(".")
        names = {host, *(f"*.{'.'.join(labels[n:])}" for n in range(1, len(labels)))}
        return any(
            name in names and (port == usual if own is None else port == own)
            for name, own in self.names
        )
