"""The event loop in its own worker thread, and the work that it asks the caller's thread to do."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from queue import SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar, cast

from eventferry.databases import forking

T = TypeVar("T")
R = TypeVar("R")

_Step: TypeAlias = Callable[[], None]


class _Here(threading.local):
    """The work that a thread is asked to do while it waits for its calls."""

    def __init__(self) -> None:
        self.steps: SimpleQueue[_Step | None] = SimpleQueue()


HERE = _Here()


class _Loop:
    """An event loop in a worker thread, started at first use; a forked process starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and meanwhile do the work that it asks this thread to do.

        Ctrl-C cancels the coroutine and is raised when that has ended; a second one is raised at once.
        """
        loop, steps = self._begun(), HERE.steps
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = loop.create_task(coroutine)
            task.add_done_callback(lambda _: steps.put(None))
            tasks.append(task)

        def wait() -> None:
            while not (tasks and tasks[0].done()):  # a step may be another call's
                if (step := steps.get()) is not None:
                    step()

        loop.call_soon_threadsafe(begin)
        try:
            wait()
        except BaseException:
            loop.call_soon_threadsafe(lambda: tasks[0].cancel())
            wait()
            raise
        return tasks[0].result()

    def _begun(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="eventferry", daemon=True).start()
                forking.ours(self)
            return self._loop

    def leave(self) -> object:
        """In a forked child: neither the worker thread nor the holder of the lock exists there."""
        loop, self._loop = self._loop, None
        self._lock = threading.Lock()
        return loop


LOOP = _Loop()


class Asked(Generic[T]):
    """An async iterator over the items of a caller's iterator. The iterator runs in the caller's thread, which is
    waiting for the loop. So it may use a store, or objects that belong to that thread, such as a database connection.

    Args:
        here: the work queue of the caller's thread.
        items: creates the iterator.
        at_once: the maximum number of items to take at once, if they come quickly.
    """

    def __init__(
        self, here: SimpleQueue[_Step | None], items: Callable[[], Iterator[T]], at_once: int = 1
    ) -> None:
        self._steps = here
        self._make = items
        self._items: Iterator[T] | None = None
        self._at_once = at_once
        self._found: deque[T] = deque()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if not self._found:
            self._found.extend(await self._ask(self._some))
            if not self._found:
                raise StopAsyncIteration
        return self._found.popleft()

    async def aclose(self) -> None:
        """Close the iterator."""
        if isinstance(self._items, Generator):
            await self._ask(self._items.close)

    def _some(self) -> list[T]:
        if self._items is None:
            self._items = self._make()
        some: list[T] = []
        until = time.monotonic() + _QUICKLY
        for item in self._items:
            some.append(item)
            if len(some) >= self._at_once or isinstance(item, bytes) or time.monotonic() > until:
                break
        return some

    async def _ask(self, function: Callable[[], R]) -> R:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[R] = loop.create_future()

        def tell(give: Callable[[Any], None], result: object) -> None:
            if not answer.done():
                give(result)

        def step() -> None:
            try:
                result = function()
            except Exception as error:
                loop.call_soon_threadsafe(tell, answer.set_exception, error)
            else:
                loop.call_soon_threadsafe(tell, answer.set_result, result)

        self._steps.put(step)
        return await answer


_QUICKLY = 0.01
"""Seconds for which a thread collects items before it hands them over."""


async def next_of(blocks: AsyncIterator[bytes]) -> bytes | None:
    """The next block; None behind the last."""
    return cast("bytes | None", await cast(Any, anext(blocks, None)))
