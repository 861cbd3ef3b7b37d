"""Changes that go on in a process of their own: the same comes out, and nothing of the process is ever left."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from eventferry import ChangeError, Changes, InputError, WorkerError, open_store, pipeline
from eventferry.changing import moving
from eventferry.changing.rules import Rule, Rules
from eventferry.processes.worker import WorkerProcess
from tests.support import exported, line, make_event, make_lines
from tests.support.ends import WAYS, cut_short, heard, loop_ended

EVENTS = 8_000
"""So many that the lines of a source come in many pieces."""

RULES = Rules(
    rules=(
        Rule(type="TYPE_0", rename="OTHER"),
        Rule(type="TYPE_1", aggregate_id="aggregate-1", drop=True),
        Rule(aggregate_prefix="aggregate-", rename_aggregate="one-"),
        Rule(redact=("/number", "/missing")),
        Rule(type="FIRST", redact=("/number",)),
    )
)

FUNCTIONS = """
import os, sys, time

def tell(event):
    event.payload["process"] = os.getpid()
    return event

def fail(event):
    if event.payload["number"] == 7000:
        raise KeyError("this one")
    return event

def hang(event):
    with open(event.type, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(1000)

def say(event):
    print("it says", event.payload["number"])
    return event
"""


@pytest.fixture(autouse=True)
def moves_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few bytes are many, also on one core."""
    monkeypatch.setattr(moving, "_START", 100_000)
    monkeypatch.setattr(moving, "_MOVE", 200_000)
    monkeypatch.setattr(moving, "cores", lambda: 2)


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "moved_functions.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    yield "moved_functions"
    sys.modules.pop("moved_functions", None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the processes that are started."""
    found: list[int] = []

    class Noted(WorkerProcess):
        def __init__(self, work: str, name: str) -> None:
            super().__init__(work, name)
            found.append(self.pid)

    monkeypatch.setattr(moving, "WorkerProcess", Noted)
    return found


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


async def blocks(lines: bytes, size: int = 100_001) -> AsyncIterator[bytes]:
    for start in range(0, len(lines), size):
        yield lines[start : start + size]
        await asyncio.sleep(0)


async def changed(changes: Changes, lines: bytes) -> bytes:
    return b"".join([text async for text in changes(blocks(lines))])


async def stayed(monkeypatch: pytest.MonkeyPatch, changes: Changes, lines: bytes) -> bytes:
    """The same where there is no second core."""
    with monkeypatch.context() as patch:
        patch.setattr(moving, "cores", lambda: 1)
        return await changed(changes, lines)


@pytest.mark.parametrize("keeps", [False, True])
async def test_the_same_comes_out_as_of_changes_that_stay(
    keeps: bool, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = Rules(rules=RULES.rules[2:]) if keeps else RULES
    one, other = (Changes(rules=rules, keep_positions=keeps) for _ in range(2))
    lines = line(make_event(0, type="FIRST", threadCounter=99)) + make_lines(EVENTS).rstrip(b"\n")
    assert await changed(one, lines) == await stayed(monkeypatch, other, lines)
    assert len(started) == 1
    assert not is_there(started[0])
    assert one.report == other.report
    assert one.report.written > 7000
    assert one.first_changed == other.first_changed
    assert [name.partition(": ")[2] for name in one.report.never_matched] == ["redact /missing"]


async def test_few_lines_stay(started: list[int]) -> None:
    await changed(Changes(rules=RULES), make_lines(500))
    assert started == []


async def test_a_function_with_a_name_is_called_there_for_all_events(functions: str) -> None:
    lines = (await changed(Changes(function=f"{functions}:tell"), make_lines(EVENTS))).splitlines()
    processes = {json.loads(text)["payload"]["process"] for text in lines}
    assert len(processes) == 1
    assert os.getpid() not in processes


async def test_a_callable_is_called_here(started: list[int]) -> None:
    given: list[object] = []
    await changed(Changes(function=given.append), make_lines(EVENTS))
    assert (len(given), started) == (EVENTS, [])


async def test_what_a_function_prints_is_seen(functions: str, capfd: pytest.CaptureFixture[str]) -> None:
    await changed(Changes(function=f"{functions}:say"), make_lines(3))
    assert capfd.readouterr().out == "it says 0\nit says 1\nit says 2\n"


async def test_they_stay_where_no_process_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    changes = Changes(rules=RULES)
    await changed(changes, make_lines(EVENTS))
    assert changes.report.read == EVENTS


async def test_they_stay_where_the_function_cannot_be_loaded_there(functions: str, tmp_path: Path) -> None:
    changes = Changes(function=f"{functions}:tell")
    (tmp_path / f"{functions}.py").unlink()
    lines = await changed(changes, make_lines(10))
    assert json.loads(lines.splitlines()[0])["payload"]["process"] == os.getpid()


async def test_what_is_refused_there_is_told_as_here(
    functions: str, started: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = make_lines(7000) + line(make_event(7000, type=5)) + make_lines(20)
    told = []
    for change in (changed, partial(stayed, monkeypatch)):
        with pytest.raises(InputError) as refused:
            await change(Changes(rules=RULES), lines)
        told.append((str(refused.value), refused.value.line, refused.value.byte_offset))
    assert told[0] == told[1]
    assert told[0][1] == 7001
    with pytest.raises(ChangeError, match="moved_functions:fail raised KeyError: 'this one'") as raised:
        await changed(Changes(function=f"{functions}:fail"), make_lines(EVENTS))
    assert raised.value.said == "'this one'"
    assert 'raise KeyError("this one")' in "".join(raised.value.__notes__)
    assert not any(map(is_there, started))


async def test_what_a_sink_refuses_is_told_by_the_line_that_came_in(tmp_path: Path) -> None:
    lines = make_lines(6000) + line(make_event(6000, aggregateId="x" * 300)) + make_lines(100)

    class Sink:
        def __init__(self) -> None:
            self.seen = 0

        async def write(self, block: bytes) -> None:
            found = block.find(b"x" * 300)
            if found >= 0:
                raise InputError("is too long", line=self.seen + block[:found].count(b"\n") + 1)
            self.seen += block.count(b"\n")

        async def close(self) -> None:
            """Nothing was kept."""

        async def abort(self, error: BaseException | None = None) -> None:
            """Nothing was kept."""

    offset = len(make_lines(6000))
    with pytest.raises(
        InputError, match=f"line 6001, byte {offset}: the event at threadId 112, threadCounter 23"
    ):
        await pipeline(blocks(lines), Changes(rules=RULES), Sink())


@pytest.mark.slow
async def test_a_killed_process_interrupts_an_import_which_is_then_resumed(
    tmp_path: Path, started: list[int]
) -> None:
    lines, changes = make_lines(EVENTS), Changes(rules=RULES)

    async def killing() -> AsyncIterator[bytes]:
        async for block in blocks(lines, 400_000):
            yield block
            os.kill(started[0], signal.SIGKILL)

    async with open_store(str(tmp_path / "store.db")) as store:
        await store.init()
        with pytest.raises(
            WorkerError, match="the process of changes on the way was ended by signal 9, Killed,"
        ):
            await pipeline(killing(), changes, store.import_events())
        report = await pipeline(blocks(lines), changes, store.import_events(resume=True))
        assert report.imported == changes.report.written
        assert await exported(store) == await changed(Changes(rules=RULES), lines)
    assert not any(map(is_there, started))


@pytest.mark.slow
@pytest.mark.parametrize("way", [way for way in WAYS if way != "close"])
def test_changes_that_are_cut_short_leave_no_process(way: str, started: list[int]) -> None:
    lines = make_lines(5000)

    async def work() -> None:
        await changed(Changes(rules=RULES), lines)

    async def nothing() -> None:
        """What they have here belongs to the process that was forked."""

    has_started = False
    for at in (5, 8, 9, 11, 30):
        started.clear()
        if way == "loop":
            with heard(lambda _: None):
                loop_ended(work, at)
                gc.collect()
        else:
            _, error = asyncio.run(cut_short(way, work, nothing, nothing, at))
            assert way != "fork" or error is None
        has_started = has_started or bool(started)
        deadline = time.monotonic() + 20
        while any(map(is_there, started)):
            subprocess._cleanup()  # type: ignore[attr-defined]  # of one that nobody waits for any more
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert has_started


async def test_lines_that_nobody_takes_any_more_leave_no_process(
    started: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    texts = Changes(rules=RULES)(blocks(make_lines(EVENTS)))
    async for _ in texts:
        if started:
            break
    await texts.aclose()
    assert not any(map(is_there, started))
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_the_process_ends_with_one_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "moved_functions.py").write_text(FUNCTIONS)
    (tmp_path / "lines").write_bytes(line(make_event(0, type="pid")))
    command = "from eventferry.cli import main; main(['import', 'lines', 'a.db', '--function', 'moved_functions:hang'])"
    subprocess.run([sys.executable, "-m", "eventferry", "init", "a.db"], cwd=tmp_path, check=True)
    script = f"from eventferry.changing import moving; moving.cores = lambda: 2; {command}"
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path) as parent:
        try:
            wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        finally:
            parent.kill()
    process = int((tmp_path / "pid").read_text())
    assert process != parent.pid
    wait_for(lambda: not is_there(process))


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
