"""What the child processes do. Each job tells its steps, so that whoever harms it knows what was acknowledged."""

from __future__ import annotations

import asyncio
import itertools
import os
import pwd
import signal
import threading
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias
from unittest.mock import patch

from eventferry import (
    AUTO,
    MANUAL,
    Changes,
    EventferryError,
    Mapping,
    Rule,
    Rules,
    cutover,
    open_source,
    open_store,
    pipeline,
)
from eventferry.database import Reading
from eventferry.databases import mysql, postgresql, sqlite
from eventferry.databases.mysql.connection import Connection as MysqlConnection
from eventferry.databases.mysql.wire import Wire
from eventferry.databases.postgresql.connection import _Raw
from eventferry.databases.sqlite import library
from eventferry.importing import incremental as stage
from eventferry.importing.replace import Replacement
from eventferry.reading import exporting
from eventferry.reading.bookmarks import Bookmark
from eventferry.state.syncs import Mode
from eventferry.syncing import cutover as cutting

Tell: TypeAlias = Callable[..., None]
Job: TypeAlias = Callable[..., Coroutine[Any, Any, None]]

DRIVERS = (mysql, postgresql, sqlite)
"""Imported here, before the fork, so that no child has to."""

BLOCK = 20_000


def run(
    name: str, arguments: tuple[Any, ...], speak: Connection, *, privileged: bool, pause_at: int | None = None
) -> None:
    """The whole life of a child. The last thing that it tells is how it ended, unless it is killed.

    With `pause_at` it stops, as by SIGSTOP, before it sends the statement of that number.
    """
    # Whoever runs the tests may ignore it, as a script's `&` does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # So that a small store, which is read back quickly, makes as many commits and pages as a large one.
    Replacement.batch_bytes = 2 * BLOCK
    stage.BATCH_BYTES = 2 * BLOCK  # type: ignore[attr-defined]
    exporting.PAGE_EVENTS = 200
    if not privileged and os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)

    speaking = threading.Lock()

    def tell(*words: Any) -> None:
        with speaking:
            speak.send(words)

    sent = paused_before(pause_at, tell) if pause_at is not None else None
    try:
        asyncio.run(JOBS[name](tell, *arguments))
        if sent is not None:
            tell("sent", len(sent))
            tell(
                "differ",
                [number for number, text in enumerate(sent, 1) if number == 1 or text != sent[number - 2]],
            )
    except KeyboardInterrupt:
        tell("ended", "interrupted", None)
    except BaseException as error:
        leaves = list(_leaves(error))
        named = all(isinstance(leaf, EventferryError) for leaf in leaves)
        text = repr(leaves[0]) if named else "".join(traceback.format_exception(error))
        tell("ended", "refused" if named else "broken", text)
    else:
        tell("ended", "well", None)


