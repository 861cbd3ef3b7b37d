"""What is open and forgotten is ended, and nobody waits for that for ever."""

from __future__ import annotations

import asyncio
import threading

import pytest

from eventferry import lifecycle
from eventferry.lifecycle import Life


def run_and_forget(end: lifecycle.End) -> threading.Thread:
    """Forgets something in a loop that ends at once, in a thread of its own."""

    async def forget() -> None:
        life = Life("a store")
        life.add(end)
        life.forget(end)

    thread = threading.Thread(target=lambda: asyncio.run(forget()), daemon=True)
    thread.start()
    return thread


def test_what_is_forgotten_with_its_loop_is_ended() -> None:
    ended = threading.Event()

    async def end(_: BaseException) -> None:
        await asyncio.sleep(0)
        ended.set()

    run_and_forget(end).join(10)

    assert ended.is_set()


def test_an_ending_that_gets_no_answer_does_not_hold_up_its_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "PATIENCE", 0.05)

    async def end(_: BaseException) -> None:
        await asyncio.Event().wait()

    thread = run_and_forget(end)
    thread.join(10)

    assert not thread.is_alive()
