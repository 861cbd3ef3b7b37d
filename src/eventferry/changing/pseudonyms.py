"""Pseudonyms: the same value gives the same one in every store, run and database, and only the key leads back.

They are HMAC-SHA-256 of the value with the key. Equal keys give equal pseudonyms; without the key nobody can tell whose
one is, not even by trying all values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec

from eventferry.comparing.canonical import canonical
from eventferry.errors import RulesError

MIN_KEY_BYTES = 16

_BLOCK = 64  # bytes that SHA-256 takes at a time
_DIGITS_OF_A_HASH = 60  # of the 77 that 256 bits have: so each is as likely as any other
_DIGIT = re.compile("[0-9]")
_LIKE_A_NUMBER = re.compile(r"[ +\-()./#*]*[0-9][0-9 +\-()./#*]*")
_WHOLE_NUMBER = re.compile("-?[0-9]+")
_QUOTE = ord('"')


class KeyPlace(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the key of pseudonyms is found; never the key itself.

    Attributes:
        key_file: a file that holds nothing else; white space around the key is ignored.
        key_env: or an environment variable.
    """

    key_file: str | None = None
    key_env: str | None = None

    def key(self) -> bytes:
        """The key. Raises RulesError if it is missing, or shorter than 16 bytes."""
        if (self.key_file is None) == (self.key_env is None):
            raise RulesError("pseudonyms: say either key_file or key_env")
        if self.key_env is not None:
            place = f"the environment variable {self.key_env}"
            found = os.environb.get(self.key_env.encode())
            if found is None:
                raise RulesError(f"pseudonyms: {place}, which holds the key, is not set")
        else:
            place = f"the file {self.key_file}"
            try:
                found = Path(self.key_file or "").read_bytes()
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or error
                raise RulesError(
                    f"pseudonyms: {place}, which holds the key, cannot be read: {reason}"
                ) from None
        found = found.strip()
        if len(found) < MIN_KEY_BYTES:
            raise RulesError(
                f"pseudonyms: the key in {place} has {len(found)} bytes, and needs {MIN_KEY_BYTES} or more "
                "(openssl rand -hex 32 makes one)"
            )
        return found


class Pseudonyms:
    """Gives values of payloads their pseudonyms. null and the empty string stay as they are: they say nothing."""

    def __init__(self, key: bytes) -> None:
        # HMAC as RFC 2104 says it, with what depends on the key alone worked out once: twice as fast as hmac.digest.
        block = (sha256(key).digest() if len(key) > _BLOCK else key).ljust(_BLOCK, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    @property
    def fingerprint(self) -> str:
        """Of the key, in hex."""
        return self._hash(b"fingerprint\0")[:16]

    def of_text(self, text: str) -> str:
        """32 hex digits."""
        return self._hash(b"plain\0" + text.encode())[:32]

    def plain(self, value: msgspec.Raw) -> msgspec.Raw:
        """The same for a JSON value: a number gets that of its digits as a string, 1.0 that of 1."""
        text = _meant(value)
        if not text:
            return value
        pseudonym = self._hash(b"plain\0" + text)[:32]
        return msgspec.Raw(f'"{pseudonym}"')

    def behind(self, prefixes: Sequence[str]) -> Callable[[msgspec.Raw], msgspec.Raw]:
        """The same, where a string that begins with one of these keeps it: the rest gets the pseudonym."""
        if not prefixes:
            return self.plain
        longest_first = sorted(prefixes, key=len, reverse=True)

        def prefixed(value: msgspec.Raw) -> msgspec.Raw:
            if bytes(value)[0] == _QUOTE:
                text = _meant(value).decode()
                for prefix in longest_first:
                    if text.startswith(prefix) and text != prefix:
                        return msgspec.Raw(msgspec.json.encode(prefix + self.of_text(text[len(prefix) :])))
            return self.plain(value)

        return prefixed

    def email(self, value: msgspec.Raw) -> msgspec.Raw:
        """An address that no mail reaches; addresses of one domain stay in one domain. What is no address gets a plain
        one."""
        text = _meant(value)
        local, _, domain = text.rpartition(b"@")
        if not (local and domain) or bytes(value)[0] != _QUOTE:
            return self.plain(value)
        person, place = self._hash(b"email\0" + text)[:32], self._hash(b"domain\0" + domain)[:16]
        return msgspec.Raw(f'"{person}@{place}.invalid"')

    def digits(self, value: msgspec.Raw) -> msgspec.Raw:
        """Another digit for each, and the spaces and signs between them as they are; the pseudonym is that of the
        digits alone. What is not just digits and such signs gets a plain one. A number stays one of as many digits."""
        is_text = bytes(value)[0] == _QUOTE
        text = (_meant(value) if is_text else bytes(value)).decode()
        if (_LIKE_A_NUMBER if is_text else _WHOLE_NUMBER).fullmatch(text) is None:
            return self.plain(value)
        other = self._digits("".join(_DIGIT.findall(text)))
        if is_text:
            signs = iter(other)
            return msgspec.Raw(b'"%b"' % _DIGIT.sub(lambda _: next(signs), text).encode())
        if other[0] == "0" and len(other) > 1:
            other = "1" + other[1:]
        return msgspec.Raw(b"%b%b" % (b"-" if text[0] == "-" else b"", other.encode()))

    def _digits(self, digits: str) -> str:
        found = ""
        while len(found) < len(digits):
            number = int(self._hash(b"digits %d\0%b" % (len(found), digits.encode())), 16)
            found += f"{number:0{2 * _DIGITS_OF_A_HASH}d}"[-_DIGITS_OF_A_HASH:]
        return found[: len(digits)]

    def _hash(self, text: bytes) -> str:
        """In hex."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.hexdigest()


def _meant(value: msgspec.Raw) -> bytes:
    """What a JSON value says, however it is spelled; nothing for null."""
    text = bytes(value)
    if text[0] == _QUOTE:
        return text[1:-1] if b"\\" not in text else msgspec.json.decode(text, type=str).encode()
    return b"" if text == b"null" else canonical(text)
