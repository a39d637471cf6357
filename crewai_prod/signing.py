"""Links that stand for the right to answer one question, and tokens that stand for people.

Rule: a link holds the number of the question, what it is about, when the link ends and whom it is
for, and an HMAC-SHA256 of all that: it opens this question and no other, until it has been
answered. The key is that of CREWAI_PROD_APPROVALS_KEY, else 32 random bytes in a file beside the
journal that only its owner can read. Comparisons take the same time whatever is compared.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson

from crewai_prod.errors import JournalUnavailable, UsageError
from crewai_prod.records import ApprovalRecord

KEY_VARIABLE = "CREWAI_PROD_APPROVALS_KEY"
TOKEN_VARIABLE = "CREWAI_PROD_APPROVALS_TOKEN"
LINK_SECONDS = 7 * 24 * 3600.0
_KEY_BYTES = 32
_SHORTEST = 16
_PURPOSE = b"crewai-prod approval link 1\0"


@dataclass(frozen=True, slots=True)
class Right:
    """What a link stands for: the question, and who answers it."""

    number: int
    about: str
    by: str | None


@dataclass(frozen=True, slots=True)
class Signer:
    """Makes links and reads them."""

    key: bytes

    @classmethod
    def of(cls, journal: str) -> Signer:
        """The signer of a journal, whose key is made if there is none.

        Raises:
            UsageError: The key in the environment is too short, or others can read the key's file.
            JournalUnavailable: The file cannot be made or read.
        """
        given = os.environ.get(KEY_VARIABLE)
        if given is not None:
            if len(given) < _SHORTEST:
                raise UsageError(f"{KEY_VARIABLE} has to have {_SHORTEST} characters or more.")
            return cls(hashlib.sha256(given.encode("utf-8", "surrogateescape")).digest())
        return cls(_key_in(Path(f"{journal}.approvals-key")))

    def token(
        self, question: ApprovalRecord, by: str | None = None, until: float | None = None
    ) -> str:
        """What lets its holder answer this question."""
        ends = until if until is not None else time.time() + LINK_SECONDS
        payload = orjson.dumps([question.id, digest_of(question), int(ends), by])
        return f"{_packed(payload)}.{_packed(self._signature(payload))}"

    def link(self, url: str, question: ApprovalRecord, by: str | None = None) -> str:
        """The same as an address of the server."""
        token = quote(self.token(question, by), safe="")
        return f"{url.rstrip('/')}/approvals/{question.id}?t={token}"

    def read(self, token: str) -> Right | None:
        """What a token stands for; None if it is none of ours, or its time is over."""
        payload, _, signature = token.partition(".")
        try:
            said, signed = _unpacked(payload), _unpacked(signature)
        except (binascii.Error, ValueError):
            return None
        if not hmac.compare_digest(self._signature(said), signed):
            return None
        number, about, ends, by = orjson.loads(said)
        return Right(number, about, by) if ends > time.time() else None

    def _signature(self, payload: bytes) -> bytes:
        return hmac.new(self.key, _PURPOSE + payload, hashlib.sha256).digest()


def digest_of(question: ApprovalRecord) -> str:
    """What makes a question this one and no other, not even in another journal."""
    parts = (question.run_id, question.kind, question.about or "", repr(question.asked_at))
    text = "\0".join(parts).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:32]


def tokens_in(said: str) -> Mapping[str, str | None]:
    """People by their tokens: `token`, or `ann=token,ben=token`; None is anybody.

    Raises:
        UsageError: A token is too short to be one.
    """
    found: dict[str, str | None] = {}
    for part in filter(None, (one.strip() for one in said.split(","))):
        name, named, token = part.partition("=")
        token, who = (token, name.strip()) if named else (part, None)
        if len(token) < _SHORTEST:
            raise UsageError(f"A token in {TOKEN_VARIABLE} has less than {_SHORTEST} characters.")
        found[token] = who
    return found


def who_has(token: str, tokens: Mapping[str, str | None]) -> tuple[bool, str | None]:
    """Whether a token is one of these, and whose. All of them are compared."""
    given = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
    found: tuple[bool, str | None] = (False, None)
    for one, who in tokens.items():
        if hmac.compare_digest(hashlib.sha256(one.encode("utf-8")).digest(), given):
            found = (True, who)
    return found


def new_token() -> str:
    """A token nobody can guess."""
    return secrets.token_urlsafe(24)


def _key_in(path: Path) -> bytes:
    try:
        _make_key(path)
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            key = opened.read(_KEY_BYTES + 1)
    except OSError as error:
        raise JournalUnavailable(f"The key {path} cannot be made or read: {error}.") from error
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"Others can read {path}, the key of links. Remove it: one is made anew.")
    if len(key) != _KEY_BYTES:
        raise UsageError(f"{path} is no key of {_KEY_BYTES} bytes. Remove it: one is made anew.")
    return key


def _make_key(path: Path) -> None:
    """Make the file if there is none; it is there whole or not at all."""
    if path.exists():
        return
    fresh = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(secrets.token_bytes(_KEY_BYTES))
        os.link(fresh, path)
    except FileExistsError:  # another process was faster
        return
    finally:
        fresh.unlink()


def _packed(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _unpacked(text: str) -> bytes:
    if not text.isascii():
        raise ValueError("not base64")
    padded = text + "=" * (-len(text) % 4)
    raw = base64.b64decode(padded.replace("-", "+").replace("_", "/"), validate=True)
    if _packed(raw) != text:  # one token has one form
        raise ValueError("not canonical")
    return raw
