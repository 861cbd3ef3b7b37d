"""Where an export goes: files of every kind and name, what they leave behind, and who may read them."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

import pytest

from eventferry import EventferryError, FolderSink, open_store, pipeline, read_blocks
from eventferry.lines.files import FileSink
from tests.support import make_lines
from tests.support.cli import PATIENCE, Ferry, environment, new_ferry, process

ferry = pytest.fixture(new_ferry)

LINES = make_lines(20)
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs the rights of root")


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def mode_of(path: Path) -> str:
    return f"{stat.S_IMODE(path.stat().st_mode):04o}"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that anybody can come to: those of a test run are its user's own."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@contextmanager
def as_nobody() -> Iterator[None]:
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)


def in_bash(script: str) -> subprocess.CompletedProcess[bytes]:
    """Run a script in which `eventferry` is the command."""
    command = f'eventferry() {{ "{sys.executable}" -m eventferry "$@"; }}\n'
    return subprocess.run(
        ["bash", "-c", command + script],
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        env=environment(),
    )


# who may read it


@pytest.mark.parametrize("name", ["out.jsonl", "out.gz", "out.zst"])
async def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, name: str) -> None:
    for mask, mode in ((0o022, "0644"), (0o077, "0600"), (0o002, "0664")):
        with umask(mask):
            await pipeline([LINES], tmp_path / name)
        assert mode_of(tmp_path / name) == mode
        (tmp_path / name).unlink()


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400, 0o664, 0o777])
@pytest.mark.parametrize("name", ["out.jsonl", "out.gz", "out.zst"])
async def test_a_file_that_takes_the_place_of_another_keeps_its_mode(
    tmp_path: Path, name: str, mode: int
) -> None:
    (tmp_path / name).write_bytes(b"old")
    (tmp_path / name).chmod(mode)
    with umask(0o022):
        await pipeline([LINES], tmp_path / name)
    assert mode_of(tmp_path / name) == f"{mode:04o}"


@pytest.mark.parametrize("mode", [0o600, 0o644])
async def test_what_is_not_whole_yet_is_never_more_readable_than_what_it_will_replace(
    tmp_path: Path, mode: int
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old")
    path.chmod(mode)
    with umask(0):
        sink = FileSink(path)
        await sink.write(LINES)
        (beside,) = tmp_path.glob(".*.part")
        assert mode_of(beside) == "0600"
        path.chmod(0o640)  # in the meantime
        await sink.close()
    assert mode_of(path) == "0640"


@as_root
async def test_the_owner_of_what_is_replaced_stays_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"old")
    path.chmod(0o640)
    os.chown(path, NOBODY, NOBODY)
    await pipeline([LINES], path)
    assert (path.stat().st_uid, path.stat().st_gid, mode_of(path)) == (NOBODY, NOBODY, "0640")


@as_root
async def test_what_was_for_a_group_is_not_for_another_where_the_group_cannot_be_kept(
    open_folder: Path,
) -> None:
    path = open_folder / "out.jsonl"
    path.write_bytes(b"old")
    os.chown(path, 0, 12345)
    path.chmod(0o664)
    with as_nobody():
        await pipeline([LINES], path)
    assert path.read_bytes() == LINES
    assert mode_of(path) == "0604"


def test_a_file_of_secrets_is_nobody_elses_whatever_stood_there(ferry: Ferry) -> None:
    ferry.store("a.db")
    ferry.done("import-secrets", "-", "a.db", stdin=b'{"secret":"s","id":"z","idx":0}\n')
    with umask(0):
        ferry.done("export-secrets", "a.db", "new.jsonl")
        ferry.file("old.jsonl", b"")
        (ferry.directory / "old.jsonl").chmod(0o666)
        ferry.done("export-secrets", "a.db", "old.jsonl")
    assert mode_of(ferry.directory / "new.jsonl") == mode_of(ferry.directory / "old.jsonl") == "0600"


# what is no file of its own


@pytest.mark.slow
def test_dest_by_the_name_of_an_open_file_is_written_as_standard_output_is(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    told = in_bash(
        "set -e\n"
        "eventferry export a.db /dev/stdout | cmp - <(eventferry export a.db -)\n"
        "eventferry export a.db >(cat > process.txt); sleep 0.5\n"
        "echo kept > all.txt; eventferry export a.db /dev/stdout >> all.txt\n"
        "{ eventferry export a.db /dev/stdout; eventferry export a.db /proc/self/fd/1; } > two.txt\n"
        "eventferry export a.db /dev/fd/7 7> seven.txt\n"
        "ln -s /dev/stdout link; eventferry export a.db link > linked.txt\n"
        "eventferry export a.db /dev/stdout --json > data.txt 2> report.txt\n"
    )
    assert told.returncode == 0, told.stderr
    files = {path.name: path.read_bytes() for path in ferry.directory.glob("*.txt")}
    for name in ("process.txt", "seven.txt", "linked.txt", "data.txt"):
        assert files[name] == LINES, name
    assert files["all.txt"] == b"kept\n" + LINES
    assert files["two.txt"] == LINES + LINES
    assert files["report.txt"].startswith(b'{"exported":20')
    assert (ferry.directory / "link").is_symlink()
    assert not [name for name in ferry.names() if "part" in name or "deleted" in name]


@pytest.mark.slow
def test_src_by_the_name_of_an_open_file_is_read_from_where_it_stands(ferry: Ferry) -> None:
    ferry.file("lines.txt", b"a heading\n" + LINES)
    told = in_bash(
        "set -e\n"
        "{ read -r; eventferry import /dev/stdin a.db; } < lines.txt\n"
        "eventferry import <(tail -n +2 lines.txt) b.db\n"
        "tail -n +2 lines.txt | eventferry import /dev/stdin c.db\n"
    )
    assert told.returncode == 0, told.stderr
    assert ferry.exported("a.db") == ferry.exported("b.db") == ferry.exported("c.db") == LINES


async def test_pipes_are_written_as_they_come_and_packed_as_they_are_called(tmp_path: Path) -> None:
    for name, cat in (("pipe", "cat"), ("pipe.gz", "gzip -dc")):
        path = tmp_path / name
        os.mkfifo(path)
        with subprocess.Popen(f"{cat} < '{path}'", shell=True, stdout=subprocess.PIPE) as reader:
            await pipeline([LINES[:100], LINES[100:]], path)
            assert reader.communicate(timeout=PATIENCE)[0] == LINES
        assert path.is_fifo()


@pytest.mark.slow
def test_pipes_that_do_not_wait_are_written_and_read_whole(ferry: Ferry) -> None:
    """As a parent leaves them that shares them and made them so, Node for one."""
    many = make_lines(3000)
    ferry.store("a.db", 3000)
    for dest in ("-", "/dev/stdout"):
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        child = ferry.start("export", "a.db", dest, stdout=writer)
        os.close(writer)
        with os.fdopen(reader, "rb") as file:
            time.sleep(1)
            assert file.read() == many
        assert child.wait(PATIENCE) == 0
    for number, src in enumerate(("-", "/dev/stdin")):
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        child = ferry.start("import", src, f"b{number}.db", stdin=reader)
        os.close(reader)
        with os.fdopen(writer, "wb", buffering=0) as file:
            for start in range(0, len(many), 300_000):
                file.write(many[start : start + 300_000])
                time.sleep(0.5)
        assert child.wait(PATIENCE) == 0
        assert ferry.exported(f"b{number}.db") == many


async def test_a_pipe_whose_reader_sleeps_can_be_given_up(tmp_path: Path) -> None:
    path = tmp_path / "pipe.gz"
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: os.open(path, os.O_RDONLY))
    reader.start()
    sink = FileSink(path)
    await sink.write(os.urandom(1_000_000))
    await sink.abort()  # which returns
    reader.join()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda path: path.mkdir(), "folder", id="a folder"),
        pytest.param(lambda path: path.symlink_to(path), "links", id="a link to itself"),
    ],
)
async def test_what_no_lines_can_be_written_to_is_refused(tmp_path: Path, make: object, says: str) -> None:
    path = tmp_path / "out.jsonl"
    assert callable(make)
    make(path)
    with pytest.raises(EventferryError, match=says):
        await pipeline([LINES], path)
    assert os.listdir(tmp_path) == ["out.jsonl"]


@as_root
def test_a_file_that_is_mounted_in_its_place_is_written_when_the_export_is_whole(ferry: Ferry) -> None:
    """As a container has it of a single file of its host."""
    ferry.store("a.db", 20)
    ferry.file("host.jsonl", b"what was there before, and is longer than it will be" * 1000)
    ferry.file("out.jsonl", b"")
    target, source = ferry.directory / "out.jsonl", ferry.directory / "host.jsonl"
    if subprocess.run(["mount", "--bind", source, target], check=False, capture_output=True).returncode:
        pytest.skip("cannot mount here")
    try:
        ferry.done("export", "a.db", "out.jsonl")
        assert source.read_bytes() == LINES
    finally:
        subprocess.run(["umount", target], check=True)
    assert ferry.names() == {"a.db", "host.jsonl", "out.jsonl"}


@pytest.mark.parametrize("error", [errno.EBUSY, errno.EXDEV])
async def test_where_only_writing_into_a_file_is_possible_a_private_one_is_private_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    path = tmp_path / "secrets.jsonl"
    modes: list[str] = []

    def mounted(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    def copied(whole: IO[bytes], poured: IO[bytes], _: int) -> None:
        modes.append(mode_of(path))
        poured.write(whole.read())

    monkeypatch.setattr(Path, "replace", mounted)
    monkeypatch.setattr("eventferry.lines.files.shutil.copyfileobj", copied)
    for is_private in (False, True):
        path.write_bytes(b"before")
        path.chmod(0o644)
        sink = FileSink(path, private=is_private)
        await sink.write(LINES)
        await sink.close()
        assert path.read_bytes() == LINES
        assert os.listdir(tmp_path) == [path.name]
    assert modes == ["0644", "0600"]


# names


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "🚢" * 62 + ".jsonl", "x" * 251 + ".zst", ".gz"])
async def test_a_name_of_any_length_that_a_file_can_have_will_do(tmp_path: Path, name: str) -> None:
    await pipeline([LINES], tmp_path / name)
    await pipeline([LINES], tmp_path / name)
    assert os.listdir(tmp_path) == [name]


WRITE = """
import asyncio, sys
from eventferry.lines.files import FileSink
assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
async def write():
    sink = FileSink(sys.argv[1])
    await sink.write(b"lines")
    await sink.close()
