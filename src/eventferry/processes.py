"""Work in a process of its own, which has Python's lock to itself.

It is started as a new program, and not forked: it shares no connection, lock or thread, and runs nothing of the
caller's main module. Messages go both ways through one socket. That is also what tells of an end: when it closes,
because the parent has closed or killed it or is dead itself, the process ends at once, whatever it is doing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from eventferry.databases.forking import ours
from eventferry.errors import WorkerError
from eventferry.lifecycle import PATIENCE, to_the_end
from eventferry.user_functions import load_function

_SIZE = struct.Struct("!Q")
_START = """
import sys
sys.path[:] = sys.argv[3:]
from eventferry.own_process import make_ours
make_ours()
from eventferry.processes import run
run(*sys.argv[1:3])
"""


def can_start() -> bool:
    """Whether this program is a Python that can be started once more: not one that is frozen into a single file, or
    embedded in another program."""
    program = Path(sys.executable or "").name.lower()
    return not getattr(sys, "frozen", False) and program.startswith(("python", "pypy"))


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerProcess:
    """A process that runs `work`, "module:function", which is given its `Channel`. With `async with` nothing of it is
    left behind the block, whatever ends that. What it prints goes where ours does.

    Args:
        work: what it runs.
        name: what that is, for errors.

    Raises:
        WorkerError: it cannot be started.
    """

    def __init__(self, work: str, name: str) -> None:
        self._name = name
        self._parent = os.getpid()
        if not can_start():
            raise WorkerError(
                f"{name} needs a process of its own, and {sys.executable!r} is no Python to start"
            )
        here, there = socket.socketpair()
        try:
            with there:
                # A group of its own: Ctrl-C is for us, and we end it.
                self._process = subprocess.Popen(  # noqa: S603 -- this Python, and names of ours
                    [sys.executable, "-c", _START, work, str(there.fileno()), *sys.path],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[there.fileno()],
                    process_group=0,
                )
        except OSError as error:
            here.close()
            raise WorkerError(
                f"{name} needs a process of its own, which cannot be started: {error}"
            ) from error
        here.setblocking(False)
        self._socket = here
        ours(self)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def send(self, message: object) -> None:
        """Send a message, which can be pickled. It never waits for the work: the process takes in what comes. If it has
        ended, that is told by `receive`, behind what it has sent before."""
        text = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._socket, _SIZE.pack(len(text)) + text)

    async def receive(self) -> Any:
        """The next message of the work.

        Raises:
            WorkerError: the process has ended without one.
        """
        (size,) = _SIZE.unpack(await self._read(_SIZE.size))
        return pickle.loads(await self._read(size))  # noqa: S301 -- nobody else has the socket

    async def finish(self) -> None:
        """The work has sent its last message: let the process end by itself, then close."""
        with contextlib.suppress(TimeoutError, WorkerError):
            async with asyncio.timeout(PATIENCE):
                await self._read(1)
        await self.close()

    async def close(self) -> None:
        """End the process at once; twice is fine."""
        if self._parent == os.getpid():
            self._socket.close()
            if self._process.poll() is None:
                self._process.kill()
                await to_the_end(asyncio.to_thread(self._process.wait))

    async def __aenter__(self) -> WorkerProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def leave(self) -> object:
        """In a child that is forked: the process hears the parent's end when that ends."""
        self._socket.close()
        return self._process

    async def _read(self, size: int) -> bytearray:
        loop = asyncio.get_running_loop()
        text = bytearray(size)
        rest = memoryview(text)
        while rest:
            try:
                count = await loop.sock_recv_into(self._socket, rest)
            except OSError:
                count = 0
            if not count:
                raise await self._ended()
            rest = rest[count:]
        return text

    async def _ended(self) -> WorkerError:
        """The error for a process that has ended."""
        await self.close()
        status = self._process.returncode
        if status is None:
            return WorkerError(
                f"the process of {self._name} is that of the one from which this one was forked"
            )
        how = f"by signal {-status}, {signal.strsignal(-status)}," if status < 0 else f"with status {status}"
        return WorkerError(f"the process of {self._name} was ended {how} before its work was done")


class Channel:
    """The messages between the work of a `WorkerProcess` and its parent, seen from the work."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel
        self._came: SimpleQueue[bytes] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message, which can be pickled; waits until the parent takes it."""
        text = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._socket.sendall(_SIZE.pack(len(text)) + text)

    def receive(self) -> Any:
        """The next message of the parent; waits until there is one."""
        return pickle.loads(self._came.get())  # noqa: S301 -- nobody else has the socket

    def _read(self) -> None:
        """Take in what comes, whatever the work is doing, and end with the parent."""
        try:
            with self._socket.makefile("rb") as stream:
                while size := stream.read(_SIZE.size):
                    self._came.put(stream.read(_SIZE.unpack(size)[0]))
        finally:
            os._exit(1)


def run(work: str, descriptor: str) -> None:
    """What the process runs."""
    channel = socket.socket(fileno=int(descriptor))
    channel.set_inheritable(False)
    load_function(work)(Channel(channel))
