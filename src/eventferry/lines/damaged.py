"""Events that a foreign writer let into a store, and that cannot be read: what of them can be shown."""

from __future__ import annotations

import re

import msgspec

from eventferry.errors import UnsupportedStoreError
from eventferry.lines.event import KEYS, Event, decode_event, decode_events
from eventferry.lines.payload import decode_payload

_FIELDS = re.compile(
    b'\\{"'
    + b',"'.join(b'%b":(?P<%b>.*?)' % (key.encode(), name.encode()) for name, key in KEYS.items())
    + b"\\}\n?",
    re.DOTALL,
)
_NEXT = re.compile(b'\n(?=\\{"threadCounter":)')
_TEXTS = ("type", "aggregate_id")


class DamagedEvent(Event, frozen=True, kw_only=True, rename="camel"):
    """An event of a store that cannot be read, as far as it can be shown.

    Attributes:
        damage: what is wrong with it. Numbers of which it says so are -1.
        payload: the text that stands in the store.
    """

    damage: str


def seen_event(line: bytes) -> Event:
    """The event of a line that a store wrote, also where it cannot be read."""
    try:
        return _looked_at(decode_event(line))
    except UnsupportedStoreError:
        return _damaged(line)


def seen_events(lines: bytes) -> list[Event]:
    """The events of lines that a store wrote, also of those that cannot be read."""
    try:
        return list(map(_looked_at, decode_events(lines)))
    except UnsupportedStoreError:
        return list(map(seen_event, _NEXT.split(lines.removesuffix(b"\n"))))


def seen_lines(text: bytes, count: int) -> list[bytes]:
    """So many lines that a store wrote, one by one: in one that cannot be read may be a line feed."""
    lines = text.split(b"\n")[:-1]
    return lines if len(lines) == count else _NEXT.split(text.removesuffix(b"\n"))


def _looked_at(event: Event) -> Event:
    _ = event.payload  # this is when it is decoded
    return event


def _damaged(line: bytes) -> DamagedEvent:
    found = _FIELDS.fullmatch(line)
    if found is None:  # a driver gives no such line
        return DamagedEvent(type="", aggregate_id="", payload=_text(line), damage="the event cannot be read")
    fields: dict[str, str | int] = {}
    wrong: list[str] = []
    for name, key in KEYS.items():
        text: bytes = found[name]
        if name == "payload":
            fields[name] = _text(text)
            if reason := _reason(text):
                wrong.append(f"the payload {reason}")
            continue
        try:
            fields[name] = msgspec.json.decode(text, type=str if name in _TEXTS else int)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            fields[name] = _text(text) if name in _TEXTS else -1
            kind = "text" if name in _TEXTS else "whole number"
            wrong.append(f"{key} is not a {kind}: {_text(text)[:60]!r}")
    return DamagedEvent(**fields, damage="; ".join(wrong) or "the event cannot be read")  # type: ignore[arg-type]


def _reason(payload: bytes) -> str | None:
    """Why a payload cannot be read; None where it can."""
    try:
        decode_payload(payload)
    except UnicodeDecodeError:
        return "is not UTF-8"
    except RecursionError:
        return "nests too deep"
    except ValueError:
        return "is not JSON"
    return None


def _text(text: bytes) -> str:
    return text.decode(errors="backslashreplace")
