"""Pseudonyms that only their run can open: the value itself, sealed, in the place of the value.

A pseudonym is `EMAIL_` and base32 of AES-SIV over the value, under a key made of the user's secret
and the run's name. So the same value always has the same pseudonym in a run, another one in the
next; nobody without the secret can open or make one; and no table of who is who exists anywhere,
neither on disk nor in memory: a run that is killed and resumed opens what it sealed before.

The price: a pseudonym is as long as the value and half as long again, and 26 characters.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from crewai_prod.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

VARIABLE: Final = "CREWAI_PROD_ENCRYPTION_KEY"
"""The journal's own: who keeps one secret need not keep two. Either is derived anew from it."""
PSEUDONYM: Final = re.compile(r"(?<![A-Za-z0-9_])([A-Z]{2,12})_([a-z2-7]{28,})(?![A-Za-z0-9])")
_SHORTEST_KEY: Final = 16
_MAKE: Final = 'python -c "import base64, os; print(base64.b64encode(os.urandom(32)).decode())"'


class Sealer:
    """Makes and opens pseudonyms.

    Args:
        key: The secret, 16 bytes or more; None: `CREWAI_PROD_ENCRYPTION_KEY` of the environment.

    Raises:
        UsageError: There is none, it is too short, or the package `cryptography` is missing.
    """

    def __init__(self, key: str | bytes | None = None) -> None:
        given = key if key is not None else os.environ.get(VARIABLE)
        raw = given.encode() if isinstance(given, str) else given
        if raw is None or len(raw) < _SHORTEST_KEY:
            raise UsageError(
                "Pseudonyms need a secret that a resumed run has again: give key= (16 bytes or "
                f"more), or set {VARIABLE}. Make one with: {_MAKE}"
            )
        self._key = hashlib.blake2b(raw, digest_size=32).digest()
        self._cipher("")

    def seal(self, value: str, kind: str, run_id: str) -> str:
        """The pseudonym of a value in a run."""
        name = _name(kind)
        sealed = self._cipher(run_id).encrypt(value.encode("utf-8", "surrogatepass"), [name])
        text = base64.b32encode(sealed).decode().rstrip("=").lower()
        return f"{name.decode()}_{text}"

    def open(self, text: str, run_id: str, strange: Callable[[str], None]) -> str:
        """The text with what was sealed in this run put back.

        Args:
            text: It.
            run_id: The run.
            strange: Told of each pseudonym that is not of this run and secret, or was altered.
        """

        def opened(found: re.Match[str]) -> str:
            value = self._opened(found[1], found[2], run_id)
            if value is None:
                strange(found[0])
                return found[0]
            return value

        return PSEUDONYM.sub(opened, text)

    def _opened(self, name: str, sealed: str, run_id: str) -> str | None:
        from cryptography.exceptions import InvalidTag

        try:
            raw = base64.b32decode(sealed.upper() + "=" * (-len(sealed) % 8))
            value: bytes = self._cipher(run_id).decrypt(raw, [name.encode()])
        except (InvalidTag, binascii.Error, ValueError):
            return None
        return value.decode("utf-8", "surrogatepass")

    def _cipher(self, run_id: str) -> AESSIV:
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESSIV
        except ImportError as error:
            raise UsageError("Pseudonyms need the package `cryptography`. Install it.") from error
        about = b"crewai-prod pseudonyms\0" + run_id.encode("utf-8", "surrogatepass")
        return AESSIV(hashlib.blake2b(about, key=self._key, digest_size=32).digest())


def _name(kind: str) -> bytes:
    return re.sub("[^A-Z]", "", kind.upper())[:12].encode()
