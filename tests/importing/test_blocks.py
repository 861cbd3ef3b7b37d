"""The blocks of an import in MANUAL mode: a transaction each, and an end waits for one that is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from eventferry.database import Progress
from eventferry.importing.manual import BlockIntake, Placed
from eventferry.lines.blocks import LineSplitter
from eventferry.lines.decoder import LineDecoder
from tests.support import make_lines


async def test_whoever_ends_an_import_waits_for_the_block_that_another_task_appends() -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()
    done: list[Progress] = []
    counts: list[int] = []

    async def append(rows: Sequence[Placed]) -> None:
        begun.set()
        await goes_on.wait()
        counts.append(len(rows))

    blocks = BlockIntake(append, lambda: Progress(7), done.append)
    lines = LineSplitter().feed(make_lines(3))
    await blocks.give(blocks.rows(lines, LineDecoder()), 100)
    committing = asyncio.create_task(blocks.end_block())
    await begun.wait()
    stopping = asyncio.create_task(blocks.stop())
    await asyncio.sleep(0)
    assert not stopping.done()
    goes_on.set()
    await stopping
    await committing
    await blocks.commit()  # nothing is left
    assert counts == [3]
    assert done == [Progress(7)]
