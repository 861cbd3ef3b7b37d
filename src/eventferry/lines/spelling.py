"""How a line is spelled: the spelling of eventferry and reSolve, escapes, duplicate keys, white space."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection
from typing import Any

import msgspec

# A line as eventferry and reSolve write it: such a line cannot hold a key twice and needs no second look.
PLAIN = re.compile(
    rb'\{"threadCounter":[0-9]+,"threadId":[0-9]+,"type":"[^"\\]*","timestamp":-?[0-9]+,'
    rb'"aggregateId":"[^"\\]*","aggregateVersion":[0-9]+,"payload":'
)
PLAIN_NEW = re.compile(
    rb'\{"type":"[^"\\]*","timestamp":-?[0-9]+,"aggregateId":"[^"\\]*",'
    rb'(?:"aggregateVersion":[0-9]+,)?"payload":'
)
LONE_SURROGATE = "holds a lone surrogate, which is not a character"
UNICODE_ESCAPE = re.compile(rb"\\u")

EVENT_KEYS = {"threadCounter", "threadId", "type", "timestamp", "aggregateId", "aggregateVersion", "payload"}
_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# What begins with a plain character is found fast.
_BLANK_AT_TOKEN = re.compile(rb" (?:[,:\]}\n]|(?<=[,:\[{\n] ))")
_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a whole pair
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\."
)


def lone_surrogate(text: bytes) -> int | None:
    """Where a JSON text has the escape of half a surrogate pair; None where it has none."""
    if _SURROGATE.search(text) is None:
        return None
    return next((match.start() for match in _ESCAPES.finditer(text) if match["lone"] is not None), None)


def duplicate_key(line: bytes, keys: Collection[str] = EVENT_KEYS) -> str | None:
    """One of these keys that occurs twice in the outermost object of a line. Where none does, the members account for
    every byte of the compact line. Only otherwise is each looked at, for a key may also just be spelled with
    escapes."""
    text = msgspec.json.format(line, indent=-1)
    members = _MEMBERS.decode(text)
    if len(text) == 1 + sum(len(key.encode()) + len(memoryview(value)) + 4 for key, value in members.items()):
        return None
    pairs: deque[list[tuple[str, Any]]] = deque(maxlen=1)  # of the outermost object: it is the last to end
    json.loads(text, object_pairs_hook=pairs.append, parse_int=len, parse_float=len)
    seen: set[str] = set()
    for key, _ in pairs[0]:
        if key in seen and key in keys:
            return key
        seen.add(key)
    return None


def field_at(line: bytes, offset: int) -> str | None:
    """The key whose value the byte at `offset` belongs to, as far as can be told where the line is not JSON."""
    if (plain := PLAIN.match(line) or PLAIN_NEW.match(line)) is not None and offset >= plain.end():
        return "payload"
    places = {key: line.rfind(b'"%s":' % key.encode(), 0, offset) for key in EVENT_KEYS}
    key = max(places, key=lambda name: places[name])
    return key if places[key] >= 0 else None


def is_compact(lines: bytes) -> bool:
    """Whether no token of any line has white space around it; for lines that are JSON, each with its line feed."""
    # Of two tokens beside one another one is a bracket, a colon or a comma. Where a blank has one too, or the end of a
    # line, it may still be in a string: a look that takes longer tells.
    if b"\t" not in lines and b"\r" not in lines and _BLANK_AT_TOKEN.search(b"\n" + lines) is None:
        return True
    array = b"[" + lines[:-1].replace(b"\n", b",") + b"]"
    try:
        return msgspec.json.format(array, indent=-1) == array
    except (msgspec.DecodeError, RecursionError):
        return False
