"""Child processes that cost a fork each: a process that has imported everything stands ready to be forked."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from tests.support.faults import jobs

_CONTEXT = multiprocessing.get_context("forkserver")


def make_ready() -> None:
    """Start the process that is forked; it ends with this one."""
    # Started anew it finds the modules where this process found them.
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    try:
        # What is loaded at its first use too: a child that is nobody may not read where Python's library lies.
        _CONTEXT.set_forkserver_preload(
            ["__main__", "tests.support.faults.jobs", "concurrent.futures.thread"]
        )
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


class Child:
    """A child that does a job.

    Attributes:
        said: what it has told, without "begun" and how it ended.
        ended: how: "well", "refused" by an error of ours, "interrupted", "broken" by any other; None if it was
            killed before it could tell.
        error: what it ended with.
        begun_at, done_at: when it told so, by this process's clock; None if it has not.
    """

    def __init__(
        self, job: str, *arguments: Any, privileged: bool = True, pause_at: int | None = None
    ) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.ended: str | None = None
        self.error: str | None = None
        self.begun_at: float | None = None
        self.done_at: float | None = None
        self._hear, speak = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(
            target=jobs.run,
            args=(job, arguments, speak),
            kwargs={"privileged": privileged, "pause_at": pause_at},
            daemon=True,
        )
        self._process.start()
        self._pid = self._process.pid or 0
        speak.close()
        self._news = asyncio.Event()
        self._is_over = False
        asyncio.get_running_loop().add_reader(self._hear.fileno(), self._listen)

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._is_over

    @property
    def is_done(self) -> bool:
        """Whether it has told that its work is done."""
        return self.done_at is not None

    def words(self, *kinds: str) -> list[tuple[Any, ...]]:
        """What it has told of these kinds, each without its kind."""
        return [tuple(rest) for kind, *rest in self.said if kind in kinds]

    def signal(self, number: int) -> None:
        """Send it a signal, if it lives."""
        if not self._is_over:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    async def until_begun(self) -> None:
        """Wait until its work begins, or it ends."""
        while self.begun_at is None and not self._is_over:
            await self._more()

    async def until_step(self, count: int) -> None:
        """Wait until it has told so many steps, or ends."""
        while len(self.said) < count and not self._is_over:
            await self._more()

    async def until_paused(self) -> bool:
        """Wait until it has stopped before the statement it was to stop at; False if it ended without coming there."""
        while not self.words("paused") and not self._is_over:
            await self._more()
        if self._is_over:
            return False
        stopped = Path(f"/proc/{self._pid}/stat")
        while stopped.read_text().rpartition(")")[2].split()[0] != "T":
            await asyncio.sleep(0.001)
        return True

    async def until_moment(self, seconds: float) -> None:
        """Wait until so long after its beginning, or it ends."""
        await self.until_begun()
        moment = (self.begun_at or 0) + seconds
        while not self._is_over and (left := moment - time.perf_counter()) > 0:
            try:
                await asyncio.wait_for(self._more(), left)
            except TimeoutError:
                return

    async def until_over(self, seconds: float) -> bool:
        """Wait until it has ended; whether it did in time. Else it is killed."""
        try:
            async with asyncio.timeout(seconds):
                while not self._is_over:
                    await self._more()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            while not self._is_over:
                await self._more()
            return False
        return True

    async def _more(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _listen(self) -> None:
        try:
            while self._hear.poll():
                self._take(self._hear.recv())
        except (EOFError, OSError):
            asyncio.get_running_loop().remove_reader(self._hear.fileno())
            self._hear.close()
            self._process.join()
            self._process.close()
            self._is_over = True
        self._news.set()

    def _take(self, words: tuple[Any, ...]) -> None:
        now = time.perf_counter()
        if words[0] == "begun":
            self.begun_at = now
        elif words[0] == "ended":
            _, self.ended, self.error = words
        else:
            self.said.append(words)
            if words[0] == "done":
                self.done_at = now
