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
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from eventferry.databases.forking import ours
from eventferry.errors import WorkerError
from eventferry.lifecycle import PATIENCE, to_the_end
from eventferry.user_functions import load_function

_SIZE = struct.Struct("!Q")
_START = """
import sys
sys.path[:] = sys.argv[3:]
from eventferry.processes.own import make_ours
make_ours()
from eventferry.processes.worker import run
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
        self._messages: asyncio.Queue[bytearray | None] = asyncio.Queue()
        self._reading = asyncio.ensure_future(self._read_all())
        ours(self)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def send(self, message: object) -> None:
        """Send a message, which can be pickled; may wait until the work takes it. If the process has ended, `receive`
        tells that, behind what it has sent before."""
        text = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().sock_sendall(self._socket, _SIZE.pack(len(text)) + text)

    async def receive(self) -> Any:
        """The next message of the work.

        Raises:
            WorkerError: the process has ended without one.
        """
        text = await self._messages.get()
        if text is None:
            raise await self._ended()
        return pickle.loads(text)  # noqa: S301 -- nobody else has the socket

    async def finish(self) -> None:
        """The work has sent its last message: let the process end by itself, then close."""
        await asyncio.wait([self._reading], timeout=PATIENCE)
        await self.close()

    async def close(self) -> None:
        """End the process at once; twice is fine."""
        if self._parent == os.getpid():
            self._reading.cancel()
            self._socket.close()
            if self._process.returncode is None:
                # With all that it has started. Its id is nobody else's before it was waited for.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                await to_the_end(asyncio.to_thread(self._process.wait))

    async def _ends_by_itself(self) -> None:
        """Wait for the end of a process that has closed its socket, so that its own status is told."""
        for _ in range(int(PATIENCE * 100)):
            if self._has_ended():
                break
            await asyncio.sleep(0.01)

    def _has_ended(self) -> bool:
        if self._parent != os.getpid() or self._process.returncode is not None:
            return True
        # It stays known, and so does its id.
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    async def __aenter__(self) -> WorkerProcess:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def leave(self) -> object:
        """In a child that is forked: the process hears the parent's end when that ends."""
        self._socket.close()
        return self._process

    async def _read_all(self) -> None:
        """Take in what the work sends, at once: it never waits for who waits for it."""
        with contextlib.suppress(OSError, EOFError):
            while True:
                (size,) = _SIZE.unpack(await self._read(_SIZE.size))
                self._messages.put_nowait(await self._read(size))
        self._messages.put_nowait(None)

    async def _read(self, size: int) -> bytearray:
        text = bytearray(size)
        rest = memoryview(text)
        while rest:
            count = await asyncio.get_running_loop().sock_recv_into(self._socket, rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return text

    async def _ended(self) -> WorkerError:
        """The error for a process that has ended."""
        await self._ends_by_itself()
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
        self._stream = channel.makefile("rb")
        ours(self)
        threading.Thread(target=self._end_with_the_parent, daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message, which can be pickled; waits until the parent takes it."""
        text = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        try:
            self._socket.sendall(_SIZE.pack(len(text)) + text)
        except OSError:
            os._exit(1)

    def receive(self) -> Any:
        """The next message of the parent; waits until there is one."""
        try:
            (size,) = _SIZE.unpack(self._stream.read(_SIZE.size))
            text = self._stream.read(size)
        except (OSError, struct.error):  # the parent has ended, which this thread has seen first
            os._exit(1)
        return pickle.loads(text)  # noqa: S301 -- nobody else has the socket

    def leave(self) -> object:
        """In a child that is forked: it is not the one that the parent talks to."""
        os.close(self._socket.detach())
        return self._socket, self._stream

    def _end_with_the_parent(self) -> None:
        """Whatever the work is doing."""
        hung_up = select.poll()
        hung_up.register(self._socket, 0)
        hung_up.poll()
        os._exit(1)


def run(work: str, descriptor: str) -> None:
    """What the process runs."""
    channel = socket.socket(fileno=int(descriptor))
    channel.set_inheritable(False)
    load_function(work)(Channel(channel))
