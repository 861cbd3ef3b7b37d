"""Tokens and their scopes, in a file that holds only hashes of the tokens.

The file is JSON and readable by its owner only. It is replaced by a rename, so that readers see either the old file or
the new one. If its path is a link, the target is replaced: the service may know it by another path. The service reads
the file again when it has changed, so a revoked token is refused from the next request on.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import secrets
import stat
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import msgspec

from eventferry.errors import EventferryError, UsageError
from eventferry.lines.files import name_beside

Scope: TypeAlias = Literal["read", "write", "import", "secrets"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

PREFIX = "eventferry_"
"""Identifies a token, for people and for scanners that look for keys in repositories."""


class Token(msgspec.Struct, frozen=True):
    """A token in the file.

    Attributes:
        name: of its owner.
        scopes: what it may do.
        sha256: the hash of the token.
        created: in seconds since 1970.
    """

    name: str
    scopes: tuple[Scope, ...]
    sha256: str
    created: int


class _Content(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[Token]


class Tokens(ABC):
    """Tokens that are valid."""

    @abstractmethod
    def tokens(self) -> list[Token]:
        """The current tokens."""

    def find(self, token: str) -> Token | None:
        """Look up a token; None if it is not valid. Raises as `tokens` does."""
        return self.with_hash(hash_of(token))

    def with_hash(self, digest: str) -> Token | None:
        """Look up a token by its hash. Raises as `tokens` does."""
        found = None
        for candidate in self.tokens():  # always all of them, so that the time reveals nothing
            if hmac.compare_digest(candidate.sha256, digest):
                found = candidate
        return found


class TokenFile(Tokens):
    """A token file.

    Args:
        path: of the file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # the process may change its directory
        self._seen: tuple[int, ...] | None = None
        self._tokens: list[Token] = []

    def tokens(self) -> list[Token]:
        """The current tokens.

        Raises:
            EventferryError: the file cannot be read, is not a token file, or is accessible to others.
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
            raise EventferryError(f"the token file {self.path} cannot be read: {error.strerror}") from None
        return self._tokens

    def add(self, name: str, scopes: Sequence[str]) -> str:
        """Create and return a token. Creates the file if it is missing.

        Raises:
            UsageError: the name or a scope is not valid, or the name has a token already.
        """
        if not name or not name.isprintable() or len(name) > 100:
            raise UsageError("the name of a token must be 1 to 100 printable characters")
        unknown = set(scopes) - set(SCOPES)
        if not scopes or unknown:
            raise UsageError(f"a token needs one or more of these scopes: {', '.join(SCOPES)}")
        token = PREFIX + secrets.token_urlsafe(32)
        with self._alone() as place:
            tokens = self.tokens() if place.exists() else []
            if any(other.name == name for other in tokens):
                raise UsageError(f"{name} already has a token: revoke it first")
            ordered = tuple(scope for scope in SCOPES if scope in scopes)
            self._write(place, [*tokens, Token(name, ordered, hash_of(token), int(time.time()))])
        return token

    def revoke(self, name: str) -> None:
        """Remove a token. Raises UsageError if there is none with this name."""
        with self._alone() as place:
            tokens = self.tokens()
            left = [token for token in tokens if token.name != name]
            if len(left) == len(tokens):
                raise UsageError(f"{self.path} has no token for {name}")
            self._write(place, left)

    def _read(self, mode: int) -> list[Token]:
        if not stat.S_ISREG(mode):
            raise EventferryError(f"{self.path} is not a file")
        if mode & 0o077:
            raise EventferryError(
                f"the token file {self.path} is accessible to others (mode {stat.S_IMODE(mode):04o}): chmod 600 it"
            )
        try:
            return msgspec.json.decode(self.path.read_bytes(), type=_Content).tokens
        except msgspec.MsgspecError as error:
            raise EventferryError(f"{self.path} is not a token file: {error}") from None

    def _write(self, place: Path, tokens: list[Token]) -> None:
        beside = name_beside(place)
        text = msgspec.json.format(msgspec.json.encode(_Content(tokens)), indent=2) + b"\n"
        try:
            old = place.stat() if place.exists() else None
            if old is not None and old.st_nlink > 1:
                raise EventferryError(
                    f"{self.path} has another hard link, which would keep the old content: remove one of the two"
                )
            descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                if old is not None:
                    # The user who changes the file may not be the one who runs the service.
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
        """The resolved path, while nobody else changes the file. Locks the directory, since the file is replaced."""
        try:
            place = self.path.resolve()
            folder = os.open(place.parent, os.O_RDONLY)
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "too many levels of symbolic links"
            raise EventferryError(f"{self.path} cannot be written: {reason}") from None
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield place
            os.fsync(folder)
        finally:
            os.close(folder)


class OneToken(Tokens):
    """A token that stands in no file, and ends with the process.

    Args:
        name: of its owner.
        scopes: what it may do.
    """

    def __init__(self, name: str, scopes: Sequence[Scope]) -> None:
        self.token = PREFIX + secrets.token_urlsafe(32)
        self._tokens = [Token(name, tuple(scopes), hash_of(self.token), int(time.time()))]

    def tokens(self) -> list[Token]:
        """The token."""
        return self._tokens


def hash_of(token: str) -> str:
    """The hash of a token. It needs no salt and no slow hash function: a token is 256 random bits, not a password."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).hexdigest()