def paused_before(at: int, tell: Tell) -> list[object]:
    """Stop this process before the statement of that number, on whatever connection, and tell the ids of its owners,
    each with the number of the statements before; returns what is sent, without values where they go apart."""
    sent: list[object] = []
    numbers = itertools.count(1)

    def counted(kind: type, name: str) -> None:
        original = getattr(kind, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            sent.append(args[1] if kind is library._Python else object())
            if next(numbers) == at:
                tell("paused", at)
                os.kill(os.getpid(), signal.SIGSTOP)
            return original(*args, **kwargs)

        setattr(kind, name, call)

    def owning(kind: type) -> None:
        original = kind.own  # type: ignore[attr-defined]

        async def own(self: Any) -> Any:
            owner = await original(self)
            tell("owns", owner)
            tell("begun behind", len(sent))
            return owner

        kind.own = own  # type: ignore[attr-defined]

    def locking() -> None:
        """A drop has an owner too on MySQL, whose lock is taken with its transaction's connection."""
        original = MysqlConnection.lock

        def lock(self: MysqlConnection, name: str, seconds: float) -> bool:
            tell("owns", name.removeprefix("eventferry-"))
            tell("begun behind", len(sent))
            return original(self, name, seconds)

        MysqlConnection.lock = lock  # type: ignore[method-assign]

    for name in ("execute", "executemany"):
        counted(library._Python, name)
    counted(Wire, "_execute_command")
    counted(_Raw, "wait")
    for database in (sqlite.SqliteDatabase, postgresql.PostgresDatabase):
        owning(database)
    locking()
    return sent


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def blocks_of(path: str, offset: int = 0, size: int = BLOCK) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        file.seek(offset)
        while block := file.read(size):
            yield block


def told(tell: Tell) -> Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]:
    """A transform that tells each block that goes by."""

    async def transform(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            yield block
            tell("block")

    return transform


async def import_(tell: Tell, url: str, path: str, freeze: bool) -> None:
    async with open_store(url) as store:
        tell("begun")
        async with store.import_events(freeze=freeze) as stream:
            for block in blocks_of(path):
                await stream.write(block)
                tell("block")
            await stream.close()
            tell("done")


async def resumed_import(tell: Tell, url: str, path: str, commit: int) -> None:
    """Goes on where it was, and tells how far it is; each commit takes a moment, for somebody to come in between."""
    Replacement.batch_bytes = commit
    async with open_store(url) as store:
        tell("begun")
        async with store.import_events(resume=True) as stream:
            tell("reached", stream.byte_offset)
            for block in blocks_of(path, stream.byte_offset, commit):
                await stream.write(block)
                tell("reached", stream.byte_offset)
                await asyncio.sleep(0.01)
            await stream.close()
            tell("done")


async def append(tell: Tell, url: str, path: str) -> None:
    async with open_store(url) as store:
        tell("begun")
        async with store.import_events(maintenance_mode=MANUAL) as stream:
            for block in blocks_of(path):
                await stream.write(block)
                tell("stored", stream.byte_offset)
            await stream.close()
            tell("done")


async def merge(tell: Tell, url: str, path: str) -> None:
    async def blocks() -> AsyncIterator[bytes]:
        for block in blocks_of(path):
            yield block
            tell("block")

    async with open_store(url) as store:
        tell("begun")
        report = await store.incremental_import(blocks())
        tell("done", report.imported)


async def steps(tell: Tell, url: str, parts: list[list[dict[str, Any]]]) -> None:
    async with open_store(url) as store:
        tell("begun")
        import_id = await store.begin_incremental_import()
        tell("opened", import_id)

        async def push(number: int) -> None:
            await store.push_incremental_import(parts[number], import_id, part=str(number))
            tell("pushed", number)

        half = len(parts) // 2
        for number in range(half):
            await push(number)
        async with asyncio.TaskGroup() as group:
            for number in range(half, len(parts)):
                group.create_task(push(number))
        report = await store.commit_incremental_import(import_id)
        tell("done", report.imported)


async def parts(tell: Tell, url: str, lines: list[str]) -> None:
    async with open_store(url) as store:
        tell("begun")
        import_id = await store.begin_import()
        tell("owns", import_id)
        for number, text in enumerate(lines):
            await store.push_import(import_id, str(number), [text.encode()])
        report = await store.commit_import(import_id)
        tell("done", report.imported)


async def erase(tell: Tell, url: str, pointer: str, aggregate_ids: list[str]) -> None:
    async with open_store(url) as store:
        tell("begun")
        await store.erase(Rules(rules=(Rule(redact=(pointer,)),)), aggregate_ids=aggregate_ids)
        tell("done")


async def save(tell: Tell, url: str, name: str, writers: int, events: int) -> None:
    async with open_store(url) as store:
        tell("begun")

        async def write(writer: int) -> None:
            aggregate = f"{name}-{writer}"
            for version in range(1, events + 1):
                saved = await store.save_event(
                    {
                        "type": "SAVED",
                        "aggregateId": aggregate,
                        "aggregateVersion": version,
                        "payload": {"number": version},
                    }
                )
                tell("saved", aggregate, version, saved.event.thread_id, saved.event.thread_counter)

        async with asyncio.TaskGroup() as group:
            for writer in range(writers):
                group.create_task(write(writer))
        tell("done")


async def export(tell: Tell, url: str, path: str, freezes: bool, whole: bool) -> None:
    """Into a file that appears whole at the end, or block by block into one that can be gone on with."""
    mode = AUTO if freezes else MANUAL
    async with open_store(url) as store:
        tell("begun")
        if whole:
            await pipeline(store.export_events(maintenance_mode=mode), told(tell), path)
        else:
            with Path(path).open("wb", buffering=0) as file:
                async with store.export_events(maintenance_mode=mode) as stream:
                    async for block in stream:
                        file.write(block)
                        tell("reached", file.tell(), stream.cursor)
        tell("done")


async def copy(tell: Tell, source_url: str, url: str, freezes: bool) -> None:
    async with open_store(source_url) as source, open_store(url) as target:
        tell("begun")
        mode = AUTO if freezes else MANUAL
        await pipeline(
            source.export_events(maintenance_mode=mode), told(tell), target.import_events(freeze=freezes)
        )
        tell("done")


async def freeze(tell: Tell, url: str, times: int) -> None:
    """By turns the freeze of a user and that of an export, which is the operation's own."""
    async with open_store(url) as store:
        tell("begun")
        for _ in range(times):
            await store.freeze()
            tell("frozen")
            await store.unfreeze()
            tell("unfrozen")
            async with store.export_events(maintenance_mode=AUTO) as stream:
                await anext(stream)
                tell("owned")
            tell("released")
        tell("done")


async def make(tell: Tell, url: str, times: int) -> None:
    async with open_store(url) as store:
        tell("begun")
        for _ in range(times):
            await store.drop()
            tell("dropped")
            await store.init()
            tell("made")
        tell("done")


async def upgrade(tell: Tell, url: str) -> None:
    async with open_store(url) as store:
        tell("begun")
        await store.upgrade()
        tell("done")


async def drop(tell: Tell, url: str) -> None:
    async with open_store(url) as store:
        tell("begun")
        await store.drop()
        tell("done")


async def sync(
    tell: Tell, source_url: str, url: str, mode: Mode, follow: bool, excluded: str | None = None
) -> None:
    """With an excluded type, it changes what it brings."""
    async with open_store(source_url) as source, open_store(url) as target:
        tell("begun")
        report = await target.sync(
            source,
            mode=mode,
            follow=follow,
            with_secrets=True,
            changes=None if excluded is None else Changes(exclude_types=[excluded]),
            tell=lambda report: tell("batch", report.events),
        )
        tell("done", report.events)


async def cut_over(tell: Tell, source_url: str, url: str) -> None:
    """Tells when it has looked at each of the two, at the end."""

    class Looking:
        @staticmethod
        async def at(reading: Reading, heads: Sequence[int]) -> Bookmark:
            bookmark = await Bookmark.at(reading, heads)
            tell("looked")
            return bookmark

    async with open_store(source_url) as source, open_store(url) as target:
        tell("begun")
        with patch.object(cutting, "Bookmark", Looking):
            report = await cutover(source, target)
        tell("done", report.events)


async def sync_table(
    tell: Tell, source_url: str, mapping: Mapping, url: str, mode: Mode, follow: bool
) -> None:
    async with open_source(source_url, mapping) as source, open_store(url) as target:
        tell("begun")
        report = await target.sync(
            source, mode=mode, follow=follow, tell=lambda report: tell("batch", report.events)
        )
        tell("done", report.events)


async def sync_changed(tell: Tell, source_url: str, url: str, rules: Path, mode: Mode, follow: bool) -> None:
    """As `tests.support.faults.changed_syncing` says; imported here, for that imports this module's children."""
    from tests.support.faults.changed_syncing import PREFIX, changes_of

    async with open_store(source_url) as source, open_store(url) as target:
        tell("begun")
        report = await target.sync(
            source,
            mode=mode,
            same_aggregate=f"prefix={PREFIX}" if mode == "merge" else None,
            changes=changes_of(rules),
            follow=follow,
            tell=lambda report: tell("batch", report.events, report.bookmark),
        )
        tell("done", report.events)


JOBS: dict[str, Job] = {
    "import": import_,
    "resumed import": resumed_import,
    "append": append,
    "merge": merge,
    "steps": steps,
    "parts": parts,
    "erase": erase,
    "save": save,
    "export": export,
    "copy": copy,
    "freeze": freeze,
    "make": make,
    "upgrade": upgrade,
    "drop": drop,
    "sync": sync,
    "cutover": cut_over,
    "sync table": sync_table,
    "sync changed": sync_changed,
}
