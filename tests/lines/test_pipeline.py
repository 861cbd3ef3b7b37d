"""The pipeline joins any source to any sink and closes all of them."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    AUTO,
    StoreFrozenError,
    UsageError,
    pipeline,
    read_blocks,
)
from tests.support import exported, import_lines, line, make_event, make_lines
from tests.support.sqlite import store_at

LINES = make_lines(300)
NEW = make_lines(400)


class Source:
    """A source that notes how it ends."""

    def __init__(
        self, *blocks: bytes, error: BaseException | None = None, close_error: BaseException | None = None
    ) -> None:
        self.blocks = list(blocks)
        self.error = error
        self.close_error = close_error
        self.closed = 0

    def __aiter__(self) -> Source:
        return self

    async def __anext__(self) -> bytes:
        if self.blocks:
            return self.blocks.pop(0)
        if self.error is not None:
            raise self.error
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.closed += 1
        if self.close_error is not None:
            raise self.close_error


class Sink:
    """A sink that notes what it was told."""

    def __init__(
        self,
        *,
        write_error: Exception | None = None,
        close_error: Exception | None = None,
        abort_error: Exception | None = None,
    ) -> None:
        self.calls: list[str] = []
        self.content = b""
        self.abort_reason: BaseException | None = None
        self.errors = {"write": write_error, "close": close_error, "abort": abort_error}

    def _note(self, call: str) -> None:
        if call != "write" or self.calls[-1:] != ["write"]:
            self.calls.append(call)
        error = self.errors[call]
        if error is not None:
            raise error

    async def write(self, block: bytes) -> None:
        self._note("write")
        self.content += block

    async def close(self) -> str:
        self._note("close")
        return "the report"

    async def abort(self, error: BaseException | None = None) -> None:
        self.abort_reason = error
        self._note("abort")


class Transform:
    """A transform that notes whether it was closed."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed = 0

    async def __call__(self, blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        try:
            async for block in blocks:
                yield block.upper()
                if self.error is not None:
                    raise self.error
        finally:
            self.closed += 1


# what can be joined


def _generator() -> Iterator[bytes]:
    yield from (LINES[:1000], LINES[1000:])


async def _async_generator() -> AsyncIterator[bytes]:
    for block in _generator():
        yield block


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda _: [LINES[:5], b"", LINES[5:]], id="a list"),
        pytest.param(lambda _: _generator(), id="a generator"),
        pytest.param(lambda _: _async_generator(), id="an async generator"),
        pytest.param(lambda _: Source(LINES), id="an async iterator"),
        pytest.param(lambda _: io.BytesIO(LINES), id="a file in memory"),
        pytest.param(lambda path: path, id="a path"),
        pytest.param(str, id="the name of a file"),
        pytest.param(lambda path: path.open("rb"), id="an open file"),
        pytest.param(lambda path: path.open("rb", buffering=0), id="an open file without a buffer"),
        pytest.param(read_blocks, id="read_blocks"),
        pytest.param(lambda _: [bytearray(LINES), memoryview(b"")], id="other bytes"),
    ],
)
async def test_any_source_of_bytes_can_be_imported(tmp_path: Path, source: Callable[[Path], Any]) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(LINES)
    store = await store_at(tmp_path / "a.db", NEW)
    report = await pipeline(source(path), store.import_events())
    assert report.imported == 300
    assert await exported(store) == LINES
    await store.close()


async def test_an_export_goes_into_any_sink(tmp_path: Path) -> None:
    store = await store_at(tmp_path / "a.db", LINES)
    memory, sink = io.BytesIO(), Sink()
    path = tmp_path / "1.jsonl"
    assert await pipeline(store.export_events(), memory) is None  # type: ignore[func-returns-value]
    assert await pipeline(store.export_events(), sink) == "the report"
    assert await pipeline(store.export_events(), str(path)) is None  # type: ignore[func-returns-value]
    with (tmp_path / "2.jsonl").open("wb") as file:
        await pipeline(store.export_events(), file)
        assert not file.closed
        assert (tmp_path / "2.jsonl").read_bytes() == LINES
    assert memory.getvalue() == sink.content == path.read_bytes() == LINES
    await store.close()


