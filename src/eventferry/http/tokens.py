"""Tokens: who may do what, in a file that holds only their hashes.

The file is JSON, readable by its owner alone, and is written beside itself and renamed into place, so a reader sees the
old one or the new one. A service reads it again when it has changed: a revoked token ends with the next request.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import msgspec

from eventferry.errors import EventferryError, UsageError

Scope: TypeAlias = Literal["read", "write", "import", "secrets"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "eventferry_"
"""So that whoever finds a token knows what it is: people, and the scanners that look for keys in repositories."""


class Token(msgspec.Struct, frozen=True):
    """What the file knows of a token.

    Attributes:
        name: whose it is.
        scopes: what it may do.
        sha256: of the token.
        created: in seconds since 1970.
    """

    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created: int


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[Token]


class TokenFile:
    """A file of tokens.

    Args:
        path: the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._seen: tuple[int, int, int, int] | None = None
        self._tokens: list[Token] = []

    def tokens(self) -> list[Token]:
        """The tokens as they are now.

        Raises:
            EventferryError: the file cannot be read, is none of tokens, or others may read it.
        """
        try:
            found = self.path.stat()
            state = (found.st_mtime_ns, found.st_ino, found.st_size, found.st_mode)
            if state != self._seen:
                self._tokens = self._read(found.st_mode)
                self._seen = state
        except OSError as error:
            self._seen = None
            raise EventferryError(
                f"the file of tokens {self.path} cannot be read: {error.strerror}"
            ) from None
        return self._tokens

    def find(self, token: str) -> Token | None:
        """What the file knows of a token; None for one that is not in it. Raises as `tokens` does."""
        digest = hash_of(token)
        found = None
        for candidate in self.tokens():  # all of them: how long it takes tells nothing
            if hmac.compare_digest(candidate.sha256, digest):
                found = candidate
        return found

    def add(self, name: str, scopes: Sequence[str]) -> str:
        """Make a token; the file is made where it is not there.

        Raises:
            UsageError: no name, no scope, or a name that has a token already.
        """
        if not name or not name.isprintable() or len(name) > 100:
            raise UsageError("the name of a token is text of at most 100 characters in one line")
        unknown = set(scopes) - set(SCOPES)
        if not scopes or unknown:
            raise UsageError(f"a token has scopes, of these: {', '.join(SCOPES)}")
        token = PREFIX + secrets.token_urlsafe(32)
        with self._alone():
            tokens = self.tokens() if self.path.exists() else []
            if any(other.name == name for other in tokens):
                raise UsageError(f"{name} has a token already: revoke it first")
            ordered = tuple(scope for scope in SCOPES if scope in scopes)
            self._write([*tokens, Token(name, ordered, hash_of(token), int(time.time()))])
        return token

    def revoke(self, name: str) -> None:
        """Take a token out. Raises UsageError where there is none of that name."""
        with self._alone():
            tokens = self.tokens()
            left = [token for token in tokens if token.name != name]
            if len(left) == len(tokens):
                raise UsageError(f"{name} has no token in {self.path}")
            self._write(left)

    def _read(self, mode: int) -> list[Token]:
        if not stat.S_ISREG(mode):
            raise EventferryError(f"{self.path} is no file")
        if mode & 0o077:
            raise EventferryError(
                f"others may read or write the file of tokens {self.path} (mode {stat.S_IMODE(mode):04o}): chmod 600 it"
            )
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Content).tokens
        except msgspec.MsgspecError as error:
            raise EventferryError(f"{self.path} is no file of tokens: {error}") from None

    def _write(self, tokens: list[Token]) -> None:
        beside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        text = msgspec.json.format(msgspec.json.encode(_Content(tokens)), indent=2) + b"\n"
        try:
            descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise EventferryError(f"{self.path} cannot be written: {error.strerror}") from None
        self._seen = None

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes the file meanwhile. The folder is locked: the file itself is replaced."""
        try:
            folder = os.open(self.path.parent, os.O_RDONLY)
        except OSError as error:
            raise EventferryError(f"{self.path} cannot be written: {error.strerror}") from None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def hash_of(token: str) -> str:
    """What the file holds of a token. No salt and no slow hash: a token is 256 random bits, not a password."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