asyncio.run(write())
"""


@pytest.mark.parametrize("name", ["out/", "out/.", "out/.."])
async def test_the_name_of_a_folder_makes_no_file(tmp_path: Path, name: str) -> None:
    for _ in range(2):
        with pytest.raises(EventferryError, match="folder"):
            await pipeline([LINES], f"{tmp_path}/{name}")
        assert not (tmp_path / "out").is_file()
        (tmp_path / "out").mkdir(exist_ok=True)
    await pipeline([LINES], FolderSink(f"{tmp_path}/out/", split_by="type"))
    assert len(os.listdir(tmp_path / "out")) == 3


def test_where_names_are_taken_for_ascii_a_file_may_have_any_name(tmp_path: Path) -> None:
    """As for a service that is started without a locale."""
    for name in ("é.jsonl", "é" * 127):
        command = [sys.executable, "-X", "utf8=0", "-c", WRITE, name]
        subprocess.run(command, cwd=tmp_path, env=environment(LC_ALL="C"), check=True)
    assert set(os.listdir(tmp_path)) == {"é.jsonl", "é" * 127}


async def test_a_link_is_followed_to_a_file_that_is_there_or_not(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name, target in (("a.jsonl", "folder/a.jsonl"), ("b.jsonl", "folder/b.zst"), ("c.gz", "folder/c")):
        link = tmp_path / name
        link.symlink_to(target)
        for _ in range(2):
            await pipeline([LINES], link)
            assert link.is_symlink()
            assert b"".join([block async for block in read_blocks(tmp_path / target)]) == LINES
    assert (tmp_path / "folder/a.jsonl").read_bytes() == LINES
    assert (tmp_path / "folder/b.zst").read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    assert (tmp_path / "folder/c").read_bytes()[:2] == b"\x1f\x8b"


@as_root
async def test_a_folder_that_takes_no_new_file_is_named_as_the_reason(open_folder: Path) -> None:
    path = open_folder / "out.jsonl"
    path.write_bytes(b"old")
    path.chmod(0o666)
    open_folder.chmod(0o755)
    with as_nobody(), pytest.raises(EventferryError, match="its folder must be writable"):
        await pipeline([LINES], path)
    assert path.read_bytes() == b"old"


# the store itself


def test_an_export_never_takes_the_place_of_a_store(ferry: Ferry) -> None:
    ferry.store("a.db", 20)
    here = ferry.directory
    (here / "link.jsonl").symlink_to("a.db")
    os.link(here / "a.db", here / "second.jsonl")
    (here / "log.jsonl").symlink_to("a.db-wal")
    (here / "folder").symlink_to(".")
    shutil.copy(here / "a.db", here / "other.jsonl")
    for dest in (
        "link.jsonl",
        "second.jsonl",
        "folder/link.jsonl",
        "log.jsonl",
        "a.db-wal",
        "a.db-shm",
        "other.jsonl",
    ):
        for words in (("export", "a.db", dest), ("export-secrets", "a.db", dest)):
            assert "SQLite database" in ferry.refused(*words)
    assert (here / "link.jsonl").is_symlink()
    assert ferry.exported("a.db") == LINES
    assert process("export", "a.db", "link.jsonl").status == 1


async def test_a_store_that_appears_in_the_place_while_an_export_runs_stays(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    sink = FileSink(path)
    await sink.write(LINES)
    async with open_store(f"sqlite:///{path}") as store:
        await store.init()
    with pytest.raises(EventferryError, match="SQLite database"):
        await sink.close()
    async with open_store(f"sqlite:///{path}") as store:
        assert (await store.describe()).event_count == 0
    assert os.listdir(tmp_path) == ["out.jsonl"]


@pytest.mark.slow
def test_to_refuse_a_store_drops_none_of_the_locks_on_it(ferry: Ferry) -> None:
    """Whoever closes a file loses all the locks that his process has on it."""
    ferry.store("a.db", 20)
    ferry.done("init", "sqlite:///b.db?journal_mode=delete")
    for name, mode in (("a.db", "wal"), ("b.db", "delete")):
        link = ferry.directory / f"{mode}.jsonl"
        link.symlink_to(name)
        with closing(sqlite3.connect(name, isolation_level=None)) as connection:
            assert connection.execute("PRAGMA journal_mode").fetchone() == (mode,)
            connection.execute("BEGIN IMMEDIATE")
            assert "SQLite" in ferry.refused("verify", link.name)
            for path in (link, ferry.directory / f"{name}-shm", ferry.directory / name):
                with pytest.raises(EventferryError):
                    asyncio.run(pipeline([LINES], path))
            busy = process("incremental-import", "-", f"sqlite:///{name}?busy_timeout=0.2", stdin=LINES)
            assert (busy.status, "held by" in busy.err) == (1, True), busy.err
