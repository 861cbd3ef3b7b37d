"""The attributes of a CloudEvent: which there are, and what their values may be."""

from __future__ import annotations

import re
from datetime import datetime

from eventferry.clock import EPOCH, MILLISECOND

PLACE = ("threadid", "threadcounter", "aggregateversion")
"""Extension attributes: where the event stands in its store. Those of 1 to 2^53 are strings, since an Integer of
CloudEvents has 32 bits."""

META = "meta"
"""Extension attribute: of an event whose payload is an envelope, the JSON text of its `meta`."""

NAME = re.compile("[a-z0-9]+")

MAX_INTEGER = 2**31 - 1

_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_NO_CHARACTERS = "".join(chr(plane << 16 | end) for plane in range(17) for end in (0xFFFE, 0xFFFF))
_FORBIDDEN = re.compile(f"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef{_NO_CHARACTERS}]")


def is_text(value: str) -> bool:
    """Whether a string may be the value of an attribute: it is not empty, and has only characters that a String of
    CloudEvents has."""
    return value != "" and _FORBIDDEN.search(value) is None


def milliseconds_of(time: str) -> int | None:
    """The timestamp of a time of RFC 3339, rounded down; None if it is none."""
    text = time.upper()
    if _TIME.fullmatch(text) is None:
        return None
    try:
        return (datetime.fromisoformat(text) - EPOCH) // MILLISECOND
    except (ValueError, OverflowError):
        return None
