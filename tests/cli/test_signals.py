"""What ends a command from outside: SIGTERM and SIGHUP as Ctrl-C, whoever started it, and nothing that is ignored."""

from __future__ import annotations

import asyncio
import inspect
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from eventferry import sync
from eventferry.cli.running import run
from tests.support import line, make_event, make_lines
from tests.support.cli import COMMAND, Ferry, hear_signals, new_ferry, sent

ferry = pytest.fixture(new_ferry)

AT_ONCE = 20.0
"""Seconds within which a process ends, on a loaded machine too; what does not end would stay for ever."""

ENDS = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def large(count: int) -> bytes:
    """So many lines of nearly a kilobyte."""
    return b"".join(line(make_event(i, payload="x" * 850)) for i in range(count))


@pytest.fixture(scope="module")
def thirty_megabytes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store's file, of which each test takes a copy."""
    path = tmp_path_factory.mktemp("large") / "a.db"
    with sync.open_store(f"sqlite:///{path}") as store:
        store.init()
        with store.import_events() as stream:
            stream.write(large(30_000))
    return path


def part_file_of(ferry: Ferry, child: subprocess.Popen[bytes]) -> str:
    """The file that stands beside DEST, once it is there."""
    while True:
        found = [name for name in ferry.names() if name.endswith(".part")]
        if found:
            return found[0]
        assert child.poll() is None
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_during_an_export_leaves_the_old_file_and_nothing_beside(
    ferry: Ferry, thirty_megabytes: Path, number: signal.Signals
) -> None:
    shutil.copy(thirty_megabytes, ferry.directory / "a.db")
    ferry.file("out.gz", b"precious")
    before = ferry.names()
    child = ferry.start("export", "a.db", "out.gz")
    part_file_of(ferry, child)
    child.send_signal(number)
    assert child.wait(AT_ONCE) == ENDS[number]
    assert (ferry.directory / "out.gz").read_bytes() == b"precious"
    assert ferry.names() == before


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_ends_an_import_that_waits_unfreezes_and_says_how_to_go_on(
    ferry: Ferry, number: signal.Signals
) -> None:
    ferry.store("a.db", 3)
    source = large(12_000)
    child = ferry.start("import", "-", "a.db", "--replace", "--freeze")
    sent(child.stdin).write(source[:10_000_000])
    sent(child.stdin).flush()
    child.send_signal(number)
    assert child.wait(AT_ONCE) == ENDS[number]
    assert "--resume" in sent(child.stderr).read().decode()
    assert ferry.done("describe", "a.db", "--json").json["isFrozen"] is False
    assert ferry.exported("a.db") == make_lines(3)
    ferry.done("import", "-", "a.db", "--replace", "--resume", stdin=source)
    assert ferry.exported("a.db") == source


def test_a_signal_is_named_and_told_on_one_line(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    os.mkfifo(ferry.directory / "pipe")
    child = ferry.start("export", "a.db", "pipe")
    time.sleep(1.5)
    child.send_signal(signal.SIGTERM)
    assert child.wait(AT_ONCE) == 143
    assert sent(child.stderr).read() == b"eventferry: ended by SIGTERM\n"


@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_while_the_process_is_leaving_ends_it_without_words(number: signal.Signals) -> None:
    """As it does where a thread waits for ever for a file; Python would print a traceback."""
    script = (
        "import eventferry.cli as cli, threading\n"
        "from eventferry.__main__ import run\n"
        "def main():\n"
        "    threading.Thread(target=threading.Event().wait).start()\n"
        "    print(flush=True)\n"
        "    return 143\n"
        "cli.main = main\n"
        "run()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_signals,
    )
    try:
        sent(child.stdout).readline()
        time.sleep(0.2)
        child.send_signal(number)
        assert child.wait(AT_ONCE) == ENDS[number]
        assert sent(child.stderr).read() == b""
    finally:
        child.kill()
        child.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number", ENDS, ids=lambda number: number.name)
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(ferry: Ferry, number: signal.Signals) -> None:
    """As `nohup` wants it of SIGHUP, and a script's `&` of Ctrl-C."""

    def ignore() -> None:
        hear_signals()
        signal.signal(number, signal.SIG_IGN)

    child = ferry.start("import", "-", "a.db", preexec_fn=ignore)
    sent(child.stdin).write(make_lines(3)[:100])
    sent(child.stdin).flush()
    time.sleep(1.5)
    child.send_signal(number)
    with pytest.raises(subprocess.TimeoutExpired):
        child.wait(0.5)
    sent(child.stdin).write(make_lines(3)[100:])
    sent(child.stdin).close()
    assert child.wait(AT_ONCE) == 0
    assert ferry.exported("a.db") == make_lines(3)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs the rights of root")
@pytest.mark.parametrize("words", ["export a.db pipe", "import pipe b.db"])
def test_the_first_process_of_a_container_hears_sigterm(ferry: Ferry, words: str) -> None:
    ferry.store("a.db", 3)
    os.mkfifo(ferry.directory / "pipe")
    outer = subprocess.Popen(
        ["unshare", "--fork", "--kill-child", "--pid", *COMMAND, *words.split()],
        preexec_fn=hear_signals,
    )
    try:
        time.sleep(2)
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert outer.wait(AT_ONCE) == 143
    finally:
        outer.kill()
        outer.wait()


def test_a_reader_that_waits_is_told_by_the_end_of_the_pipe(ferry: Ferry) -> None:
    ferry.store("a.db", 5000)
    child = ferry.start("export", "a.db", "-")
    select.select([sent(child.stdout)], [], [], AT_ONCE)
    child.terminate()
    out, _ = child.communicate(timeout=AT_ONCE)
    assert child.returncode == 143
    assert len(out) < len(make_lines(5000))


def test_words_that_nobody_hears_stop_nothing(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    reader, writer = os.pipe()
    os.close(reader)
    child = ferry.start("export", "a.db", "out.jsonl", stderr=writer)
    os.close(writer)
    assert child.wait(AT_ONCE) == 0
    assert (ferry.directory / "out.jsonl").read_bytes() == make_lines(3)


def test_a_closed_standard_output_never_becomes_the_store(ferry: Ferry) -> None:
    ferry.store("a.db", 3)
    for dest in ("-", "/dev/stdout", "/dev/fd/1"):
        script = f'"{sys.executable}" -m eventferry export a.db {dest} >&-'
        told = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=30)
        assert told.returncode == 1
        assert ferry.exported("a.db") == make_lines(3)


def test_work_that_a_signal_does_not_let_begin_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        raise AssertionError("this has begun")

    given = [work()]

    def interrupted(whole: Coroutine[Any, Any, Any]) -> None:
        given.append(whole)
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(given[0])
    assert [inspect.getcoroutinestate(each) for each in given] == [inspect.CORO_CLOSED] * 2
