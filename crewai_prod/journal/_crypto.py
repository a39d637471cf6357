"""Payloads encrypted at rest: AES-256-GCM on the columns that hold what models and tools said.

Rule: with a key, inputs, arguments, results, errors, messages and answers reach the disk only as
`enc1:` and base64 of nonce and ciphertext, bound to their run and column. The key never does; a
check value tells a wrong one before anything is read or written.

Not covered: names, scopes, digests, times and token counts stay readable, so that reports and SQL
work; a digest lets someone who guesses a whole text check the guess.
"""

from __future__ import annotations

import base64
import binascii
import os
import sqlite3
from typing import TYPE_CHECKING, Any

from crewai_prod.errors import Corrupt, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

VARIABLE = "CREWAI_PROD_ENCRYPTION_KEY"
PREFIX = "enc1:"
_NONCE_BYTES = 12
_KEY_BYTES = 32
_CHECK = "journal_info.key_check"
_MAKE = 'python -c "import base64, os; print(base64.b64encode(os.urandom(32)).decode())"'
SELECT_CHECK = "SELECT value FROM journal_info WHERE name = 'key_check'"
INSERT_CHECK = "INSERT INTO journal_info (name, value) VALUES ('key_check', ?)"


class Plain:
    """Stores texts as they are."""

    def seal(self, text: str | None, run_id: str, column: str) -> str | None:
        """The text as it is stored in this column of this run's rows. None stays None."""
        return text

    def open(self, text: str | None, run_id: str, column: str) -> str | None:
        """What was sealed there; a text from before encryption comes back as it is."""
        return text


class Cipher(Plain):
    """Seals and opens texts with one key.

    Args:
        key: Base64 of 32 bytes.

    Raises:
        UsageError: It is not.
    """

    def __init__(self, key: str) -> None:
        try:
            raw = base64.b64decode(key.replace("-", "+").replace("_", "/"), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != _KEY_BYTES:
            raise UsageError(
                f"The encryption key ({VARIABLE}) must be base64 of 32 random bytes. "
                f"Make one with: {_MAKE}"
            )
        self._aead = _aead(raw)

    def seal(self, text: str | None, run_id: str, column: str) -> str | None:
        """The text encrypted, bound to its run and column. None stays None."""
        if text is None:
            return None
        nonce = os.urandom(_NONCE_BYTES)
        try:
            sealed = nonce + self._aead.encrypt(nonce, text.encode(), _place(run_id, column))
        except UnicodeEncodeError as error:
            raise UsageError(f"A value cannot be stored in {column}: {error}.") from error
        return PREFIX + base64.b64encode(sealed).decode()

    def open(self, text: str | None, run_id: str, column: str) -> str | None:
        """What was sealed there; a text from before encryption comes back as it is.

        Raises:
            Corrupt: It was altered, or moved here from another run or column.
        """
        from cryptography.exceptions import InvalidTag

        if text is None or not text.startswith(PREFIX):
            return text
        try:
            sealed = base64.b64decode(text[len(PREFIX) :], validate=True)
            nonce, body = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            plain: bytes = self._aead.decrypt(nonce, body, _place(run_id, column))
        except (InvalidTag, ValueError) as error:
            raise Corrupt(
                f"An encrypted value in {column} was altered.", run_id=run_id or None, column=column
            ) from error
        return plain.decode()


def _place(run_id: str, column: str) -> bytes:
    return f"{column}/{run_id}".encode()


def _aead(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError as error:
        raise UsageError("Encryption needs the package `cryptography`. Install it.") from error
    return AESGCM(key)


def check_key(connection: sqlite3.Connection, vault: Plain, location: str) -> bool:
    """Compare the key with the file's; False if the file has none yet.

    Raises:
        UsageError: The file is encrypted and the key is missing or another one.
    """
    row: Any = connection.execute(SELECT_CHECK).fetchone()
    if row is None:
        return False
    if not isinstance(vault, Cipher):
        raise UsageError(f"The journal {location} is encrypted. Set {VARIABLE}.", path=location)
    try:
        vault.open(row[0], "", _CHECK)
    except Corrupt as error:
        raise UsageError(
            f"The encryption key ({VARIABLE}) is not that of the journal {location}.", path=location
        ) from error
    return True


def store_check(connection: sqlite3.Connection, vault: Plain, location: str) -> None:
    """Mark the file as encrypted with this key; runs inside a transaction."""
    if not check_key(connection, vault, location):
        connection.execute(INSERT_CHECK, (vault.seal(_CHECK, "", _CHECK),))
