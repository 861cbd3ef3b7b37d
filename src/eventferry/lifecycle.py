"""Ends: what is begun is ended, whole, whatever is cancelled or closed meanwhile.

A task can be cancelled at any await, once, twice, or over and over until it ends (as anyio does it: Starlette, FastAPI,
`move_on_after`). So whatever must not stay half done is run by `to_the_end`, the one place where a cancellation waits.

A store can be closed at any await. Its `Life` knows what is under way, and ends it: that is the one meaning of `close`.

A loop can be closed while tasks of it wait. Nothing runs in it any more that could end anything; and whatever refers to
such a task, an answer that came too late or a traceback, would keep its locks. So what holds any ends with its loop
(`end_with_loop`), and coroutines that Python closes later end without a word (`stop_without_loop`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, Protocol, TypeAlias, TypeVar

from eventferry.errors import EventferryError, StoreClosedError

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that an ending may take for whose end somebody hurries: it may have to reach a server that is silent."""

_WAITING: ContextVar[frozenset[asyncio.Task[Any]]] = ContextVar("eventferry_waiting", default=frozenset())
"""The tasks that wait for the ending which runs here; none where none does."""


async def to_the_end(ending: Coroutine[Any, Any, T]) -> T:
    """Run an ending in a task of its own; a cancellation comes out when that is over.

    After a cancellation the ending has `PATIENCE`, then it is cancelled itself: what holds a lock gives it back by
    closing its connection, and what stays behind in the database is a dead owner's.
    """
    try:
        stop_without_loop()
    except GeneratorExit:
        ending.close()
        raise
    loop, caller = asyncio.get_running_loop(), asyncio.current_task()
    waiting = _WAITING.get() if caller is None else _WAITING.get() | {caller}
    marker = _WAITING.set(waiting)
    try:
        task = loop.create_task(ending)
    finally:
        _WAITING.reset(marker)
    cancelled: asyncio.CancelledError | None = None
    deadline: float | None = None
    while not task.done():
        if deadline is None and caller is not None and caller.cancelling():
            deadline = loop.time() + PATIENCE
        try:
            await asyncio.wait([task], timeout=None if deadline is None else max(deadline - loop.time(), 0))
        except asyncio.CancelledError as error:
            cancelled = error
        if deadline is not None and loop.time() >= deadline and not task.done():
            task.cancel()
            deadline += PATIENCE
    if cancelled is None:
        return task.result()
    if not task.cancelled() and (failure := task.exception()) is not None:
        cancelled.add_note(f"ending failed too: {failure}")
    raise cancelled


@contextlib.contextmanager
def second_to(error: BaseException) -> Iterator[None]:
    """Ends something because of an error: if that fails too, the error has a note of it, and is what comes out."""
    try:
        yield
    except Exception as another:
        error.add_note(f"ending failed too: {another}")


async def settled(*futures: asyncio.Future[Any]) -> None:
    """Wait until futures are over, however often this is cancelled: a thread that runs cannot be."""
    stop_without_loop()
    if not futures:
        return
    try:
        await to_the_end(asyncio.wait(futures))
    finally:
        for future in futures:
            if future.done() and not future.cancelled():
                future.exception()  # which has been seen now


async def over(*futures: asyncio.Future[Any]) -> None:
    """Wait until futures are over, however they ended; cancelled meanwhile, it cancels them too."""
    await asyncio.gather(*futures, return_exceptions=True)


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and wait until they are over, however often this is cancelled."""
    stop_without_loop()  # nothing can be cancelled there
    for task in tasks:
        task.cancel()
    await to_the_end(over(*tasks))


class OfALoop(Protocol):
    """What ends with its loop: it holds something that others wait for."""

    def abandon(self) -> None:
        """End without a loop, in any thread; twice is fine."""


class _Holder:
    """What belongs to a loop. Only the loop refers to this, as to a timer; so it goes when the loop is closed."""

    def __init__(self) -> None:
        self.things: weakref.WeakSet[OfALoop] = weakref.WeakSet()

    def hold(self) -> None:
        """What the timer calls, in ages."""

    def __del__(self) -> None:
        for thing in list(self.things):
            thing.abandon()


_AGES = 50 * 365 * 86_400.0  # seconds

_holders: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Holder]] = (
    weakref.WeakKeyDictionary()
)


def end_with_loop(thing: OfALoop) -> None:
    """Abandon something as soon as the loop that runs is closed, if it is there then."""
    loop = asyncio.get_running_loop()
    found = _holders.get(loop)
    if found is None or (holder := found()) is None:
        holder = _Holder()
        _holders[loop] = weakref.ref(holder)
        loop.call_later(_AGES, holder.hold)
    holder.things.add(thing)


def stop_without_loop() -> None:
    """Raises GeneratorExit in a coroutine that Python closes after the end of its loop: it can await nothing more."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise GeneratorExit from None


class _Closable(Protocol):
    def aclose(self) -> Awaitable[object]: ...


G = TypeVar("G", bound=_Closable)


class aclosing(contextlib.aclosing[G]):  # noqa: N801 -- as the one that it is
    """As contextlib's; but where Python closes a coroutine after the end of its loop, the generator that it waits for
    counts as running, and cannot be closed."""

    async def __aexit__(self, *error: Any) -> None:
        stop_without_loop()
        await super().__aexit__(*error)


End: TypeAlias = Callable[[BaseException], Coroutine[Any, Any, None]]
"""Ends what is open between two calls, an import or an export, because of an error; twice is fine."""


