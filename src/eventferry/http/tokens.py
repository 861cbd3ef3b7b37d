"""Tokens: who may do what, in a file that holds only their hashes.

The file is JSON, readable by its owner alone, and is written beside itself and renamed into place, so a reader sees the
old one or the new one. Where its path is a link, the file that it leads to is replaced: a service may know that by
another path. A service reads the file again when it has changed: a revoked token ends with the next request.
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
        self.path = Path(path).absolute()  # a process may change its folder
        self._seen: tuple[int, ...] | None = None
        self._tokens: list[Token] = []

    def tokens(self) -> list[Token]:
        """The tokens as they are now.

        Raises:
            EventferryError: the file cannot be read, is not a file of tokens, or others may read it.
        """
        try:
            found = self.path.stat()
            state = (
                *(found.st_dev, found.st_ino, found.st_mode),
                *(found.st_size, found.st_mtime_ns, found.st_ctime_ns),
            )
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
        with self._alone() as place:
            tokens = self.tokens() if place.exists() else []
            if any(other.name == name for other in tokens):
                raise UsageError(f"{name} has a token already: revoke it first")
            ordered = tuple(scope for scope in SCOPES if scope in scopes)
            self._write(place, [*tokens, Token(name, ordered, hash_of(token), int(time.time()))])
        return token

    def revoke(self, name: str) -> None:
        """Take a token out. Raises UsageError where nobody of that name has one."""
        with self._alone() as place:
            tokens = self.tokens()
            left = [token for token in tokens if token.name != name]
            if len(left) == len(tokens):
                raise UsageError(f"{name} has no token in {self.path}")
            self._write(place, left)

    def _read(self, mode: int) -> list[Token]:
        if not stat.S_ISREG(mode):
            raise EventferryError(f"{self.path} is not a file")
        if mode & 0o077:
            raise EventferryError(
                f"others may read or write the file of tokens {self.path} (mode {stat.S_IMODE(mode):04o}): chmod 600 it"
            )
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Content).tokens
        except msgspec.MsgspecError as error:
            raise EventferryError(f"{self.path} is not a file of tokens: {error}") from None

    def _write(self, place: Path, tokens: list[Token]) -> None:
        beside = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
        text = msgspec.json.format(msgspec.json.encode(_Content(tokens)), indent=2) + b"\n"
        try:
            old = place.stat() if place.exists() else None
            if old is not None and old.st_nlink > 1:
                raise EventferryError(
                    f"{self.path} has another name (a hard link), under which nothing would change: remove one of them"
                )
            descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                if old is not None:
                    # Whoever changes it may be another than the service that reads it.
                    if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                        os.fchown(descriptor, old.st_uid, old.st_gid)
                    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(place)
        except OSError as error:
            raise EventferryError(f"{self.path} cannot be written: {error.strerror}") from None
        finally:
            beside.unlink(missing_ok=True)
        self._seen = None

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """Where the file is; nobody else changes it meanwhile. Its folder is locked: the file itself is replaced."""
        try:
            place = self.path.resolve()
            folder = os.open(place.parent, os.O_RDONLY)
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "its links lead in a circle"
            raise EventferryError(f"{self.path} cannot be written: {reason}") from None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield place
            os.fsync(folder)
        finally:
            os.close(folder)


def hash_of(token: str) -> str:
    """What the file holds of a token. No salt and no slow hash: a token is 256 random bits, not a password."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
