"""What is under way is cut short at one of its awaits, in every way that there is; and afterwards nothing is left."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import anyio
import psycopg
import pytest

from tests.support import mysql
from tests.support.servers import shared_url

WAYS = ("cancel", "cancel twice", "cancel by level", "close", "loop", "fork")

Asked: TypeAlias = Callable[[], Coroutine[Any, Any, object]]

LIMIT = 10.0
"""Seconds that an operation may still take when it has been cut short: much more than it takes, for a machine that has
other work."""

ENDS: list[float] = []
"""The seconds from each cut to the end of what was cut short."""


class Awaits:
    """Counts the awaits of all tasks of a loop, and does something at one of them."""

    def __init__(self, at: int, act: Callable[[], object]) -> None:
        self.count = 0
        self._at = at
        self._act = act

    def factory(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        counted = _Counted(coroutine, self) if asyncio.iscoroutine(coroutine) else coroutine
        return asyncio.Task(counted, loop=loop, **options)

    def one(self) -> None:
        self.count += 1
        if self.count == self._at:
            self._act()


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine whose awaits are counted. It is no coroutine around another: one that is cancelled before its first
    step would never await the other."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], awaits: Awaits) -> None:
        self._coroutine = coroutine
        self._awaits = awaits

    def send(self, value: Any) -> Any:
        future = self._coroutine.send(value)
        self._awaits.one()
        return future

    def throw(self, *error: Any) -> Any:
        future = self._coroutine.throw(*error)
        self._awaits.one()
        return future

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()

    def __getattr__(self, name: str) -> Any:
        """What whoever looks at a task asks of its coroutine."""
        return getattr(self._coroutine, name)

    def __del__(self) -> None:
        with suppress(ValueError):  # it is being closed where both are thrown away
            self._coroutine.close()


async def over(task: asyncio.Task[Any]) -> BaseException | None:
    """How a task ended; it must."""
    _, pending = await asyncio.wait([task], timeout=LIMIT)
    assert not pending, "it hangs"
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def cut_short(
    way: str, work: Callable[[], Awaitable[object]], close: Asked, in_a_child: Asked, at: int
) -> tuple[bool, BaseException | None]:
    """Do some work and cut it short at an await, counted from 1. Whether it came to that; and how it ended. `close`
    closes what is worked on, and a child of this process does `in_a_child`, where the way is that."""
    loop = asyncio.get_running_loop()
    closing: list[asyncio.Task[object]] = []
    children: list[int] = []
    scope = anyio.CancelScope()
    acted: list[float] = []

    def act() -> None:
        acted.append(time.monotonic())
        if way == "cancel":
            task.cancel()
        elif way == "cancel twice":
            task.cancel()
            for _ in range(3):
                loop.call_soon(task.cancel)
            loop.call_later(0.001, task.cancel)
        elif way == "cancel by level":
            scope.cancel()
        elif way == "fork":
            children.append(_forked(in_a_child))
        elif way == "close":
            loop.set_task_factory(None)
            # Not as a part of what this await belongs to.
            closing.append(loop.create_task(close(), context=contextvars.Context()))

    async def scoped() -> None:
        with scope:
            await work()
        if scope.cancelled_caught:
            raise asyncio.CancelledError

    awaits = Awaits(at, act)
    loop.set_task_factory(awaits.factory)
    try:
        task = loop.create_task(scoped())
        error = await over(task)
        ENDS.extend(time.monotonic() - began for began in acted)
    finally:
        loop.set_task_factory(None)
    for child in children:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0, "the child failed"
    for each in closing:
        assert await over(each) is None
    return awaits.count >= at, error


def _forked(in_a_child: Asked) -> int:
    """The number of a child that does this and ends."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        signal.alarm(int(LIMIT))
        asyncio.run(in_a_child())
        gc.collect()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def loop_ended(work: Callable[[], Awaitable[object]], at: int) -> bool:
    """End the loop of some work, at an await, without a word to its tasks. Whether it came to that."""
    loop = asyncio.new_event_loop()
    awaits = Awaits(at, loop.stop)
    loop.set_task_factory(awaits.factory)
    loop.set_exception_handler(lambda _, __: None)
    main: asyncio.Task[object] = loop.create_task(work())  # type: ignore[arg-type]
    main.add_done_callback(lambda _: loop.stop())
    loop.run_forever()
    if main.done():
        main.exception()
    loop.close()
    return awaits.count >= at


def thrown_away(
    work: Callable[[], Awaitable[object]], at: int, url: str, name: str, before: set[threading.Thread]
) -> bool:
    """End the loop of some work, at an await. Whether it came to that. What holds anything ends with the loop, before
    Python collects any garbage; and what it closes then ends without a word."""
    told: list[str] = []
    with heard(lambda what: told.append("".join(traceback.format_exception(what.exc_value)))):
        gc.disable()
        try:
            came = loop_ended(work, at)
            deadline = time.monotonic() + LIMIT
            # But for a connection that psycopg is making.
            while found := [
                each for each in left_over(url, name, before) if not each.endswith(" has asked: ")
            ]:
                assert time.monotonic() < deadline, found
                time.sleep(0.005)
        finally:
            gc.enable()
        gc.collect()
    assert not told, "".join(told)
    all_over(url, name, before)
    return came


@contextmanager
def heard(hear: Callable[[Any], object]) -> Iterator[None]:
    """Python tells of each task that is thrown away: to `hear`. And it warns of coroutines that were never awaited: to
    nobody, since pytest keeps what it is warned of, and with it a store that nobody closes."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(sys, "unraisablehook", hear)
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def threads() -> set[threading.Thread]:
    """The product's threads."""
    return {each for each in threading.enumerate() if each.name.startswith("eventferry-")}


def doing(thread: threading.Thread) -> str:
    frame = sys._current_frames().get(thread.ident or 0)
    return f"{thread.name}: {''.join(traceback.format_stack(frame))}"


def named(url: str) -> tuple[str, str]:
    """A URL whose connections the server knows by a name of their own."""
    if url.startswith("postgresql"):
        name = url.partition("database_name=")[2]
        return f"{url}&application_name={name}&busy_timeout={LIMIT}", name
    return f"{url}?busy_timeout={LIMIT}", urlsplit(url).path.lstrip("/")


def left_over(url: str, name: str, before: set[threading.Thread]) -> list[str]:
    """What is there still: threads, but for those from before the test, connections, lock files."""
    found = [doing(each) for each in threads() - before]
    if url.startswith("sqlite"):
        path = Path(unquote(url.removeprefix("sqlite:///").partition("?")[0]))
        found += [each.name for each in path.parent.iterdir() if "-owner-" in each.name]
    elif url.startswith("postgresql"):
        with psycopg.connect(shared_url("postgresql", "postgres"), autocommit=True) as connection:
            found += [
                f"{pid} {state} has asked: {query}"
                for pid, state, query in connection.execute(
                    "SELECT pid, state, query FROM pg_stat_activity WHERE application_name = %s", (name,)
                )
            ]
    else:
        with mysql.connect(shared_url("mariadb", "")) as wire, wire.cursor() as cursor:
            cursor.execute("SELECT id, info FROM information_schema.processlist WHERE db = %s", (name,))
            found += [str(row) for row in cursor.fetchall()]
    return found


def all_over(url: str, name: str, before: set[threading.Thread]) -> None:
    """Nothing is left. A server and a thread take a moment to notice an end."""
    deadline = time.monotonic() + LIMIT
    while found := left_over(url, name, before):
        gc.collect()
        assert time.monotonic() < deadline, found
        time.sleep(0.005)
