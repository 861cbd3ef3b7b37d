"""The bytes of a part: lines, packed by zstd in one frame with a checksum, and then encrypted by age where there are
recipients. `zstdcat` and `age -d` read them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from eventferry.backup.format import Digest, Part, Stored, sha256
from eventferry.errors import MissingExtraError, RepositoryDamagedError, RepositoryError, UsageError
from eventferry.lines.unpacking import Zstd, zstd_module

ENDING = ".jsonl.zst"
ENCRYPTED = ".age"


class Recipient(NamedTuple):
    """Whoever can read what is encrypted.

    Attributes:
        text: the public key, as age writes it.
        fingerprint: 16 hex digits of the SHA-256 of that.
        key: pyrage's object.
    """

    text: str
    fingerprint: str
    key: Any


class Packed(NamedTuple):
    """A part that is ready to be stored."""

    data: bytes
    plain: Digest
    stored: Stored


class Packer:
    """Packs the lines of one part. What is held in memory is packed, and as large as the part will be.

    The same lines give the same frame, by the same version of the library.
    """

    def __init__(self, recipients: Sequence[Recipient] = ()) -> None:
        zstd = zstd_module()
        self._packing: Any = zstd.ZstdCompressor(options={zstd.CompressionParameter.checksum_flag: 1})
        self._recipients = recipients
        self._pieces: list[bytes] = []
        self._hash = hashlib.sha256()
        self.bytes = 0

    def add(self, lines: bytes | memoryview) -> None:
        """Some of the lines; they may be cut anywhere."""
        self._hash.update(lines)
        self.bytes += len(lines)
        self._pieces.append(self._packing.compress(lines))

    def finish(self) -> Packed:
        """All lines were added."""
        self._pieces.append(self._packing.flush())
        data = b"".join(self._pieces)
        self._pieces.clear()
        digest: str | None = self._hash.hexdigest()
        if self._recipients:
            data = _pyrage().encrypt(data, [recipient.key for recipient in self._recipients])
            digest = None  # whoever guesses what a small part holds could see that it does
        return Packed(
            data, Digest(bytes=self.bytes, sha256=digest), Stored(bytes=len(data), sha256=sha256(data))
        )


def check_stored(name: str, part: Part, data: bytes | None) -> bytes:
    """The bytes of a part's object, which stands under this name, if they are those that were written. No key is
    needed. Raises RepositoryDamagedError."""
    if data is None:
        raise RepositoryDamagedError(name, "it is missing")
    if len(data) != part.stored.bytes:
        raise RepositoryDamagedError(name, f"it has {len(data)} bytes instead of {part.stored.bytes}")
    if sha256(data) != part.stored.sha256:
        raise RepositoryDamagedError(name, "its checksum is wrong: it was changed")
    return data


def unpacked(name: str, part: Part, data: bytes, identities: Sequence[Any] = ()) -> Iterator[bytes]:
    """The lines of a part, in pieces of at most a megabyte, from the bytes that `check_stored` gave. They are checked
    on the way, and the last piece comes only if all was right.

    Args:
        name: of the object, for messages.
        part: what is known of it.
        data: its bytes.
        identities: of `load_identities`, where it is encrypted.

    Raises:
        RepositoryError: it is encrypted, and not to any of the identities.
        RepositoryDamagedError: it does not hold the lines that were written.
    """
    if part.is_encrypted:
        data = _decrypted(name, data, identities)
    hashed, size = hashlib.sha256(), 0
    unpacking, held = Zstd(name), b""
    for piece in unpacking.feed(data):
        if held:
            yield held
        hashed.update(piece)
        size += len(piece)
        held = piece
    unpacking.finish()
    if size != part.plain.bytes or part.plain.sha256 not in (None, hashed.hexdigest()):
        raise RepositoryDamagedError(name, "it does not hold the lines that were written")
    if held:
        yield held


def _decrypted(name: str, data: bytes, identities: Sequence[Any]) -> bytes:
    if not identities:
        raise RepositoryError(f"{name} is encrypted: give the key of one of its recipients (--identity)")
    pyrage = _pyrage()
    try:
        decrypted: bytes = pyrage.decrypt(data, list(identities))
    except pyrage.DecryptError as error:
        raise RepositoryError(f"{name} cannot be decrypted: {error}") from None
    return decrypted


# keys

_PUBLIC = ("age1", "ssh-")
_SECRET = "AGE-SECRET-KEY-"  # noqa: S105  # how one begins


def load_recipients(given: Iterable[str | os.PathLike[str]]) -> list[Recipient]:
    """Recipients, each once, in the order of their fingerprints.

    Args:
        given: public keys (`age1…`, `ssh-ed25519 …`, `ssh-rsa …`), or files of them, a key on each line; lines that
            begin with # are comments.

    Raises:
        UsageError: one is not a public key, or a file cannot be read or has none.
        MissingExtraError: encryption needs `eventferry[backup]`.
    """
    found = {}
    for each in given:
        text = os.fspath(each)
        if text.startswith((*_PUBLIC, _SECRET)):
            places = [(text[:80] if text.startswith(_PUBLIC) else "a recipient", text)]
        else:
            places = [
                (f"{text}, line {number}", line)
                for number, line in _lines_of(text, _text_of(text, "recipients"), "recipients")
            ]
        for place, line in places:
            recipient = _recipient(line, place)
            found[recipient.fingerprint] = recipient
    return [found[fingerprint] for fingerprint in sorted(found)]


def _recipient(text: str, place: str) -> Recipient:
    pyrage = _pyrage()
    if _SECRET in text or "PRIVATE KEY" in text:
        raise UsageError(f"{place}: this is a secret key; a recipient is the public key that belongs to it")
    kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
    public = " ".join(text.split()[:2]) if text.startswith("ssh-") else text
    try:
        key = kind.Recipient.from_str(public)
    except pyrage.RecipientError as error:
        raise UsageError(
            f"{place}: this is not a public key of age (age1…) or SSH (ssh-ed25519 …, ssh-rsa …): {error}"
        ) from None
    return Recipient(public, sha256(public.encode())[:16], key)


class Identities(Sequence[Any]):
    """Secret keys, as pyrage's objects. These cannot be pickled, so what their files hold is, for a process of ours.

    Args:
        files: paths, and the texts that they hold.
    """

    def __init__(self, files: Sequence[tuple[str, str]]) -> None:
        self._files = files
        self._keys = [key for path, text in files for key in _keys_in(path, text)]

    def __getitem__(self, index: Any) -> Any:
        return self._keys[index]

    def __len__(self) -> int:
        return len(self._keys)

    def __reduce__(self) -> tuple[type[Identities], tuple[Sequence[tuple[str, str]]]]:
        return Identities, (self._files,)


def load_identities(files: Iterable[str | os.PathLike[str]]) -> Identities:
    """The secret keys in files: of age, a key on each line (as age-keygen writes them), or of SSH without a passphrase.

    Raises:
        UsageError: a file cannot be read, or has no such key.
        MissingExtraError: encryption needs `eventferry[backup]`; not for no files.
    """
    return Identities([(os.fspath(file), _text_of(os.fspath(file), "keys")) for file in files])


def _keys_in(path: str, text: str) -> list[Any]:
    pyrage = _pyrage()
    lines = [line for _, line in _lines_of(path, text, "keys")]
    try:
        if "PRIVATE KEY" in lines[0]:
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        return [pyrage.x25519.Identity.from_str(line) for line in lines]
    except pyrage.IdentityError as error:
        raise UsageError(
            f"{path} is not a file of secret keys of age, nor of SSH without a passphrase: {error}"
        ) from None


def _text_of(path: str, what: str) -> str:
    """What a file of keys holds."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise UsageError(f"the file of {what} {path} cannot be read: {reason}") from None


def _lines_of(path: str, text: str, what: str) -> list[tuple[int, str]]:
    """The lines of a file of keys, with their numbers."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    if not (lines := [(number, line) for number, line in lines if line and not line.startswith("#")]):
        raise UsageError(f"the file of {what} {path} has none")
    return lines


def _pyrage() -> Any:
    try:
        import pyrage
    except ImportError:
        raise MissingExtraError("encryption needs a package: pip install 'eventferry[backup]'") from None
    return pyrage
