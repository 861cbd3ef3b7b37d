"""What was found as JSON, for screens and programs."""

from __future__ import annotations

import json
from typing import Any

import msgspec

_ENCODER = msgspec.json.Encoder(decimal_format="number")


def encoded(value: Any) -> bytes:
    """A value as JSON. A lone surrogate, which a foreign writer let into a store, is an escape, as it was there."""
    try:
        return _ENCODER.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode()


def indented(value: Any) -> str:
    """The same over several lines."""
    try:
        return msgspec.json.format(encoded(value), indent=2).decode()
    except msgspec.DecodeError:  # it does not take such an escape
        return json.dumps(msgspec.to_builtins(value), indent=2)
