"""The command line as the tests call it: in this process where that is faithful, else as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

from eventferry import EventStore, open_store
from eventferry.cli import main
from tests.support import line, make_event

Result = TypeVar("Result")

COMMAND = (sys.executable, "-m", "eventferry")
CURSOR_LENGTH = 2048
PATIENCE = 30
"""Seconds after which a process that should have ended long ago counts as hanging."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended, and what it left on its two outputs."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be one JSON value and nothing else."""
        return json.loads(self.out)

    @property
    def is_orderly(self) -> bool:
        """Whether it ended by a decision, not by an accident."""
        return "Traceback" not in self.err and "this should not happen" not in self.err


class Ferry:
    """`eventferry` called with words, in the directory of the test."""

    def __init__(
        self, capture: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch, directory: Path
    ) -> None:
        self._capture = capture
        self._patch = patch
        self._children: list[subprocess.Popen[bytes]] = []
        self.directory = directory

    def __call__(self, *words: str, stdin: bytes = b"") -> Outcome:
        """Run a command, whatever comes of it."""
        self._patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        self._capture.readouterr()
        status = main(list(words))
        outcome = Outcome(status, *self._capture.readouterr())
        assert outcome.is_orderly, outcome.err
        return outcome

    def done(self, *words: str, stdin: bytes = b"") -> Outcome:
        """Run a command that must succeed."""
        outcome = self(*words, stdin=stdin)
        assert outcome.status == 0, outcome.err
        return outcome

    def refused(self, *words: str, stdin: bytes = b"", status: int = 1) -> str:
        """Run a command that must fail with words only; the words."""
        outcome = self(*words, stdin=stdin)
        assert (outcome.status, outcome.out) == (status, "")
        assert outcome.err.strip()
        return outcome.err

    def exported(self, store: str) -> bytes:
        """The lines of a store."""
        return self.done("export", store, "-").out.encode()

    def file(self, name: str, content: bytes | Iterable[Mapping[str, Any]]) -> str:
        """Write bytes or events into a file of the test's directory; its name."""
        lines = content if isinstance(content, bytes) else b"".join(map(line, content))
        (self.directory / name).write_bytes(lines)
        return name

    def store(self, name: str, events: int | Iterable[Mapping[str, Any]] = 0) -> str:
        """Make a store that holds so many events of `make_event`, or these; its name."""
        given = map(make_event, range(events)) if isinstance(events, int) else events
        self.done("init", name)
        self.done("import", "-", name, stdin=b"".join(map(line, given)))
        return name

    def start(self, *words: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a command as a process of its own, with pipes at its ends; it dies with the test at the latest."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        settings: dict[str, Any] = {**pipes, "env": environment(), "preexec_fn": hear_signals} | options
        child: subprocess.Popen[bytes] = subprocess.Popen([*COMMAND, *words], **settings)
        self._children.append(child)
        return child

    def end(self) -> None:
        """Let nothing that was started live on."""
        for child in self._children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout, child.stderr):
                with contextlib.suppress(OSError):  # a pipe whose reader has gone
                    if pipe is not None:
                        pipe.close()

    def in_store(self, name: str, work: Callable[[EventStore], Awaitable[Result]]) -> Result:
        """Do something with a store that no command does."""

        async def opened() -> Result:
            async with open_store(name) as store:
                return await work(store)

        return asyncio.run(opened())

    def names(self) -> set[str]:
        """What stands in the test's directory."""
        return {path.name for path in self.directory.iterdir()}


def new_ferry(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Ferry]:
    """For `ferry = pytest.fixture(new_ferry)`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EVENTFERRY_TRACEBACK", raising=False)
    monkeypatch.setenv("EVENTFERRY_CONFIG", "")  # whoever runs the tests may have one
    ferry = Ferry(capfd, monkeypatch, tmp_path)
    yield ferry
    ferry.end()


def hear_signals() -> None:
    """In a new process: signals as a shell's user has them. Whoever runs the tests may ignore some, as `nohup` and a
    script's `&` do, and a process inherits that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process of its own."""
    return {name: value for name, value in os.environ.items() if name != "EVENTFERRY_TRACEBACK"} | changes


def process(*words: str, stdin: bytes = b"", env: Mapping[str, str] | None = None) -> Outcome:
    """Run a command as a process of its own, to its end."""
    ended = subprocess.run(
        [*COMMAND, *words],
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        env=environment() if env is None else env,
    )
    return Outcome(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def sent(pipe: IO[bytes] | None) -> IO[bytes]:
    """The pipe of a process that has one."""
    assert pipe is not None
    return pipe
