"""Why input was refused. A decoder only tells that a line is wrong; here it is looked at again to say what is.

Only what is refused comes here, so this need not be fast. It takes no more memory than the decoder did.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import inspect

from eventferry.errors import InputError
from eventferry.lines.spelling import EVENT_KEYS, LONE_SURROGATE, duplicate_key, field_at, lone_surrogate

_TOO_DEEP = "nests more deeply than can be read"
_SHOWN = 100  # characters of the input that an error repeats
_DIGITS = 40  # characters of a number that an error repeats
_LONG = 1024 * 1024
"""Bytes of a line that is not searched for the place where it stops being JSON: that would take much memory."""
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_JSON = json.JSONDecoder(parse_int=len, parse_float=len)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_REST_OF_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?')
_NOT_FINITE = re.compile(rb"NaN|-?Infinity")


class Fault(NamedTuple):
    """What is wrong with one field of an object."""

    field: str  # its key, as an error shows it
    problem: Literal[
        "unknown", "missing", "wrong"
    ]  # there is no such field, it is missing, or its value is wrong
    wanted: str  # what its value must be; for an unknown field, the fields that there are
    found: str  # what its value is; it never holds the characters of a string

    @property
    def reason(self) -> str:
        """In words, without the field."""
        if self.problem == "unknown":
            return f"unknown key; known keys: {self.wanted}"
        if self.problem == "missing":
            is_position = self.field in ("threadId", "threadCounter")
            return (
                "is missing (an incremental import gives positions to events)"
                if is_position
                else "is missing"
            )
        return f"must be {self.wanted}, not {self.found}"


def fault_in(members: Mapping[str, Any], shape: type[msgspec.Struct], *, strict: bool = True) -> Fault | None:
    """The first fault in the members of an object that was refused: values, or `msgspec.Raw` where they are JSON texts
    still. None if each is right in itself. In `strict` checks a string may not stand for a number or a truth value, as
    in `msgspec.convert`."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    for key, value in members.items():
        field = fields.get(key)
        if field is None:
            if shape.__struct_config__.forbid_unknown_fields:
                return Fault(shown(key), "unknown", ", ".join(fields) or "none", "")
        elif not _is_a(value, field.type, strict=strict):
            return Fault(key, "wrong", _in_words(inspect.type_info(field.type)), _found(value))
    for key, field in fields.items():
        if field.required and key not in members:
            return Fault(key, "missing", _in_words(inspect.type_info(field.type)), "nothing")
    return None


