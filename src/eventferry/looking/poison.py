"""Finding the event that a function of the user's refuses."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from eventferry.database import Database, Filter
from eventferry.lifecycle import aclosing
from eventferry.lines.event import Event, decode_event
from eventferry.looking.scanning import Scan


class PoisonSearch(msgspec.Struct, frozen=True, rename="camel"):
    """How far a function came.

    Attributes:
        event: the first event that it refused; None if it took all of them.
        error: what it raised; None likewise.
        cursor: behind the last event that it was given, so behind the refused one.
        scanned: how many events were looked at.
        is_end: whether the end of the store was reached.
    """

    event: Event | None
    error: str | None
    cursor: str
    scanned: int
    is_end: bool


async def find_poison(
    database: Database, function: Callable[[Event], Any], only: Filter, cursor: str | None, scan: int
) -> PoisonSearch:
    """Give a function the next events from a cursor on, one after another, until it raises something."""
    walk = Scan(database, cursor, only, scan)
    async with aclosing(walk.pages()) as pages:
        async for lines in pages:
            for number, line in enumerate(lines.text.split(b"\n")[:-1]):
                event = decode_event(line)
                if not walk.takes(event):
                    continue
                try:
                    given = function(event)
                    if inspect.isawaitable(given):
                        await given
                except (KeyboardInterrupt, GeneratorExit):
                    raise
                except BaseException as error:  # such as SystemExit, and what test frameworks raise
                    if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                        raise
                    walk.stop(number)
                    # Decoded again: the function may have changed the payload that it was given.
                    return PoisonSearch(
                        decode_event(line), _told(error), walk.cursor, walk.scanned, walk.is_end
                    )
    return PoisonSearch(None, None, walk.cursor, walk.scanned, walk.is_end)


def _is_cancelled() -> bool:
    """Whether it is this search that was cancelled, and not something of the function's own."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _told(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}" if str(error) else name
    except Exception:  # its own message fails
        return name
