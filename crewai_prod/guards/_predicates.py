"""Predicates over the arguments of a tool call: hosts, paths, amounts, receivers, texts.

A predicate is a function of one value. True and None mean that it is fine; False, or a text that
says why, that it is not. What cannot be judged is not fine.
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import unquote

from crewai_prod.errors import UsageError
from crewai_prod.guards._urls import Hosts, Unclear, read_host
from crewai_prod.guards._versions import made_of
from crewai_prod.guards._views import INVISIBLE

Predicate = Callable[[Any], bool | str | None]

_BARE_HOST = re.compile(r"[\w.-]{1,253}(?::\d{1,5})?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@([A-Za-z0-9.-]{1,253})")
_DECODED: Final = 3


def hosts(*names: str, schemes: Iterable[str] = ("https",)) -> Predicate:
    """URLs on these hosts, on the usual port of their scheme, that lead nowhere else.

    Refused as well: users before the host, backslashes, blanks, percent signs and look-alike
    letters in the host, addresses in unusual forms, and URLs that hold a URL on another host. A
    value may also be nothing but the name of a host.

    Args:
        *names: `api.example.com`, `*.example.com` (hosts below it, not itself), `localhost:8080`.
        schemes: Those that are allowed.

    Raises:
        UsageError: One is no host.
    """
    schemes = frozenset(schemes)
    allowed = Hosts.read(names, schemes)

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return "it is not a URL"
        if _BARE_HOST.fullmatch(value) and value.isascii():
            host, _, port = value.partition(":")
            try:
                known = allowed.holds(read_host(host), int(port) if port else None, None)
            except Unclear as error:
                return str(error)
            return None if known else f"host {host!r} is not allowed"
        return allowed.refuse(value)

    return made_of(check, "hosts", names, sorted(schemes))


def inside(*roots: str | PurePath, relative_to: str | PurePath | None = None) -> Predicate:
    """Paths that lie in one of these folders once every link is followed.

    Refused as well: `..` that leads out, plain or percent-encoded, `~`, backslashes, URLs, drives,
    control and invisible characters, letters that stand for slashes and dots.

    Blind spot: a link that is made after the check and before the tool opens the file.

    Args:
        *roots: The folders.
        relative_to: Where relative paths begin; default the working directory of the process.

    Raises:
        UsageError: No folder is named, or one that is not absolute.
    """
    folders = [os.fspath(root) for root in roots]
    if not folders or not all(map(os.path.isabs, folders)):
        raise UsageError("inside() takes absolute paths of folders.")

    def check(value: Any) -> str | None:
        if not isinstance(value, (str, PurePath)):
            return "it is not a path"
        path = os.fspath(value)
        why = _unclear_path(path)
        if why is not None:
            return why
        begin = os.fspath(relative_to) if relative_to is not None else os.getcwd()
        if all(_lies_in(os.path.join(begin, form), folders) for form in _decodings(path)):
            return None
        return "it is outside of the folders that are allowed"

    return made_of(check, "inside", folders, relative_to and os.fspath(relative_to))


def _unclear_path(path: str) -> str | None:
    if not path:
        return "it is empty"
    if _CONTROL.search(path) or INVISIBLE.search(path):
        return "it has control or invisible characters"
    if "\\" in path or _DRIVE.match(path) or path.startswith("~"):
        return "it is not a plain path"
    if _SCHEME.match(path) and "/" in path:
        return "it is a URL"
    folded = unicodedata.normalize("NFKC", path)
    if any(path.count(one) != folded.count(one) for one in "./\\~") or _SLASHES.search(path):
        return "it has letters that stand for slashes or dots"
    try:
        path.encode()
    except UnicodeEncodeError:
        return "it is not a text"
    return None


_SLASHES = re.compile("[\u2044\u2215\u29f5\u29f8\ufe68\uff0f\uff3c]")


def _decodings(path: str) -> list[str]:
    """A path, and what it is to those that take percent signs for codes."""
    forms = [path]
    for _ in range(_DECODED):
        form = unquote(forms[-1])
        if form == forms[-1]:
            break
        if _unclear_path(form) is not None:
            return ["/"]
        forms.append(form)
    return forms


def _lies_in(path: str, folders: Iterable[str]) -> bool:
    try:
        real = os.path.realpath(path)
        return any(
            os.path.commonpath((real, os.path.realpath(folder))) == os.path.realpath(folder)
            for folder in folders
        )
    except (OSError, ValueError):
        return False


def at_most(most: float | Decimal, *, least: float | Decimal = 0) -> Predicate:
    """Numbers from `least` (0) up to `most`: no text, no truth value, nothing that is no number."""
    for bound in (most, least):
        if not _is_number(bound):
            raise UsageError(f"at_most() takes numbers, not {bound!r}.")

    def check(value: Any) -> str | None:
        if not _is_number(value):
            return "it is not a number"
        if value > most:
            return f"it is above {most}"
        return f"it is below {least}" if value < least else None

    return made_of(check, "at_most", most, least)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        return False
    if isinstance(value, Decimal):
        return value.is_finite()
    return isinstance(value, int) or math.isfinite(value)


def one_of(*values: Any) -> Predicate:
    """These values and no others; `True` is not 1."""

    def check(value: Any) -> str | None:
        if any(type(value) is type(one) and value == one for one in values):
            return None
        return f"it is not one of {', '.join(map(repr, values))}"

    return made_of(check, "one_of", values)


def matches(pattern: str) -> Predicate:
    """Texts that the pattern fits from beginning to end."""
    compiled = re.compile(pattern)

    def check(value: Any) -> str | None:
        fits = isinstance(value, str) and compiled.fullmatch(value)
        return None if fits else "it does not have the form that is allowed"

    return made_of(check, "matches", pattern)


def shorter_than(characters: int) -> Predicate:
    """Texts of fewer characters."""

    def check(value: Any) -> str | None:
        fits = isinstance(value, str) and len(value) < characters
        return None if fits else f"it is not a text of fewer than {characters} characters"

    return made_of(check, "shorter_than", characters)


def receivers(*domains: str) -> Predicate:
    """Addresses of mail in these domains: `ann@example.com`, several with commas between.

    An address with a name in front of it, with quotes, or in two domains at once is refused.

    Raises:
        UsageError: One is no domain.
    """
    allowed = {name for name, _ in Hosts.read(domains, ()).names}

    def check(value: Any) -> str | None:
        if not isinstance(value, str):
            return "it is not an address"
        for part in value.split(","):
            address = _ADDRESS.fullmatch(part.strip(" "))
            if address is None:
                return "it is not a plain address"
            try:
                domain = read_host(address[1])
            except Unclear:
                return "it is not a plain address"
            if domain not in allowed:
                return f"{domain!r} is not among the domains that are allowed"
        return None

    return made_of(check, "receivers", allowed)


def why_not(predicate: Predicate, value: Any) -> str | None:
    """Why a predicate does not hold of a value; None if it does.

    Raises:
        TypeError: It says neither yes nor no.
    """
    said = predicate(value)
    if said is None or said is True:
        return None
    if said is False:
        return "it is not allowed"
    if isinstance(said, str):
        return said or "it is not allowed"
    raise TypeError(f"A predicate gave {said!r}; it gives True, None, False or a text.")