def refused_line(line: bytes, shape: type[msgspec.Struct], *, may_ignore: bool = False) -> InputError:
    """The error, without a place, for a line that does not decode as `shape`; `may_ignore`: the caller could have
    unknown keys dropped."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return InputError(f"is not UTF-8: {error.reason}")
    try:
        members = _MEMBERS.decode(line)
        fault = fault_in(members, shape)
        key = duplicate_key(line) if fault is None else None
    except msgspec.ValidationError:
        return _no_object(line)
    except RecursionError:
        return InputError(_TOO_DEEP)
    except msgspec.DecodeError:
        return _not_json(line)
    if fault is None:
        return InputError("is not an event") if key is None else _twice(key)
    if fault.problem == "wrong" and lone_surrogate(bytes(members[fault.field])) is not None:
        return InputError(LONE_SURROGATE, field=fault.field)
    return refused(fault, may_ignore=may_ignore)


def refused(fault: Fault, *, may_ignore: bool) -> InputError:
    """The error for a fault; of an unknown key it says how to have it dropped, if the caller may."""
    if may_ignore and fault.problem == "unknown":
        return InputError("unknown key (ignore_unknown_keys=True drops unknown keys)", field=fault.field)
    return InputError(fault.reason, field=fault.field)


def _no_object(line: bytes) -> InputError:
    value = line.strip()
    if value[:1] not in (b"[", b'"'):
        try:
            msgspec.json.decode(value, type=msgspec.Raw)
        except msgspec.DecodeError:  # the decoder did not come to what follows
            return _not_json(line)
    return InputError(f"must be an object, not {_found(msgspec.Raw(value))}")


def cut_off(error: InputError) -> InputError:
    """The error for a last line that has no line feed and was refused: it says that the input is cut off there, unless
    the line is whole."""
    if error.field is not None:
        return error
    reason = f"the input ends inside an event ({error.reason})"
    return InputError(reason, line=error.line, byte_offset=error.byte_offset)


def refuse_duplicate_key(line: bytes, keys: Collection[str] = EVENT_KEYS) -> None:
    """Raises InputError, without a place, if a key of an event, or one of `keys`, occurs twice in a line that is
    JSON."""
    try:
        key = duplicate_key(line, keys)
    except RecursionError:
        raise InputError(_TOO_DEEP) from None
    if key is not None:
        raise _twice(key)


def shown(name: str) -> str:
    """A name from the input as an error repeats it: shortened, and without characters that control a terminal."""
    cut = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def _twice(key: str) -> InputError:
    return InputError("this key occurs twice in the line", field=key)


def _is_a(value: Any, kind: Any, *, strict: bool) -> bool:
    try:
        if isinstance(value, msgspec.Raw):
            msgspec.json.decode(value, type=kind)
        else:
            msgspec.convert(value, kind, strict=strict)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    return True


def _in_words(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType(ge=None, le=None):
            return "a whole number"
        case inspect.IntType(ge=least, le=None):
            return f"a whole number of at least {least}"
        case inspect.IntType(ge=least, le=most):
            return f"a whole number from {least} to {most}"
        case inspect.StrType(max_length=int(most)):
            return f"a string of at most {most} characters"
        case inspect.StrType(pattern=str(pattern)):
            return f"a string that matches {pattern}"
        case inspect.StrType():
            return "a string"
        case inspect.BoolType():
            return "true or false"
        case inspect.NoneType():
            return "null"
        case inspect.LiteralType(values=values):
            return f"one of {', '.join(map(str, values))}"
        case inspect.ListType(item_type=item):
            return f"a list, each {_in_words(item)}"
        case inspect.UnionType(types=kinds):
            return " or ".join(map(_in_words, kinds))
    return "a JSON value"


def _found(value: Any) -> str:
    if isinstance(value, msgspec.Raw):
        return _found_text(bytes(value))
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    if isinstance(value, str):
        return "a string" if len(value) <= _SHOWN else f"a string of {len(value)} characters"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, int):
        return str(value) if value.bit_length() <= 128 else "a number of more than 38 digits"
    if isinstance(value, list | tuple):
        return "an array"
    return "an object" if isinstance(value, dict) else f"a value of the class {type(value).__name__}"


def _found_text(text: bytes) -> str:
    """The same of a value that is a JSON text still."""
    if text[:1] == b'"':
        try:
            return _found(msgspec.json.decode(text, type=str))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return "a string"
    if text[:1] in (b"[", b"{"):
        return "an array" if text[:1] == b"[" else "an object"
    return text.decode() if len(text) <= _DIGITS else f"a number of {len(text)} characters"


def _not_json(line: bytes) -> InputError:
    if (at := lone_surrogate(line)) is not None:
        return InputError(LONE_SURROGATE, field=field_at(line, at))
    outside = _REST_OF_STRING.sub(lambda string: b" " * len(string[0]), line)
    if (number := _NOT_FINITE.search(outside)) is not None:
        return InputError(f"{number[0].decode()} is not a JSON value", field=field_at(line, number.start()))
    if len(line) > _LONG:
        return InputError("is not valid JSON")
    text = line.decode()
    try:
        _JSON.decode(text)
    except RecursionError:
        return InputError(_TOO_DEEP)
    except json.JSONDecodeError as error:
        place = len(text[: error.pos].encode())
        is_open = line[place : place + 1] == b'"' and _STRING.match(line, place) is None
        if is_open or not line[place:].strip():
            return InputError("is not whole: the JSON ends too early")
        return InputError(f"is not valid JSON at byte {place} of the line")
    return InputError("is not valid JSON")
