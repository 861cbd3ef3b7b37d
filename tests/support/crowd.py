"""A few processes that work on one store at the same time, each at what it is told to do."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Self, TypeAlias

from eventferry import AUTO, MANUAL, EventferryError, EventStore, open_store

Command: TypeAlias = tuple[Any, ...]
"""The name of one of `WORK`, and its arguments."""


@dataclass(frozen=True)
class Act:
    """One call and its answer.

    Attributes:
        name: of the command that it is part of.
        begun, ended: by the clock that all processes share, in seconds.
        error: the name of the error that it was refused with; None if it was not.
        value: what it returned.
        asked: what was asked for, where that is not clear from the command.
    """

    name: str
    begun: float
    ended: float
    error: str | None
    value: Any = None
    asked: Any = None


async def act(name: str, call: Callable[[], Awaitable[Any]], asked: Any = None) -> Act:
    begun = time.monotonic()
    try:
        value = await call()
    except EventferryError as error:
        return Act(name, begun, time.monotonic(), type(error).__name__, str(error), asked)
    return Act(name, begun, time.monotonic(), None, value, asked)


async def save(store: EventStore, aggregate: str, first: int, count: int) -> list[Act]:
    """Versions one after another; a version that another writer has taken is theirs."""
    acts = []
    for version in range(first, first + count):

        async def call(version: int = version) -> tuple[int, int]:
            payload = [aggregate, version]
            event = {"type": "S", "aggregateId": aggregate, "aggregateVersion": version, "payload": payload}
            saved = (await store.save_event(event, allow_gaps=True)).event
            return saved.thread_id, saved.thread_counter

        acts.append(await act("save", call, version))
        if acts[-1].error not in (None, "ConcurrentError"):
            break
    return acts


async def merge(store: EventStore, events: list[dict[str, Any]]) -> list[Act]:
    return [await act("merge", lambda: store.incremental_import(events, older="accept"))]


async def begin(store: EventStore) -> list[Act]:
    return [await act("begin", store.begin_incremental_import)]


async def push(store: EventStore, import_id: str, part: str, events: list[dict[str, Any]]) -> list[Act]:
    return [await act("push", lambda: store.push_incremental_import(events, import_id, part=part), part)]


async def commit(store: EventStore, import_id: str) -> list[Act]:
    return [await act("commit", lambda: store.commit_incremental_import(import_id, older="accept"))]


async def roll_back(store: EventStore, import_id: str) -> list[Act]:
    return [await act("roll back", lambda: store.rollback_incremental_import(import_id))]


async def freeze(store: EventStore) -> list[Act]:
    return [await act("freeze", store.freeze)]


async def unfreeze(store: EventStore) -> list[Act]:
    return [await act("unfreeze", store.unfreeze)]


async def export(store: EventStore, freezes: bool) -> list[Act]:
    async def call() -> list[bytes]:
        stream = store.export_events(maintenance_mode=AUTO if freezes else MANUAL)
        return b"".join([block async for block in stream]).splitlines()

    return [await act("export", call, freezes)]


async def read(store: EventStore, cursor: str | None) -> list[Act]:
    """Page after page until there is nothing more."""

    async def call() -> tuple[list[tuple[int, int]], str | None]:
        met, at = [], cursor
        while (page := await store.load_events(limit=7, cursor=at)).events:
            met += [(event.thread_id, event.thread_counter) for event in page.events]
            at = page.cursor
        return met, at

    return [await act("read", call)]


WORK: dict[str, Callable[..., Coroutine[Any, Any, list[Act]]]] = {
    "save": save,
    "merge": merge,
    "begin": begin,
    "push": push,
    "commit": commit,
    "roll back": roll_back,
    "freeze": freeze,
    "unfreeze": unfreeze,
    "export": export,
    "read": read,
}


def work(line: Connection) -> None:
    """The life of a process of the crowd: it keeps the store of its last command open."""
    with asyncio.Runner() as runner:
        opened: dict[str, EventStore] = {}
        while (told := line.recv()) is not None:
            url, (name, *arguments) = told
            if url not in opened:
                for store in opened.values():
                    runner.run(store.close())
                opened = {url: open_store(url)}
            try:
                line.send(runner.run(WORK[name](opened[url], *arguments)))
            except Exception as error:  # one without a name: the test is to hear of it
                line.send(error)
        for store in opened.values():
            runner.run(store.close())


class Crowd:
    """Processes that wait for commands.

    Args:
        size: how many.
    """

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        self._members: list[tuple[SpawnProcess, Connection]] = []
        try:
            for _ in range(size):
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(theirs,), daemon=True)
                process.start()
                theirs.close()
                self._members.append((process, ours))
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before

    def do(self, url: str, commands: list[Command]) -> list[list[Act]]:
        """Carry out commands at the same time, each in a process of its own; the acts of each."""
        lines = [line for _, line in self._members[: len(commands)]]
        for line, command in zip(lines, commands, strict=True):
            line.send((url, command))
        answers = [line.recv() for line in lines]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process, line in self._members:
            line.send(None)
            process.join()
