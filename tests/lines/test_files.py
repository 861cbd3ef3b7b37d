"""Files appear whole, at the end; packed ones are checked as they are read."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import resource
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import pytest

from eventferry import (
    EventferryError,
    InputError,
    pipeline,
    read_blocks,
)
from eventferry.lines import files
from tests.support import exported, make_lines
from tests.support.sqlite import store_at

LINES = make_lines(300)
NEW = make_lines(400)
SUFFIXES = ["", ".gz", ".zst"]


def zstandard() -> ModuleType:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def unpacked(path: Path) -> bytes:
    """What a file holds, by other means than ours."""
    packed = path.read_bytes()
    if path.suffix == ".gz":
        return gzip.decompress(packed)
    if path.suffix == ".zst":
        found: bytes = zstandard().decompress(packed)
        return found
    return packed


def packed(content: bytes, suffix: str) -> bytes:
    """The content as others would pack it."""
    if suffix == ".gz":
        return gzip.compress(content)
    if suffix == ".zst":
        found: bytes = zstandard().compress(content)
        return found
    return content


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_file_goes_out_and_comes_in_by_its_ending(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"events.jsonl{suffix}"
    a, b = await store_at(tmp_path / "a.db", LINES), await store_at(tmp_path / "b.db", NEW)
    await pipeline(a.export_events(), path)
    assert unpacked(path) == LINES
    assert (path.stat().st_size < len(LINES) / 3) == bool(suffix)
    await pipeline(path, b.import_events())
    assert await exported(b) == LINES
    await a.close()
    await b.close()


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_file_that_others_packed_in_several_parts_is_read_whole(tmp_path: Path, suffix: str) -> None:
    path, memory = tmp_path / f"events.jsonl{suffix}", io.BytesIO()
    path.write_bytes(packed(LINES[:1000], suffix) + packed(LINES[1000:], suffix))
    await pipeline(path, memory)
    assert memory.getvalue() == LINES


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_the_same_events_give_the_same_file(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"events.jsonl{suffix}"
    await pipeline([LINES], path)
    first = path.read_bytes()
    await pipeline([LINES], path)
    assert path.read_bytes() == first


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("old", [None, b"what was there before"])
async def test_a_file_appears_only_at_the_end(tmp_path: Path, suffix: str, old: bytes | None) -> None:
    path = tmp_path / f"events.jsonl{suffix}"
    if old is not None:
        path.write_bytes(old)
    looked = 0

    async def look(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        nonlocal looked
        async for block in blocks:
            yield block
            assert (path.read_bytes() if path.exists() else None) == old
            looked += 1

    await pipeline([LINES[:5000], LINES[5000:]], look, path)
    assert looked == 2
    assert unpacked(path) == LINES
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("old", [None, b"what was there before"])
@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError, KeyboardInterrupt])
async def test_a_failure_leaves_the_old_file_and_no_litter(
    tmp_path: Path, suffix: str, old: bytes | None, error: type[BaseException]
) -> None:
    path = tmp_path / f"events.jsonl{suffix}"
    if old is not None:
        path.write_bytes(old)

    async def fail(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for block in blocks:
            yield block
        raise error

    with pytest.raises(error):
        await pipeline([LINES], fail, path)
    assert os.listdir(tmp_path) == ([] if old is None else [path.name])
    if old is not None:
        assert path.read_bytes() == old


@pytest.mark.parametrize("suffix", SUFFIXES)
async def test_a_disk_that_is_full_at_the_end_leaves_the_old_file_and_no_litter(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"events.jsonl{suffix}"
    path.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises((OSError, EventferryError)):
            await pipeline([make_lines(20)], path)  # which fits into the buffers until the end
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == [path.name]
    assert path.read_bytes() == b"old"


async def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.jsonl").write_bytes(b"old")
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    await pipeline([LINES], tmp_path / "link.jsonl")
    assert (tmp_path / "link.jsonl").is_symlink()
    assert (tmp_path / "real.jsonl").read_bytes() == LINES


async def test_a_path_stays_the_same_file_when_the_process_goes_to_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "link").symlink_to("two/..")
    monkeypatch.chdir(tmp_path / "one")
    blocks, behind_a_link = read_blocks("a.jsonl"), read_blocks(Path("../link/../a.jsonl"))
    sink = files.FileSink("a.jsonl")
    monkeypatch.chdir(tmp_path / "two")
    await pipeline([NEW], "a.jsonl")
    await sink.write(LINES)
    await sink.close()
    assert b"".join([block async for block in blocks]) == LINES
    os.rename("a.jsonl", tmp_path.parent / "a.jsonl")
    assert b"".join([block async for block in behind_a_link]) == NEW


async def test_a_folder_that_was_removed_has_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.rmdir(tmp_path)
    for path in ("a.jsonl", ""):
        with pytest.raises(EventferryError, match="cannot be read: No such file"):
            await anext(read_blocks(path))


async def test_what_is_no_regular_file_is_written_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    await pipeline([LINES], path)
    await asyncio.to_thread(reader.join)
    assert found == [LINES]
    await pipeline([LINES], "/dev/null")
    assert path.is_fifo()


async def test_waiting_for_the_other_end_of_a_pipe_keeps_nobody_else_waiting(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    late = threading.Timer(20, path.read_bytes)
    late.start()
    writing = asyncio.create_task(pipeline([LINES], path))
    await asyncio.sleep(0.05)
    assert late.is_alive(), "nothing was done until a reader came"
    late.cancel()
    assert await asyncio.to_thread(path.read_bytes) == LINES
    await writing


async def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    store = await store_at(tmp_path / "a.db", LINES)
    for missing in ("missing.jsonl", "missing.jsonl.gz", "missing.jsonl.zst"):
        with pytest.raises(EventferryError, match="missing"):
            await pipeline(tmp_path / missing, store.import_events(allow_empty=True))
        with pytest.raises(EventferryError, match="missing"):
            await pipeline(store.export_events(), tmp_path / "no folder" / missing)
    with pytest.raises(EventferryError):
        await pipeline(store.export_events(), tmp_path)
    with pytest.raises(EventferryError):
        await pipeline(tmp_path, store.import_events(allow_empty=True))
    assert await exported(store) == LINES
    await store.close()


# damaged files


def _place_of_cut(size: int) -> list[int]:
    return sorted({1, 2, 5, 12, size // 3, size // 2, size - 9, size - 4, size - 1})


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
async def test_a_packed_file_that_is_cut_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    store = await store_at(tmp_path / "a.db", LINES)
    path = tmp_path / f"events.jsonl{suffix}"
    await pipeline([NEW], path)
    for whole in (path.read_bytes(), packed(NEW, suffix)):
        for place in _place_of_cut(len(whole)):
            path.write_bytes(whole[:place])
            with pytest.raises(InputError):
                await pipeline(path, store.import_events(allow_empty=True))
    assert await exported(store) == LINES
    await store.close()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
async def test_a_packed_file_with_a_wrong_byte_is_refused_or_unharmed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"events.jsonl{suffix}"
    await pipeline([NEW], path)
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), max(len(whole) // 200, 1)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        found = b""
        try:
            async for block in read_blocks(path):
                found += block
        except InputError:
            refused += 1
        else:
            assert found == NEW  # it stood in a part that says nothing about the content
    assert refused > 150


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
async def test_a_file_that_is_not_packed_as_its_name_says_is_refused(tmp_path: Path, suffix: str) -> None:
    store = await store_at(tmp_path / "a.db", LINES)
    path = tmp_path / f"events.jsonl{suffix}"
    path.write_bytes(NEW)
    with pytest.raises(InputError):
        await pipeline(path, store.import_events())
    assert await exported(store) == LINES
    await store.close()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
async def test_a_damaged_file_is_refused_by_an_incremental_import_too(tmp_path: Path, suffix: str) -> None:
    store = await store_at(tmp_path / "a.db", LINES)
    path = tmp_path / f"events.jsonl{suffix}"
    whole = packed(NEW, suffix)
    for broken in (whole[:-5], whole[: len(whole) // 2] + b"\xff" * 20 + whole[len(whole) // 2 + 20 :]):
        path.write_bytes(broken)
        with pytest.raises(InputError):
            await store.incremental_import(read_blocks(path))
    assert await exported(store) == LINES
    await store.close()


async def test_an_error_of_the_disk_is_no_damage_of_the_file() -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, _: Any) -> int:
            raise OSError(5, "Input/output error")

    source: IO[bytes] = io.BufferedReader(Broken())
    with pytest.raises(OSError, match="Input/output error"):
        await pipeline(source, io.BytesIO())


# Packing beside the database's work


class SlowFile(io.BytesIO):
    """Takes a block only when it is let."""

    def __init__(self, error: OSError | None = None) -> None:
        super().__init__()
        self.may_go_on = threading.Event()
        self.error = error

    def write(self, block: Any) -> int:
        self.may_go_on.wait(10)
        if self.error is not None:
            raise self.error
        return super().write(block)


async def test_a_block_is_packed_while_the_next_one_is_made_but_not_a_third(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SlowFile()
    monkeypatch.setattr(files, "_packer", lambda *_: file)
    sink = files.FileSink(tmp_path / "a.jsonl")
    await sink.write(b"first")
    second = asyncio.create_task(sink.write(b"second"))
    await asyncio.sleep(0.05)
    assert not second.done()
    assert file.getvalue() == b""
    file.may_go_on.set()
    await second
    await sink.abort()


async def test_an_error_while_a_block_is_written_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = SlowFile(OSError(28, "No space left on device"))
    file.may_go_on.set()
    (tmp_path / "a.jsonl").write_bytes(b"before")
    monkeypatch.setattr(files, "_packer", lambda *_: file)
    sink = files.FileSink(tmp_path / "a.jsonl")
    await sink.write(b"first")
    with pytest.raises(EventferryError, match=r"a\.jsonl cannot be written: No space left"):
        await sink.close()
    assert (tmp_path / "a.jsonl").read_bytes() == b"before"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
async def test_the_next_block_of_a_file_is_unpacked_while_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(files, "BLOCK", 1000)
    sink = files.FileSink(tmp_path / name)
    await sink.write(make_lines(100))
    await sink.close()
    steps = 0
    step = files.Blocks._step

    def counted(blocks: files.Blocks) -> bytes | None:
        nonlocal steps
        steps += 1
        return step(blocks)

    monkeypatch.setattr(files.Blocks, "_step", counted)
    blocks = files.read_blocks(tmp_path / name)
    first = await anext(blocks)
    await asyncio.sleep(0.05)
    assert steps == 2
    assert first + b"".join([block async for block in blocks]) == make_lines(100)
