"""Prints results on standard output, in UTF-8 whatever the locale."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from eventferry.cli.terminal import conclude, say
from eventferry.clock import iso
from eventferry.errors import EventferryError
from eventferry.visible import visible

if TYPE_CHECKING:
    import msgspec


def print_json(report: msgspec.Struct | dict[str, Any], *, to_stderr: bool = False) -> None:
    """Print a result as JSON."""
    import msgspec

    if to_stderr:
        say(msgspec.json.encode(report).decode())
    else:
        print_data(msgspec.json.encode(report))


def print_result(
    report: msgspec.Struct | dict[str, Any], sentence: str, *, as_json: bool, is_well: bool = True
) -> None:
    """Print a result as JSON, or tell it in a sentence, which --quiet leaves out if all is well."""
    if as_json:
        print_json(report)
    else:
        conclude(sentence, is_well=is_well)


def print_line(text: str) -> None:
    """Print a line of a result for people."""
    print_data(visible(text).encode())


def print_data(data: bytes) -> None:
    """Print a line of data unchanged."""
    if sys.stdout is None:
        raise EventferryError("standard output is closed")
    sys.stdout.flush()
    rest = memoryview(data + b"\n")
    while rest:  # if the reader goes away, Python may write only a part of it
        rest = rest[sys.stdout.buffer.write(rest) :]
    sys.stdout.flush()


def moment_text(milliseconds: int) -> str:
    """A timestamp in ISO 8601."""
    try:
        return f"{iso(milliseconds)}+00:00"
    except OverflowError:
        return "out of range"
