"""A thread that alone uses a connection: how a blocking driver is asked from asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from functools import partial, wraps
from queue import SimpleQueue
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

from eventferry.errors import StoreClosedError
from eventferry.lifecycle import end_with_loop, stop_without_loop, to_the_end

T = TypeVar("T")

_AGAIN = 0.5
"""Seconds until a call that goes on after an interrupt is interrupted again: it may have come between two
statements."""


_TURN = 0.005
"""Seconds in which calls may be made in the loop's own thread before the loop has a turn again: for its timers, what
arrives, and Ctrl-C."""


class _Call(Generic[T]):
    """A call; `over` is done when the thread is done with it, also if the caller has given up."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self.answer: asyncio.Future[T] = self._loop.create_future()
        self.over: asyncio.Future[None] = self._loop.create_future()

    def make(self) -> None:
        tell: Callable[[], None]
        try:
            tell = partial(self.answer.set_result, self._function())
        except BaseException as error:
            tell = partial(self.answer.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            self._loop.call_soon_threadsafe(self._end, tell)

    def _end(self, tell: Callable[[], None]) -> None:
        self.over.set_result(None)
        if not self.answer.done():
            tell()


def from_thread(give: Callable[[T], None]) -> Callable[[T], None]:
    """What other threads call to have `give` called in this loop, before the answer of the call that they are in."""
    loop = asyncio.get_running_loop()

    def hand_over(item: T) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(give, item)

    return hand_over


class Worker:
    """One thread for the calls of one connection. Not an executor's: what that adds to each call is as much as a save
    takes.

    `interrupt` makes the call under way fail soon; it is called from other threads, also when there is none. `close`
    closes the connection, the last call; twice is fine. `given_up` is true while a call goes on that must not wait, for
    those that wait in steps: its caller has given it up, or would be held up by it.
    """

    def __init__(self, name: str, interrupt: Callable[[], None], close: Callable[[], None]) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_begun = False
        self._is_over = False
        self._interrupt = interrupt
        self._close = close
        self._at_work = threading.Lock()
        self._had_turn = 0.0
        self.given_up = False

    async def run(self, function: Callable[[], T]) -> T:
        """Call `function` in the thread; a cancelled call is interrupted, and waited for."""
        if self._is_over:
            stop_without_loop()
            raise StoreClosedError("the store was closed while it was in use")
        return await self._made(function)

    @property
    def can_be_spared(self) -> bool:
        """Whether a short call may be made right here, by `call`: the loop has no other task, which it would keep
        waiting. The way to the thread and back takes longer than many a call."""
        if not self._is_begun or self._is_over or time.monotonic() - self._had_turn > _TURN:
            return False
        return len(asyncio.all_tasks()) == 1

    def call(self, function: Callable[[], T]) -> T:
        """Call `function` here and now, where the thread can be spared."""
        with self._at_work:
            self.given_up = True
            try:
                return function()
            finally:
                self.given_up = False

    async def _made(self, function: Callable[[], T]) -> T:
        try:
            stop_without_loop()
        except GeneratorExit:
            self.abandon()
            raise
        call = _Call(function)
        if not self._is_begun:
            self._is_begun = True
            end_with_loop(self)
            threading.Thread(target=_work, args=(self._calls,), name=self._name, daemon=True).start()
        self._calls.put(call.make)
        try:
            return await call.answer
        except asyncio.CancelledError:
            self.given_up = True
            try:
                await to_the_end(self._stop(call.over))
            finally:
                self.given_up = False
            raise
        finally:
            self._had_turn = time.monotonic()

    async def _stop(self, over: asyncio.Future[None]) -> None:
        while not over.done():
            # In another thread, for it may ask a server.
            await asyncio.get_running_loop().run_in_executor(None, self._interrupt)
            await asyncio.wait([over], timeout=_AGAIN)

    async def end(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        try:
            if self._is_begun:
                await self._made(self._leave)
        finally:
            self._calls.put(None)

    def _leave(self) -> None:
        """Close, and have the thread end: the loop of the one who waits for this may be closed by then."""
        try:
            self._close()
        finally:
            self._calls.put(None)

    def between(self, function: Callable[[], None], seconds: float) -> None:
        """Call `function` between two calls; from any other thread, which waits for so long."""
        if self._is_begun and not self._is_over:
            over = threading.Event()
            self._calls.put(partial(_between, partial(self._alone, function), over))
            over.wait(seconds)

    def _alone(self, function: Callable[[], None]) -> None:
        with self._at_work:
            function()

    def __del__(self) -> None:
        self.abandon()  # of a store that was forgotten

    def abandon(self) -> None:
        if self._is_over:
            return
        self._is_over = self.given_up = True
        if self._is_begun:
            self._calls.put(partial(_between, self._close, threading.Event()))
        self._calls.put(None)


def _between(function: Callable[[], None], over: threading.Event) -> None:
    try:
        with contextlib.suppress(Exception):  # there is nobody to tell
            function()
    finally:
        over.set()


def _work(calls: SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
        # A result that came too late, a cursor, would stay open in here and be in the rollback's way.
        del call


class _Works(Protocol):
    @property
    def connection(self) -> Any: ...


P = ParamSpec("P")
S = TypeVar("S", bound=_Works)


def threaded(function: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Makes a method that uses `self.connection` an async one that runs in the connection's thread."""

    @wraps(function)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: T = await self.connection.run(partial(function, self, *args, **kwargs))
        return result

    return run
