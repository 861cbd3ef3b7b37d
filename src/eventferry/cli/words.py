"""What commands say: data on standard output, in UTF-8 whatever the locale says."""

from __future__ import annotations

import signal
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from eventferry.cli.terminal import say, visible
from eventferry.errors import EventferryError

if TYPE_CHECKING:
    import msgspec

ENDS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command as Ctrl-C does."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Do a command's work; Ctrl-C, SIGTERM and SIGHUP cancel it, but where whoever started it has them ignored."""
    import asyncio

    received: list[int] = []

    async def cancellable() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def end(number: int, _: object) -> None:
            received.append(number)
            if len(received) > 1 or task is None:
                raise KeyboardInterrupt  # as a second Ctrl-C does
            loop.call_soon_threadsafe(task.cancel)

        for number in before:
            signal.signal(number, end)
        return await work

    before = {number: handler for number in ENDS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    try:
        return asyncio.run(cancellable())
    except (asyncio.CancelledError, KeyboardInterrupt):
        if not received:
            raise
        say(f"eventferry: ended by {signal.Signals(received[0]).name}")
        raise click.exceptions.Exit(128 + received[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_json(report: msgspec.Struct | dict[str, Any], *, to_stderr: bool = False) -> None:
    """A report for machines."""
    import msgspec

    if to_stderr:
        say(msgspec.json.encode(report).decode())
    else:
        print_data(msgspec.json.encode(report))


def print_words(words: str) -> None:
    """A line of a result that is for people."""
    print_data(visible(words).encode())


def print_data(data: bytes) -> None:
    """A line of data as it is: UTF-8, whatever the locale says."""
    if sys.stdout is None:
        raise EventferryError("standard output is closed")
    sys.stdout.flush()
    rest = memoryview(data + b"\n")
    while rest:  # where the reader goes in between, Python writes a part and says so only here
        rest = rest[sys.stdout.buffer.write(rest) :]
    sys.stdout.flush()


def moment_text(milliseconds: int) -> str:
    """A timestamp for people."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return "beyond the calendar"
