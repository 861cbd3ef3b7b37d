"""Folders of files, one for each day or type."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import resource
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from eventferry import EventferryError, FolderSink, InputError, UsageError, pipeline, to_csv, to_parquet
from eventferry.tabular import folder
from tests.support import make_event, make_lines
from tests.tabular.events import lines_of, pieces

DAY = 86_400_000


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def by_type(*types: str) -> bytes:
    return lines_of([make_event(i, type=each) for i, each in enumerate(types)])


def content(path: str) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(path).iterdir()}


async def test_each_day_has_a_file_with_its_events_in_order() -> None:
    events = [make_event(i, timestamp=(i * 7 % 5) * DAY + i) for i in range(1000)]
    await pipeline(pieces(lines_of(events), 777), FolderSink("out", split_by="day"))
    assert content("out") == {
        f"1970-01-0{day + 1}.jsonl": lines_of(event for event in events if event["timestamp"] // DAY == day)
        for day in range(5)
    }


async def test_days_are_those_of_utc_and_times_beyond_the_calendar_have_files_of_their_own() -> None:
    times = (-1, 0, DAY - 1, DAY, -62_135_596_800_001, 253_402_300_800_000)
    await pipeline(
        [lines_of([make_event(i, timestamp=time) for i, time in enumerate(times)])],
        FolderSink("out", split_by="day"),
    )
    assert sorted(content("out")) == [
        "1969-12-31.jsonl", "1970-01-01.jsonl", "1970-01-02.jsonl", "after-9999.jsonl", "before-0001.jsonl"
    ]  # fmt: skip


async def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EventferryError, match="out cannot be written: No space left"):
        await pipeline([by_type("a")], FolderSink("out", split_by="type"))
    assert not list(Path().iterdir())


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("split_by", ["day", "type"])
async def test_duckdb_reads_all_files_as_one_table_of_the_same_events(ending: str, split_by: Any) -> None:
    events = [make_event(i, timestamp=i * 40_000_000) for i in range(100)]
    conversion = to_csv() if ending == "csv" else to_parquet()
    sink = FolderSink("out", split_by=split_by, conversion=conversion, ending=f".{ending}")
    await pipeline([lines_of(events)], sink)
    assert sink.files == len(content("out")) == (46 if split_by == "day" else 3)
    found = duckdb.execute(
        f"SELECT threadCounter, threadId, type, epoch_ms(\"timestamp\"), payload FROM 'out/*.{ending}' ORDER BY ALL"
    ).fetchall()
    assert found == sorted(
        (
            event["threadCounter"],
            event["threadId"],
            event["type"],
            event["timestamp"],
            json.dumps(event["payload"], separators=(",", ":")),
        )
        for event in events
    )


HOSTILE = [
    "..", ".", "", "/", "/etc/passwd", "../../x", "a/../b", "a\\b", ".hidden", "~", "~root", "-rf", "a b", "*?[x]{y}",
    "a%2Fb", "%", "%2E.", "x\ny", "é", "e\u0301", "ß", "SS", "ss", "Ss", "sS", "CON", "a:b", "'; DROP", "$(x)", "`x`",
    "x" * 700, "x" * 699 + "y", "/" * 700, "🚢" * 700, "done", "lines", "T.jsonl", "T",
]  # fmt: skip


async def test_no_type_leads_out_of_the_folder_or_to_the_file_of_another() -> None:
    await pipeline([by_type(*HOSTILE, *HOSTILE)], FolderSink("out", split_by="type"))
    assert os.listdir(".") == ["out"]
    found = content("out")
    assert {json.loads(text.split(b"\n")[0])["type"] for text in found.values()} == set(HOSTILE)
    assert all(
        text.count(b"\n") == 2 * HOSTILE.count(json.loads(text.split(b"\n")[0])["type"])
        for text in found.values()
    )
    assert len({name.lower() for name in found}) == len(found)
    assert all(name.isascii() and len(name) < 130 and not name.startswith(".") for name in found)
    assert {"T.jsonl", "T.jsonl.jsonl", "a%20b.jsonl", "CON.jsonl"} <= set(found)


async def test_types_that_differ_in_case_alone_have_files_that_any_file_system_tells_apart() -> None:
    await pipeline([by_type("Paid", "paid", "PAID", "Paid")], FolderSink("out", split_by="type"))
    plain, *others = sorted(content("out"))
    assert [name.partition("~")[0].removesuffix(".jsonl") for name in (plain, *others)] == [
        "PAID",
        "Paid",
        "paid",
    ]
    assert len({name.lower() for name in content("out")}) == 3
    assert content("out")["Paid.jsonl"].count(b"\n") == 2


async def test_many_types_need_few_open_files() -> None:
    count = 500
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, before[1]))
    try:
        sink = FolderSink("out", split_by="type", conversion=to_parquet(), ending=".parquet")
        await pipeline([by_type(*(f"T{i % count}" for i in range(2 * count)))], sink)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert sink.files == len(os.listdir("out")) == count


async def test_more_files_than_anybody_could_use_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MAX_FILES", 3)
    with pytest.raises(EventferryError, match="would make more than 3 files"):
        await pipeline([by_type("a", "b", "c", "a", "d")], FolderSink("out", split_by="type"))
    assert os.listdir(".") == []


async def test_a_folder_that_holds_something_is_left_as_it_is() -> None:
    Path("full").mkdir()
    Path("full/mine").write_bytes(b"mine")
    Path("file").write_bytes(b"mine")
    for name, says in (("full", "is not empty"), ("file", "is a file")):
        with pytest.raises(EventferryError, match=says):
            await pipeline([make_lines(3)], FolderSink(name, split_by="type"))
    assert (sorted(os.listdir(".")), content("full")) == (["file", "full"], {"mine": b"mine"})
    Path("empty").mkdir()
    await pipeline([make_lines(3)], FolderSink("empty", split_by="type"))
    assert len(content("empty")) == 3


async def test_a_folder_that_something_came_into_meanwhile_is_left_as_it_is() -> None:
    sink = FolderSink("out", split_by="type")
    await sink.write(make_lines(3))
    Path("out").mkdir()
    Path("out/mine").write_bytes(b"mine")
    with pytest.raises(EventferryError, match="cannot be put into place"):
        await sink.close()
    assert (os.listdir("."), content("out")) == (["out"], {"mine": b"mine"})


async def test_a_source_that_dies_or_a_line_that_is_no_event_leaves_nothing() -> None:
    async def dying() -> AsyncIterator[bytes]:
        yield make_lines(500)
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await pipeline(dying(), FolderSink("out", split_by="type"))
    with pytest.raises(InputError, match=r"line 501.*is not valid JSON|line 501.*not whole"):
        await pipeline([make_lines(500), b"{\n"], FolderSink("out", split_by="type"))
    with pytest.raises(InputError, match=r"line 501"):
        await pipeline([make_lines(500), make_lines(1)[:-9]], FolderSink("out", split_by="type"))
    assert os.listdir(".") == []


async def test_a_process_that_may_open_no_more_files_leaves_nothing() -> None:
    for conversion in (None, to_csv()):
        sink = FolderSink("out", split_by="type", conversion=conversion)
        await sink.write(make_lines(500))
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        used_up = os.dup(0)  # the first one that is free
        os.close(used_up)
        resource.setrlimit(resource.RLIMIT_NOFILE, (used_up + 1, before[1]))  # one file, and not two
        try:
            with pytest.raises(EventferryError, match="Too many open files"):
                await sink.close()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert os.listdir(".") == []


@pytest.mark.slow
async def test_what_is_cancelled_at_any_moment_leaves_nothing_or_all() -> None:
    whole = 0
    for delay in range(40):
        sink = FolderSink("out", split_by="type", conversion=to_csv(), ending=".csv")
        task = asyncio.ensure_future(pipeline(pieces(make_lines(3000), 100_000), sink))
        await asyncio.sleep(delay / 200)
        task.cancel()
        task.cancel()
        await asyncio.wait([task])
        if os.listdir("."):
            assert os.listdir(".") == ["out"]
            found = duckdb.execute("SELECT count(*) FROM 'out/*.csv'").fetchall()
            assert found == [(3000,)]
            await asyncio.to_thread(_remove)
            whole += 1
    assert whole < 40


def _remove() -> None:
    for file in Path("out").iterdir():
        file.unlink()
    Path("out").rmdir()


async def test_no_events_make_an_empty_folder() -> None:
    await pipeline([], FolderSink("out", split_by="day"))
    assert content("out") == {}


async def test_twice_is_fine_and_afterwards_is_not() -> None:
    sink = FolderSink("out", split_by="type")
    await sink.write(make_lines(3))
    await sink.close()
    await sink.close()
    await sink.abort()
    assert len(content("out")) == 3
    with pytest.raises(EventferryError, match="is closed"):
        await sink.write(b"")
    with pytest.raises(UsageError, match="split_by is 'day' or 'type'"):
        FolderSink("b", split_by="week")  # type: ignore[arg-type]
    with pytest.raises(EventferryError, match="cannot be written: No such file"):
        await pipeline([make_lines(1)], FolderSink("nowhere/out", split_by="type"))