async def test_a_source_is_read_as_it_comes_from_a_pipe() -> None:
    read_end, write_end = os.pipe()
    arrived = asyncio.Event()

    async def watch(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            arrived.set()
            yield block

    with os.fdopen(read_end, "rb") as source:
        memory = io.BytesIO()
        task = asyncio.create_task(pipeline(source, watch, memory))
        os.write(write_end, b"first\n")
        await asyncio.wait_for(arrived.wait(), 10)
        os.write(write_end, b"second\n")
        os.close(write_end)
        await asyncio.wait_for(task, 10)
    assert memory.getvalue() == b"first\nsecond\n"


async def test_an_open_file_is_read_from_where_it_stands_and_left_open(tmp_path: Path) -> None:
    path, memory = tmp_path / "lines", io.BytesIO()
    path.write_bytes(b"skipped\n" + LINES)
    with path.open("rb") as file:
        file.readline()
        await pipeline(file, memory)
        assert not file.closed
    assert memory.getvalue() == LINES


async def test_transforms_stand_in_line() -> None:
    async def double(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            yield block + block

    sink = Sink()
    await pipeline([b"a", b"b"], double, Transform(), double, sink)
    assert sink.content == b"AAAABBBB"


async def test_a_transform_may_end_before_its_source(tmp_path: Path) -> None:
    async def first_only(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            yield block
            return

    source, sink = Source(b"a", b"b"), Sink()
    assert await pipeline(source, first_only, sink) == "the report"
    assert sink.content == b"a"
    assert source.closed


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(([b"a"],), id="no sink"),
        pytest.param(([b"a"], 5), id="a number as sink"),
        pytest.param((b"bytes", io.BytesIO()), id="bytes as source"),
        pytest.param((5, io.BytesIO()), id="a number as source"),
        pytest.param(([b"a"], "a.txt", io.BytesIO()), id="a file in the middle"),
    ],
)
async def test_what_cannot_be_joined_is_refused_by_name(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError):
        await pipeline(*arguments)


# closing


async def test_all_are_closed_on_success() -> None:
    source, transform, sink = Source(b"a"), Transform(), Sink()
    await pipeline(source, transform, sink)
    assert source.closed
    assert transform.closed == 1
    assert sink.calls == ["write", "close"]


@pytest.mark.parametrize("culprit", ["source", "transform", "sink"])
async def test_all_are_closed_on_failure_and_the_error_comes_out(culprit: str) -> None:
    error = RuntimeError(culprit)
    source = Source(b"a", error=error if culprit == "source" else None)
    transform = Transform(error if culprit == "transform" else None)
    behind = Transform()
    sink = Sink(write_error=error if culprit == "sink" else None)
    with pytest.raises(RuntimeError) as raised:
        await pipeline(source, transform, behind, sink)
    assert raised.value is error
    assert source.closed
    assert transform.closed == behind.closed == 1
    assert sink.calls == ["write", "abort"]
    assert sink.abort_reason is error


@pytest.mark.parametrize("ends_with_error", [False, True])
async def test_a_plain_generator_is_closed_too(ends_with_error: bool) -> None:
    ended = []

    def blocks() -> Iterator[bytes]:
        try:
            yield b"a"
            yield b"b"
        finally:
            ended.append(True)

    source = blocks()
    sink = Sink(write_error=RuntimeError() if ends_with_error else None)
    if ends_with_error:
        with pytest.raises(RuntimeError):
            await pipeline(source, sink)
    else:
        await pipeline(source, sink)
    assert ended


async def test_of_several_errors_the_first_is_raised_and_all_are_closed() -> None:
    first = RuntimeError("first")
    transform = Transform()
    source = Source(b"a", error=first, close_error=RuntimeError("second"))
    sink = Sink(abort_error=RuntimeError("third"))
    with pytest.raises(RuntimeError) as raised:
        await pipeline(source, transform, sink)
    assert raised.value is first
    assert source.closed
    assert transform.closed
    assert sink.calls == ["write", "abort"]


async def test_a_source_that_fails_as_it_is_closed_does_not_count_as_a_whole_one() -> None:
    error = RuntimeError("not closed well")
    source, sink = Source(b"a", close_error=error), Sink()
    with pytest.raises(RuntimeError) as raised:
        await pipeline(source, sink)
    assert raised.value is error
    assert sink.calls == ["write", "abort"]


async def test_an_error_of_the_sink_at_its_end_comes_out() -> None:
    error = RuntimeError("no room")
    source, sink = Source(b"a"), Sink(close_error=error)
    with pytest.raises(RuntimeError) as raised:
        await pipeline(source, sink)
    assert raised.value is error
    assert source.closed


async def test_a_cancelled_pipeline_closes_all(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def endless(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            yield block
        begun.set()
        await asyncio.sleep(60)

    a, b = await store_at(tmp_path / "a.db", NEW), await store_at(tmp_path / "b.db", LINES)
    task = asyncio.create_task(
        pipeline(a.export_events(maintenance_mode=AUTO), endless, b.import_events(freeze=True))
    )
    await begun.wait()
    # The export has come to its end and has thawed its store; the import still holds the other.
    with pytest.raises(StoreFrozenError):
        await import_lines(b, NEW)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for store in (a, b):
        assert not (await store.describe()).is_frozen
    assert await exported(b) == LINES
    await a.close()
    await b.close()


async def test_an_import_that_is_cancelled_while_it_writes_leaves_the_old_events(tmp_path: Path) -> None:
    store = await store_at(tmp_path / "a.db", LINES)
    big = b"".join(line(make_event(i, payload="x" * 100_000)) for i in range(300))
    for delay in (0.0, 0.01, 0.03, 0.1):
        task = asyncio.create_task(pipeline([big], store.import_events(freeze=True)))
        await asyncio.sleep(delay)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await exported(store) == LINES
            assert not (await store.describe()).is_frozen
    await store.close()


# what a text database keeps


async def test_payloads_go_through_as_they_are_spelled_but_for_white_space(tmp_path: Path) -> None:
    spelled = [
        b"1.0", b"1e5", b"-0", b"1E+400", b'{"b":1,"a":2}', b'{"a":1,"a":2}', rb'"\u00e9\/\ud83d\udef3"', b'"\\u0000"',
        b'{"a":" b\\n ","c":[1.50,true,null]}', b"[]", b"{}", b'""',
    ]  # fmt: skip
    lines = [line(make_event(i, payload="PLACE")) for i in range(len(spelled))]
    store = await store_at(
        tmp_path / "a.db",
        b"".join(
            text.replace(b'"PLACE"', b" \t" + payload + b"\r ")
            for text, payload in zip(lines, spelled, strict=True)
        ),
    )
    assert (await exported(store)).splitlines() == [
        text.replace(b'"PLACE"', payload).rstrip(b"\n") for text, payload in zip(lines, spelled, strict=True)
    ]
    await import_lines(store, lines[0].replace(b'"PLACE"', b'{ "b" : [ 1.0 ,\t2 ] , "a" : " x " }'))
    assert (await exported(store)).endswith(b'"payload":{"b":[1.0,2],"a":" x "}}\n')
    await store.close()
