"""What is packed is unpacked by what it begins with; what is neither lines nor packed is called what it is."""

from __future__ import annotations

import asyncio
import gzip
import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from eventferry import InputError, check, pipeline, read_blocks
from eventferry.lines.unpacking import Gzip, Unpacker, Zstd, zstd_module
from tests.support import make_lines
from tests.support.cli import Ferry, new_ferry, process

ferry = pytest.fixture(new_ferry)
zstd = zstd_module()

LINES = make_lines(200)
CHECKED = {zstd.CompressionParameter.checksum_flag: 1}
PACKED = {
    "gzip": gzip.compress(LINES),
    "zstd": zstd.compress(LINES, options=CHECKED),
    "zstd behind a frame to skip": b"\x53\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(LINES, options=CHECKED),
}


async def read(source: Path | io.BytesIO) -> bytes:
    return b"".join([block async for block in read_blocks(source)])


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "A.JSONL.ZST", "a.Gz", "a.jsonl", "a"])
async def test_a_packed_file_is_unpacked_whatever_its_name(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(PACKED[kind])
    assert await read(path) == LINES
    assert await read(io.BytesIO(PACKED[kind])) == LINES


@pytest.mark.parametrize("kind", PACKED)
def test_packed_lines_on_standard_input_are_unpacked(ferry: Ferry, kind: str) -> None:
    ferry.done("import", "-", "a.db", stdin=PACKED[kind])
    assert ferry.exported("a.db") == LINES
    ferry.done("verify", "a.db", "-", stdin=PACKED[kind])


async def test_packed_bytes_may_come_one_by_one_through_a_pipe() -> None:
    for content in PACKED.values():
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as source:
            reading = asyncio.create_task(read(source))  # type: ignore[arg-type]
            for start in range(12):
                os.write(writer, content[start : start + 1])
                await asyncio.sleep(0.002)
            await asyncio.to_thread(os.write, writer, content[12:])
            os.close(writer)
            assert await reading == LINES


@pytest.mark.parametrize("name", ["a.gz", "a.zst", "a.jsonl.ZST"])
def test_a_packed_file_of_no_bytes_is_refused_for_it_was_cut_off(ferry: Ferry, name: str) -> None:
    ferry.file(name, b"")
    ferry.store("a.db", 3)
    for words in (
        ("import", name, "a.db", "--replace", "--allow-empty"),
        ("incremental-import", name, "a.db"),
        ("verify", name),
        ("import-secrets", name, "a.db"),
    ):
        assert "cut off" in ferry.refused(*words)
    assert ferry.exported("a.db") == make_lines(3)


@pytest.mark.parametrize("kind", PACKED)
async def test_what_stands_behind_a_packed_part_is_refused_but_padding_of_gzip_is_not(
    tmp_path: Path, kind: str
) -> None:
    path, packed = tmp_path / "a", PACKED[kind]
    for tail in (b"garbage", b"\n", packed[: len(packed) // 2], packed[:1]):
        path.write_bytes(packed + tail)
        with pytest.raises(InputError, match="damaged"):
            await read(path)
    path.write_bytes(packed + packed)
    assert await read(path) == LINES + LINES
    if kind == "gzip":
        path.write_bytes(packed + b"\0" * 512)
        assert await read(path) == LINES


async def test_a_zstd_file_with_a_window_of_a_gigabyte_is_read(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl.zst"
    wide = zstd.ZstdCompressor(
        options={
            zstd.CompressionParameter.window_log: 30,
            zstd.CompressionParameter.enable_long_distance_matching: 1,
        }
    )
    path.write_bytes(wide.compress(LINES) + wide.flush())
    assert await read(path) == LINES


FOREIGN = {
    "SQLite": b"SQLite format 3\0" + b"\x10\0\x01\x01" + bytes(80),
    "xz": b"\xfd7zXZ\0\0\x04",
    "bzip2": b"BZh91AY&SY",
    "zip": b"PK\x03\x04\x14\0",
    "lz4": b"\x04\x22\x4d\x18d",
    "UTF-16": b"\xff\xfe" + LINES.decode().encode("utf-16-le"),
    "PostgreSQL": b"PGDMP\x01\x0e",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_lines_is_called_what_it_is(ferry: Ferry, kind: str) -> None:
    source = ferry.file("source.jsonl", FOREIGN[kind])
    for words in (("import", source, "new.db"), ("incremental-import", "-", "new.db"), ("verify", source)):
        told = ferry.refused(*words, stdin=FOREIGN[kind])
        assert kind in told
        assert "is not UTF-8" not in told
    assert ferry.names() == {"source.jsonl"}


# a checksum


async def test_a_zstd_file_of_others_without_a_checksum_is_told_as_unchecked(tmp_path: Path) -> None:
    for name, options, unchecked in (("a.zst", None, 1), ("b.zst", CHECKED, 0)):
        path = tmp_path / name
        path.write_bytes(zstd.compress(LINES, options=options))
        report = await check(path)
        assert (report.sound, report.events, report.unchecked) == (True, 200, unchecked)
    path.write_bytes(zstd.compress(LINES, options=CHECKED) + zstd.compress(b""))
    assert (await check(path)).unchecked == 1  # one part is enough


async def test_what_we_pack_always_has_a_checksum(tmp_path: Path) -> None:
    for name in ("a.zst", "A.ZST", "a.gz", "a.GZ"):
        await pipeline([LINES], tmp_path / name)
        assert (tmp_path / name).stat().st_size < len(LINES) / 3
        assert (await check(tmp_path / name)).unchecked == 0


def test_the_command_warns_of_a_source_without_a_checksum(ferry: Ferry) -> None:
    source = ferry.file("a.jsonl.zst", zstd.compress(LINES))
    assert "no checksum" in ferry.done("import", source, "a.db").err
    assert "no checksum" in ferry.done("incremental-import", source, "a.db", "--json").err
    told = ferry.done("verify", source)
    assert "not checked" in told.out
    assert ferry.done("verify", source, "--json").json["unchecked"] == 1
    ferry.done("export", "a.db", "ours.zst")
    assert "checksum" not in ferry.done("import", "ours.zst", "b.db").err


# work that gives nothing


@pytest.mark.parametrize(
    ("kind", "pack"), [(Gzip, gzip.compress), (Zstd, zstd.compress)], ids=["gzip", "zstd"]
)
def test_parts_with_nothing_in_them_are_unpacked_a_few_at_a_time(
    kind: Callable[[str], Unpacker], pack: Callable[[bytes], bytes]
) -> None:
    unpacker, part = kind("it"), pack(b"")
    pieces = list(unpacker.feed(part * 10_000))
    unpacker.finish()
    assert not any(pieces)
    assert len(pieces) >= 10_000 // 64


async def test_a_file_of_very_many_empty_parts_stops_nobody_and_can_be_given_up(tmp_path: Path) -> None:
    path = tmp_path / "a.zst"
    path.write_bytes(zstd.compress(b"") * 2_000_000)
    reading = asyncio.create_task(read(path))
    await asyncio.sleep(0.2)
    begun = time.monotonic()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert time.monotonic() - begun < 2  # all of it takes a minute
    assert process("--version").status == 0