class _Ending(asyncio.Task[None]):
    """The task of what ends something. It is not cancelled before its first step, as `asyncio.run` does at its end with
    each task that it finds: nothing would be ended."""

    def cancel(self, msg: Any | None = None) -> bool:
        """Cancel it behind the step that is waiting already."""
        if self.done():
            return False
        self.get_loop().call_soon(super().cancel, msg)
        return True


class Life:
    """What is under way on one store object, from its first call to its `close`. `name` is the store's, for errors.
    `has_lost_its_loop`: it is over, for its loop was closed in the middle of a call. `held` is closed at its end, what
    came last first."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process = os.getpid()
        self._is_over = False
        self.has_lost_its_loop = False
        self.held = contextlib.AsyncExitStack()
        self._running: dict[int, Running] = {}  # by the ids of their tasks
        self._streams: dict[End, asyncio.AbstractEventLoop] = {}
        self._forgotten: set[asyncio.Task[None]] = set()
        self._changed: asyncio.Event | None = None

    @property
    def is_inherited(self) -> bool:
        """Whether it is that of a process from which this one was forked."""
        return self._process != os.getpid()

    def check(self) -> None:
        """Raises StoreClosedError where nothing may begin any more; only what ends something still may."""
        if self.is_inherited:
            raise StoreClosedError(
                f"this belongs to the process from which this one was forked: open the store {self.name} here"
            )
        if self._is_over and not _WAITING.get():
            raise self.closed()

    def closed(self) -> StoreClosedError:
        """The error of what `close` ends or refuses."""
        why = (
            ": its event loop was closed in the middle of a call. Open it again"
            if self.has_lost_its_loop
            else ""
        )
        return StoreClosedError(f"the store {self.name} is closed{why}")

    def abandon(self) -> None:
        """What was under way in the loop stays in the middle, and keeps its place in what waits for each other here.

        What was open in it is forgotten: nobody can end it any more, and whoever still has this object would keep it
        alive with all that it holds, a connection of the server's among it.
        """
        self._streams = {end: loop for end, loop in self._streams.items() if not loop.is_closed()}
        if any(each.task is None or each.task.get_loop().is_closed() for each in self._running.values()):
            self._is_over = self.has_lost_its_loop = True

    def running(self) -> Running:
        """Something that is under way as long as the `with` block, in one task."""
        return Running(self)

    def add(self, stream: End) -> None:
        """A stream is open: how it is ended."""
        self._streams[stream] = asyncio.get_running_loop()

    def remove(self, stream: End) -> None:
        """It is over; twice is fine."""
        self._streams.pop(stream, None)

    def forget(self, stream: End) -> None:
        """End a stream that its user has forgotten, if it is open. From any thread."""
        loop = self._streams.get(stream)
        if loop is None or self.is_inherited:
            return

        def begin() -> None:
            task = _Ending(to_the_end(stream(GeneratorExit())), loop=loop)
            self._forgotten.add(task)
            task.add_done_callback(self._forgotten.discard)

        with contextlib.suppress(RuntimeError):  # its loop has ended, and everything in it
            loop.call_soon_threadsafe(begin)

    async def end(self) -> None:
        """Let nothing begin any more, and end what is under way: calls are cancelled, and raise StoreClosedError when
        nothing is left of them; then streams that nobody is calling are ended, and what is held is closed."""
        self._is_over = True
        self._changed = asyncio.Event()
        deadline = asyncio.get_running_loop().time() + 2 * PATIENCE
        while others := self._others():
            self._changed.clear()
            for running in others:
                running.cut()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
                    continue
            break  # it does not react, and its connections are closed under it
        if self._forgotten:
            await asyncio.wait(self._forgotten)
        here = asyncio.get_running_loop()
        for stream in [stream for stream, loop in self._streams.items() if loop is here]:
            with contextlib.suppress(EventferryError):  # whatever it leaves is a dead owner's
                await stream(self.closed())
        await self.held.aclose()

    def _others(self) -> list[Running]:
        """What is under way here, but for what waits for this end."""
        loop, waiting = asyncio.get_running_loop(), _WAITING.get() | {asyncio.current_task()}
        return [
            running
            for running in self._running.values()
            if (task := running.task) is not None
            and task not in waiting
            and not task.done()
            and task.get_loop() is loop
        ]


class Running:
    """Something under way in a task; one within another in the same task is part of it.

    It refers to its task weakly. Where a loop has ended without its tasks, Python may first close a coroutine in the
    middle of a task: were this the last that holds the task, its end would close that coroutine again, and Python 3.11
    crashes.
    """

    def __init__(self, life: Life) -> None:
        self._life = life
        self._task: weakref.ref[asyncio.Task[Any]] | None = None
        self._id = 0
        self._is_ending = bool(_WAITING.get())
        self._cancelling = 0
        self._is_cut = False

    @property
    def task(self) -> asyncio.Task[Any] | None:
        """In which it is under way, while that is there."""
        return None if self._task is None else self._task()

    def __enter__(self) -> None:
        self._life.check()
        task = asyncio.current_task()
        if task is not None and id(task) not in self._life._running:
            self._task, self._id, self._cancelling = weakref.ref(task), id(task), task.cancelling()
            self._life._running[self._id] = self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._task is None:
            return
        del self._life._running[self._id]
        if self._life._changed is not None:
            self._life._changed.set()
        if not self._is_cut or (task := self.task) is None:
            return
        if task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise self._life.closed() from None

    def cut(self) -> None:
        """Cancel it, once; not what ends something, which is as good as over."""
        task = self.task
        if task is not None and not (self._is_cut or self._is_ending):
            self._is_cut = True
            task.cancel()
