"""The command follow."""

from __future__ import annotations

import contextlib
import os
import select
from typing import IO, TYPE_CHECKING, Any, cast

import click

from eventferry import open_store
from eventferry.cli.commands import command
from eventferry.cli.options import (
    DEFAULT_LIMIT,
    STORE,
    WholeNumber,
    archived_option,
    flag,
    kinds,
    kinds_of,
    option,
)
from eventferry.cli.places import destination_of
from eventferry.cli.running import run
from eventferry.cli.terminal import say

if TYPE_CHECKING:
    from eventferry.reading.arguments import ArchivedAs

_IDLE = 2.0
"""Seconds without events after which to look whether the reader of the pipe is still there."""


@command()
@click.argument("store", type=STORE)
@option("--since", "BOOKMARK", "Begin at this bookmark, at `now` or at the `start`.", default="start")
@option("--checkpoint", "FILE", "Keep the bookmark in this file, and begin at the one that is in it.")
@kinds
@archived_option
@option(
    "--limit",
    "N",
    "Events of a page. After each page the output is flushed, and the checkpoint is written.",
    type=WholeNumber(1),
    default=DEFAULT_LIMIT,
)
@flag("--once", "End when all is read, and print the bookmark on standard error.")
def follow(
    store: str,
    since: str,
    checkpoint: str | None,
    limit: int,
    once: bool,
    archived: ArchivedAs,
    **kinds: tuple[str, ...],
) -> None:
    """Print events as JSON Lines, and go on with those that are saved or imported, until SIGTERM or Ctrl-C.

    With --checkpoint, each event is printed at least once, across restarts and crashes.
    """
    say(run(_follow(store, since, checkpoint, kinds_of(**kinds) | {"archived": archived}, limit, once)))


async def _follow(
    store: str, since: str, checkpoint: str | None, only: dict[str, Any], limit: int, once: bool
) -> str:
    from eventferry.cli.checkpoint import Checkpoint
    from eventferry.lifecycle import to_the_end
    from eventferry.lines.files import StreamSink, detached
    from eventferry.reading.arguments import filter_of

    out = cast("IO[bytes]", destination_of("-"))
    sink = StreamSink(out)
    async with open_store(store) as opened:
        with Checkpoint(checkpoint) if checkpoint is not None else contextlib.nullcontext() as file:
            kept = await file.read() if file is not None else None
            begin = kept or (None if since == "start" else since)
            follower = opened._follower(begin, filter_of(**only), limit)
            written = ""

            async def put(text: bytes) -> None:
                """Print a page, and only then say in the checkpoint that it was printed."""
                nonlocal written
                if text:
                    await sink.write(text)
                    await sink.close()
                bookmark = str(await follower.begin())
                if file is not None and bookmark != written:
                    with contextlib.suppress(OSError):  # a pipe cannot be synced
                        await detached(os.fsync, out.fileno())
                    await file.write(bookmark)
                written = bookmark

            # Before the first event: who begins now, and is ended before it comes, must not begin later the next time.
            await follower.begin()
            await to_the_end(put(b""))
            while not (once and follower.is_caught_up):
                lines = await follower.next(0 if once else _IDLE)
                _refuse_broken(out)
                # A signal neither cuts a line nor comes between the page and the checkpoint.
                await to_the_end(put(lines.text))
            return written


def _refuse_broken(out: IO[bytes]) -> None:
    """Raises BrokenPipeError where nobody will read what is written: it would be noticed only with the next event."""
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(out, 0)
        if any(state & select.POLLERR for _, state in poll.poll(0)):
            raise BrokenPipeError
