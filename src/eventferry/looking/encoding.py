"""What was found as JSON, for screens and programs.

The command line imports this for its help too, which loads nothing that only results need.
"""

from __future__ import annotations

from typing import Any


def encoded(value: Any) -> bytes:
    """A value as JSON. A lone surrogate, which a foreign writer let into a store, is an escape, as it was there."""
    import msgspec

    try:
        return msgspec.json.Encoder(decimal_format="number").encode(value)
    except UnicodeEncodeError:
        import json

        return json.dumps(_builtins(value), separators=(",", ":")).encode()


def indented(value: Any) -> str:
    """The same over several lines."""
    import msgspec

    try:
        return msgspec.json.format(encoded(value), indent=2).decode()
    except msgspec.DecodeError:  # it does not take such an escape
        import json

        return json.dumps(_builtins(value), indent=2)


def _builtins(value: Any) -> Any:
    import msgspec

    from eventferry.lines.payload import decode_payload

    return msgspec.to_builtins(value, enc_hook=lambda raw: decode_payload(bytes(raw)))
