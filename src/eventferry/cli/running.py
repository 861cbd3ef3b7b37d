"""Runs the work of a command, which signals cancel."""

from __future__ import annotations

import signal
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

import click

from eventferry.cli.terminal import say

P = ParamSpec("P")

ENDS = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command like Ctrl-C."""


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Do a command's work. Ctrl-C, SIGTERM and SIGHUP cancel it, unless they were ignored when the process started."""
    import asyncio

    received: list[int] = []

    async def cancellable() -> Any:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()

        def end(number: int, _: object) -> None:
            received.append(number)
            if len(received) > 1 or task is None:
                raise KeyboardInterrupt  # like a second Ctrl-C
            loop.call_soon_threadsafe(task.cancel)

        for number in before:
            signal.signal(number, end)
        return await work

    before = {number: handler for number in ENDS if (handler := signal.getsignal(number)) != signal.SIG_IGN}
    whole = cancellable()
    try:
        return asyncio.run(whole)
    except (asyncio.CancelledError, KeyboardInterrupt):
        if not received:
            raise
        say(f"eventferry: ended by {signal.Signals(received[0]).name}")
        raise click.exceptions.Exit(128 + received[0]) from None
    finally:
        for coroutine in (whole, work):  # neither may have begun, of which Python warns
            coroutine.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def exit_unless(is_well: bool) -> None:
    """End the command with exit status 1 where it has found something wrong, and said so."""
    if not is_well:
        raise click.exceptions.Exit(1)


def cancellable(command: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Decorator for a command that is a coroutine function."""

    @wraps(command)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        run(command(*args, **kwargs))

    return call
