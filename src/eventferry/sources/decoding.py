"""What a column of data or metadata becomes: JSON text, by the steps that a mapping names."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any, TypeAlias

import msgspec

from eventferry.errors import InputError, MappingError, MissingExtraError
from eventferry.lines.payload import encode_payload
from eventferry.user_functions import load_function

Step: TypeAlias = Callable[[Any], Any]

MAX_INFLATED = 1024 * 1024 * 1024
"""Bytes that a compressed column may become: more is taken for an attack."""


NULL = b"null"
"""What a value becomes that is null, whatever the steps are."""

_FORMAT = msgspec.json.format


class UndecodableError(Exception):
    """A value that is not what the mapping says; the message says what is wrong with it."""


def decoder(steps: Sequence[str]) -> Callable[[Iterable[Any]], list[bytes]]:
    """What makes compact JSON texts of a column's values by these steps; it raises UndecodableError. Raises
    MappingError for a function that cannot be loaded, and MissingExtraError where a step needs a package that is not
    installed."""
    chain = [_step(step) for step in steps if step != "json"]
    if not chain:
        return compact
    return lambda values: [
        NULL if value is None else as_json(reduce(lambda found, step: step(found), chain, _text(value)))
        for value in values
    ]


def compact(values: Iterable[Any]) -> list[bytes]:
    """The JSON texts in a column, without spaces between their tokens; numbers and the order of keys as they came."""
    try:
        return [
            NULL if value is None else _FORMAT(value if type(value) is bytes else _bytes(value), indent=-1)
            for value in values
        ]
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError) as error:
        raise UndecodableError(f"not JSON: {error}") from None


def _bytes(value: Any) -> bytes:
    text = _text(value)
    return text.encode() if isinstance(text, str) else text


def _text(value: Any) -> str | bytes:
    """What a column holds, as a decoder takes it. A number is one of SQLite's, whose columns of JSON keep numbers as
    such."""
    if type(value) is bytes or type(value) is str:
        return value
    if type(value) is int or type(value) is float:
        return repr(value)
    raise UndecodableError(f"text or bytes are needed here, not {shown(value)}: cast it in the SELECT")


def shown(value: Any) -> str:
    """A value as a message may show it."""
    if value is None:
        return "null"
    if isinstance(value, int | float):
        return repr(value)
    return f"{value[:60]!r}" if isinstance(value, str | bytes) else type(value).__name__


def as_json(value: Any) -> bytes:
    """The JSON text of what the last step gave: text is JSON already, anything else a JSON value."""
    if isinstance(value, bytes | bytearray | memoryview):
        return compact([bytes(value)])[0]
    if isinstance(value, str):
        return compact([value])[0]
    try:
        return encode_payload(value)
    except InputError as error:
        raise UndecodableError(error.reason) from None


def _step(name: str) -> Step:
    if name == "yaml":
        return _yaml()
    return _STEPS.get(name) or _function(name)


def _function(name: str) -> Step:
    try:
        found = load_function(name)
    except ValueError as error:
        raise MappingError(f"decode: {error}") from None

    def call(value: Any) -> Any:
        try:
            return found(value)
        except (Exception, SystemExit) as error:
            raise UndecodableError(f"{name} raised {type(error).__name__}: {error}") from error

    return call


def _yaml() -> Step:
    try:
        import yaml
    except ImportError:
        raise MissingExtraError(
            "the mapping decodes YAML, which needs a package: pip install 'eventferry[yaml]'"
        ) from None

    def load(value: Any) -> Any:
        try:
            return yaml.load(value, Loader=yaml.CSafeLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UndecodableError(f"not YAML: {' '.join(str(error).split())}") from None

    return load


def _base64(value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise UndecodableError(f"not base64: {error}") from None


def _hex(value: Any) -> bytes:
    try:
        return bytes.fromhex(value.decode() if isinstance(value, bytes) else value)
    except (UnicodeDecodeError, ValueError, TypeError) as error:
        raise UndecodableError(f"not hexadecimal: {error}") from None


def _inflated(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise UndecodableError("compressed data is bytes, and this is text")
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(value, MAX_INFLATED)
    except zlib.error as error:
        raise UndecodableError(f"not compressed by zlib: {error}") from None
    if stream.unconsumed_tail:
        raise UndecodableError(f"it would inflate to more than {MAX_INFLATED:,} bytes")
    if not stream.eof or stream.unused_data:
        raise UndecodableError("the compressed data is cut off, or something follows it")
    return found


_STEPS: dict[str, Step] = {"base64": _base64, "hex": _hex, "zlib": _inflated}
