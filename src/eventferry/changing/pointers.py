"""JSON Pointers (RFC 6901) into a JSON text that is edited where they point; all other text stays byte for byte.

Only the objects and arrays on the way to a place are taken apart, and their members stay texts. An object goes into a
dict where that gives the same text again; where it does not, because a key occurs twice or is spelled with escapes that
need not be, it is kept as a list of members.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from eventferry.errors import ChangeError, RulesError
from eventferry.lines.payload import MAX_DEPTH

Pointer: TypeAlias = tuple[str | None, ...]
"""The tokens; None is `*`, every element of an array or member of an object."""

Slot: TypeAlias = tuple[Any, Any]
"""What holds a value, and the value's key in it."""

_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
_EVERY = "*"
_INDEX = re.compile(r"0|[1-9][0-9]{0,9}")
_STRAY = re.compile(r"~(?![01])")
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
_TO_THE_END = re.compile(rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+')
_BRACE, _BRACKET = b"{["


def parsed(text: str) -> Pointer:
    """The tokens of a pointer. Raises RulesError."""
    if text and not text.startswith("/"):
        raise RulesError(f"{text!r} is not a JSON Pointer: it begins with /, as in /customer/email")
    if _STRAY.search(text) is not None:
        raise RulesError(f"{text!r} is not a JSON Pointer: ~ is written ~0, and / within a name ~1")
    tokens = text.split("/")[1:]
    if len(tokens) > MAX_DEPTH:
        raise RulesError(f"a JSON Pointer has more than {MAX_DEPTH} parts")
    return tuple(None if token == _EVERY else token.replace("~1", "/").replace("~0", "~") for token in tokens)


class _Members:
    """An object whose text a dict would not give again: its keys as spelled and as meant, and its values, by their
    places."""

    def __init__(self, text: bytes) -> None:
        self.spelled: list[bytes] = []
        self.names: list[str] = []
        self.values: list[Any] = []
        at = 1
        while text[at : at + 1] == b'"':
            key = _STRING.match(text, at)
            if key is None:
                raise AssertionError("this is not JSON")
            end = _end_of_value(text, key.end() + 1)
            self.append(key[0], msgspec.Raw(text[key.end() + 1 : end]))
            at = end + 1

    def append(self, key: bytes, value: Any) -> None:
        self.spelled.append(key)
        self.names.append(msgspec.json.decode(key))
        self.values.append(value)

    def __getitem__(self, place: int) -> Any:
        return self.values[place]

    def __setitem__(self, place: int, value: Any) -> None:
        self.values[place] = value

    def __delitem__(self, place: int) -> None:
        del self.spelled[place], self.names[place], self.values[place]

    def encoded(self) -> msgspec.Raw:
        members = zip(self.spelled, map(_ENCODER.encode, self.values), strict=True)
        return msgspec.Raw(b"{%b}" % b",".join(b"%b:%b" % member for member in members))


def _end_of_value(text: bytes, at: int) -> int:
    """Where the value that begins there ends."""
    depth = 0
    while True:
        match = _TO_THE_END.match(text, at)
        at = at if match is None else match.end()
        sign = text[at]
        if sign in b"[{":
            depth += 1
        elif depth == 0:
            return at
        elif sign in b"]}":
            depth -= 1
        at += 1


_ENCODER = msgspec.json.Encoder(enc_hook=_Members.encoded)


class Documents:
    """JSON texts, compact, while they are edited; each by its number. Numbers that are given are iterated over once, as
    the texts are edited one by one: so who gives an iterator knows which text an error is about."""

    def __init__(self) -> None:
        # Objects and arrays are taken apart; any other value is its text. It is a place like those within them.
        self._roots: dict[int, Any] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._roots

    def open(self, texts: Mapping[int, msgspec.Raw]) -> None:
        """Take more texts in. All are taken apart in one go, or where one of them is no object, or one that a dict
        would not give again, one by one."""
        joined = b"\n".join((*texts.values(), b""))
        roots: list[Any]
        try:
            roots = _OBJECT.decode_lines(joined)
        except msgspec.DecodeError:
            roots = []
        if not roots or _ENCODER.encode_lines(roots) != joined:
            roots = [
                text if (apart := _taken_apart(bytes(text))) is None else apart for text in texts.values()
            ]
        self._roots.update(zip(texts, roots, strict=True))

    @property
    def texts(self) -> Iterator[tuple[int, msgspec.Raw]]:
        """All, as they are now."""
        roots = list(self._roots.values())
        texts = _ENCODER.encode_lines(roots).split(b"\n")[:-1]
        if len(texts) != len(roots):  # one of them was not compact
            texts = list(map(_ENCODER.encode, roots))
        return zip(self._roots, map(msgspec.Raw, texts), strict=True)

    def first(self, number: int, pointer: Pointer) -> msgspec.Raw | None:
        """The text of the value that a pointer finds; of several the first, and of equal keys the last; None if it
        finds none."""
        found = _places([(self._roots, number)], pointer)
        if not found:
            return None
        holder, key = found[-1] if isinstance(found[0][0], _Members) else found[0]
        return _text(holder[key])

    def replace(
        self, numbers: Iterable[int], pointer: Pointer, value: Callable[[msgspec.Raw], msgspec.Raw]
    ) -> int:
        """Put something else in the place of each value that a pointer finds; returns how many it found."""
        roots, count = self._roots, 0
        name = _member(pointer)
        for number in numbers:
            root = roots[number]
            if name is not None and root.__class__ is dict:
                if (node := root.get(name)) is not None:
                    root[name] = value(node if node.__class__ is msgspec.Raw else _text(node))
                    count += 1
                continue
            found = _places([(roots, number)], pointer)
            for holder, key in found:
                holder[key] = value(_text(holder[key]))
            count += len(found)
        return count

    def remove(self, numbers: Iterable[int], pointer: Pointer) -> int:
        """Remove each member or element that a pointer finds; returns how many it found."""
        roots, count = self._roots, 0
        name = _member(pointer)
        for number in numbers:
            root = roots[number]
            if name is not None and root.__class__ is dict:
                count += root.pop(name, None) is not None
                continue
            found = _places([(roots, number)], pointer)
            for holder, key in reversed(found):  # from the last on, so that those before keep their places
                del holder[key]
            count += len(found)
        return count

    def set(self, numbers: Iterable[int], pointer: Pointer, value: msgspec.Raw) -> int:
        """Give each value that a pointer finds another, and make it where its parent is an object without it; returns
        how many were set."""
        roots = self._roots
        return sum(_set([(roots, number)], pointer, value) for number in numbers)

    def copy(self, numbers: Iterable[int], within: Pointer, source: Pointer, target: Pointer) -> int:
        """Within each value that the first pointer finds, set what the third points at to what the second finds there;
        returns how many were set."""
        count = 0
        for number in numbers:
            for place in _places([(self._roots, number)], within):
                found = _places([place], source)
                if found:
                    holder, key = found[-1]
                    count += _set([place], target, _text(holder[key]))
        return count

    def rename(self, numbers: Iterable[int], within: Pointer, old: str, new: str) -> int:
        """In each object that the pointer finds, give a member another name, in the same place; returns how many were
        renamed. Raises ChangeError where there is a member of that name."""
        count = 0
        for number in numbers:
            for holder, key in _places([(self._roots, number)], within):
                count += _rename(holder, key, old, new)
        return count


def _member(pointer: Pointer) -> str | None:
    """The member of an outermost object that a pointer finds, as mostly: it is quickly found. None for any other."""
    return pointer[0] if len(pointer) == 1 else None


def _rename(holder: Any, key: Any, old: str, new: str) -> int:
    inner = _opened(holder, key)
    if isinstance(inner, list) or not (found := _keys(inner, old)):
        return 0
    if _keys(inner, new):
        raise ChangeError(f"a member {old!r:.100} cannot be renamed: there is a member {new!r:.100} already")
    if isinstance(inner, dict):
        holder[key] = {new if name == old else name: value for name, value in inner.items()}
    else:
        for place in found:
            inner.spelled[place], inner.names[place] = msgspec.json.encode(new), new
    return len(found)


def _text(node: Any) -> msgspec.Raw:
    return node if node.__class__ is msgspec.Raw else msgspec.Raw(_ENCODER.encode(node))


def _taken_apart(text: bytes) -> Any:
    """An object or array whose members are texts; None for any other value."""
    if text[0] == _BRACE:
        members = _OBJECT.decode(text)
        return members if _ENCODER.encode(members) == text else _Members(text)
    return _ARRAY.decode(text) if text[0] == _BRACKET else None


def _opened(holder: Any, key: Any) -> Any:
    """What stands in a place, an object or array taken apart there; None for any other value."""
    node = holder[key]
    if node.__class__ is not msgspec.Raw:
        return node
    apart = _taken_apart(bytes(node))
    if apart is not None:
        holder[key] = apart
    return apart


def _keys(inner: Any, token: str | None) -> Sequence[Any]:
    """The keys of what a token stands for, in what was taken apart."""
    if inner.__class__ is dict:
        return list(inner) if token is None else (token,) if token in inner else ()
    if inner.__class__ is list:
        if token is None:
            return range(len(inner))
        return (int(token),) if _INDEX.fullmatch(token) and int(token) < len(inner) else ()
    if inner is None:
        return ()
    return [place for place, name in enumerate(inner.names) if token is None or name == token]


def _places(start: list[Slot], pointer: Pointer) -> list[Slot]:
    """The places that a pointer finds from some places on."""
    found = start
    for token in pointer:
        found = [
            (inner, key)
            for holder, at in found
            if (inner := _opened(holder, at)) is not None
            for key in _keys(inner, token)
        ]
    return found


def _set(start: list[Slot], pointer: Pointer, value: msgspec.Raw) -> int:
    if not pointer:
        for holder, key in start:
            holder[key] = value
        return len(start)
    count = 0
    last = pointer[-1]
    for holder, at in _places(start, pointer[:-1]):
        inner = _opened(holder, at)
        found = _keys(inner, last)
        for key in found:
            inner[key] = value
        count += len(found)
        if not found and last is not None:
            if isinstance(inner, dict):
                inner[last] = value
                count += 1
            elif isinstance(inner, _Members):
                inner.append(msgspec.json.encode(last), value)
                count += 1
    return count
