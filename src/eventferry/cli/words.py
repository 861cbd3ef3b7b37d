"""What commands say: data on standard output, in UTF-8 whatever the locale says."""

from __future__ import annotations

import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from eventferry.errors import EventferryError
from eventferry.terminal import say

if TYPE_CHECKING:
    import msgspec


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Do a command's work; Ctrl-C cancels it."""
    import asyncio

    return asyncio.run(work)


def print_json(report: msgspec.Struct | dict[str, Any], *, to_stderr: bool = False) -> None:
    """A report for machines."""
    import msgspec

    if to_stderr:
        say(msgspec.json.encode(report).decode())
    else:
        print_data(msgspec.json.encode(report))


def print_data(data: bytes | str) -> None:
    """A line of data: UTF-8, whatever the locale says."""
    if sys.stdout is None:
        raise EventferryError("standard output is closed")
    sys.stdout.flush()
    rest = memoryview((data.encode(errors="surrogateescape") if isinstance(data, str) else data) + b"\n")
    while rest:  # where the reader goes in between, Python writes a part and says so only here
        rest = rest[sys.stdout.buffer.write(rest) :]
    sys.stdout.flush()


def moment_text(milliseconds: int) -> str:
    """A timestamp for people."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return "beyond the calendar"
