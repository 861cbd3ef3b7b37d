"""A thread that alone uses a connection: how a blocking driver is asked from asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

T = TypeVar("T")

_AGAIN = 0.5
"""Seconds until a call that goes on after an interrupt is interrupted again: it may have come between two
statements."""


class Worker:
    """One thread for the calls of one connection.

    Args:
        name: the thread's.
        interrupt: makes the call under way fail soon; called from other threads, also when there is none.

    Attributes:
        given_up: set while a call goes on whose caller has given it up, for those that wait in steps.
    """

    def __init__(self, name: str, interrupt: Callable[[], None]) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._interrupt = interrupt
        self.given_up = threading.Event()

    async def run(self, function: Callable[[], T]) -> T:
        """Call `function` in the thread; a cancelled call is interrupted, and waited for."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, function)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self.given_up.set()
            stopping = asyncio.ensure_future(self._stop(future))
            while not stopping.done():  # a second cancellation must not leave the thread at work either
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([stopping])
            future.exception()  # seen: what matters now is that the call was cancelled
            # A result that came too late, a cursor, would stay open in here and be in the rollback's way.
            del future, stopping
            self.given_up.clear()
            raise

    async def _stop(self, future: asyncio.Future[T]) -> None:
        while not future.done():
            # In another thread, for it may ask a server.
            await asyncio.get_running_loop().run_in_executor(None, self._interrupt)
            await asyncio.wait([future], timeout=_AGAIN)

    def end(self) -> None:
        """End the thread when it has nothing more to do."""
        self._executor.shutdown(wait=False)


class _Runs(Protocol):
    async def run(self, function: Callable[[], T]) -> T: ...


class _Works(Protocol):
    @property
    def connection(self) -> _Runs: ...


P = ParamSpec("P")
S = TypeVar("S", bound=_Works)


def threaded(
    function: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, T]]:
    """Makes a method that uses `self.connection` an async one that runs in the connection's thread."""

    @wraps(function)
    async def run(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.connection.run(partial(function, self, *args, **kwargs))

    return run
