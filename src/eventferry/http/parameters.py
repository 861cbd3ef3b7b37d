"""Parameters of requests, in the path and in the query: decoded exactly and checked, or refused by name."""

from __future__ import annotations

import re
from typing import Any, TypeVar
from urllib.parse import quote, unquote, unquote_to_bytes

import msgspec
from starlette.types import Scope

from eventferry.errors import UsageError
from eventferry.lines.refusal import fault_in

Q = TypeVar("Q", bound=msgspec.Struct)

MAX_PARAMETERS = 10_000


def parsed_query(query: bytes, shape: type[Q]) -> Q:
    """The query parameters of a request. Raises UsageError if one is wrong, unknown or repeated."""
    lists = {item.encode_name for item in msgspec.structs.fields(shape) if _is_list(item.type)}
    given: dict[str, Any] = {}
    pairs = [pair.replace(b"+", b" ").partition(b"=") for pair in query.split(b"&") if pair]
    if len(pairs) > MAX_PARAMETERS:
        raise UsageError(f"a request may have at most {MAX_PARAMETERS} parameters")
    for written, _, escaped in pairs:
        what = f"the name of the parameter {written.decode('latin-1')!r:.60}"
        name = as_text(unescaped(written, what), what)
        what = f"the parameter {name!r:.60}"
        value = as_text(unescaped(escaped, what), what)
        if name in lists:
            given.setdefault(name, []).append(value)
        elif name in given:
            raise UsageError(f"the parameter {name!r:.60} is given twice")
        else:
            given[name] = value
    try:
        return msgspec.convert(given, shape, strict=False)
    except msgspec.ValidationError:
        fault = fault_in(given, shape, strict=False)
        if fault is None:
            raise
    if fault.problem == "unknown":
        raise UsageError(f"unknown parameter {fault.field!r}; known parameters: {fault.wanted}")
    raise UsageError(f"the parameter {fault.field!r} {fault.reason}")


def path_parameters(scope: Scope) -> dict[str, bytes]:
    """The path parameters of a request, as the exact bytes that were escaped.

    Servers decode a path with U+FFFD for invalid UTF-8, and turn `%2F` into a slash: two names could become one. So the
    parameters are taken from the raw path.

    Raises:
        UsageError: the path is ambiguous.
    """
    left = {name: str(value) for name, value in scope.get("path_params", {}).items()}
    raw_path: bytes | None = scope.get("raw_path")
    if raw_path is None:
        raw_path = quote(scope["path"]).encode()
        for name, decoded in left.items():
            if "\ufffd" in decoded:  # the original bytes are lost
                raise UsageError(f"the parameter {name!r} is not UTF-8")
    found: dict[str, bytes] = {}
    # From the end: the beginning may belong to an application in which this one is mounted.
    for segment in reversed(raw_path.partition(b"?")[0].split(b"/")):
        name = next(reversed(left), "")
        is_name = bool(name) and unquote(segment.decode("utf-8", "replace")) == left[name]
        value = unescaped(segment, f"the parameter {name!r}" if is_name else "the path")
        if b"/" in value:
            raise UsageError("a name in the path contains a slash (%2F)")
        if is_name:
            found[name] = value
            del left[name]
        elif not as_text(value, "the path").isprintable():
            raise UsageError("the path contains a control character")
    return found


_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


def unescaped(escaped: bytes, what: str) -> bytes:
    """Decode percent-encoding, exactly. Raises UsageError if it is malformed."""
    if _BROKEN_ESCAPE.search(escaped):
        raise UsageError(f"{what} contains a % that does not begin an escape; write %25 for a %")
    value = unquote_to_bytes(escaped)
    if b"\0" in value:
        raise UsageError(f"{what} contains the character U+0000")
    return value


def as_text(value: bytes, what: str) -> str:
    """Decode UTF-8. Raises UsageError if it is malformed."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is not UTF-8 at byte {error.start}: {error.reason}") from None


def _is_list(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is list or any(
        _is_list(part) for part in getattr(kind, "__args__", ())
    )
