"""A storage creates objects, whole, and only where there are none."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest.mock import Mock

import pytest

from eventferry import MissingExtraError, RepositoryError, UnsafeStorageError, UsageError
from eventferry.backup import format, storage
from eventferry.backup.storage import open_storage, probe
from eventferry.clock import now
from tests.support.faults.worlds import Disk


async def test_an_object_is_created_once(storage_place: str) -> None:
    opened = open_storage(storage_place)
    assert await opened.put_new("a/b.json", b"first")
    assert not await opened.put_new("a/b.json", b"second")
    assert await opened.get("a/b.json") == b"first"


async def test_an_object_that_is_not_there_is_none(storage_place: str) -> None:
    opened = open_storage(storage_place)
    assert await opened.get("a/b.json") is None
    await opened.delete("a/b.json")
    assert await opened.listed("a") == []
    assert await opened.folders() == []


async def test_a_listing_has_names_in_order_with_their_sizes(storage_place: str) -> None:
    opened = open_storage(storage_place)
    for name in ("a/2", "a/1", "ab/1", "a/c/1", "top"):
        await opened.put_new(name, name.encode())
    listed = await opened.listed("a")
    assert [(each.name, each.bytes) for each in listed] == [("a/1", 3), ("a/2", 3), ("a/c/1", 5)]
    assert all(abs(each.changed - now()) < 600_000 for each in listed)
    assert await opened.folders() == ["a", "ab"]


async def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path: Path) -> None:
    opened = open_storage(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").touch()  # as good as a folder without permissions, which root can read
    with pytest.raises(RepositoryError, match="Not a directory"):
        await opened.listed("a/b")
    assert await opened.listed("a/c") == []


@pytest.mark.slow
async def test_a_listing_may_be_longer_than_a_page_of_s3(bucket: str) -> None:
    opened = open_storage(f"s3://{bucket}")
    names = [f"a/{number:05}" for number in range(1005)]
    for some in range(0, len(names), 67):
        await asyncio.gather(*(opened.put_new(name, b"") for name in names[some : some + 67]))
    assert [entry.name for entry in await opened.listed("a")] == names


async def test_a_deleted_object_is_gone(storage_place: str) -> None:
    opened = open_storage(storage_place)
    await opened.put_new("a/b", b"1")
    await opened.delete("a/b")
    assert await opened.get("a/b") is None
    assert await opened.put_new("a/b", b"2")


async def test_of_many_at_once_one_creates_the_object(storage_place: str) -> None:
    opened = [open_storage(storage_place) for _ in range(8)]
    contents = [bytes([number]) * 100_000 for number in range(8)]
    created = await asyncio.gather(
        *(each.put_new("a/b", content) for each, content in zip(opened, contents, strict=True))
    )
    assert created.count(True) == 1
    assert await opened[0].get("a/b") == contents[created.index(True)]


async def test_a_probed_storage_is_marked_as_a_repository(storage_place: str) -> None:
    for _ in range(2):
        opened = open_storage(storage_place)
        await probe(opened)
    found = await opened.get(format.MARKER)
    assert found is not None
    assert format.unseal(found, format.RepositoryMarker, format.MARKER) == format.RepositoryMarker()


async def test_a_storage_that_ignores_conditions_is_refused(careless_repository: str) -> None:
    with pytest.raises(UnsafeStorageError, match=r"ignores the condition.*--single-writer"):
        await probe(open_storage(careless_repository))


async def test_for_a_single_writer_a_storage_may_ignore_conditions(careless_repository: str) -> None:
    opened = open_storage(careless_repository, single_writer=True)
    await probe(opened)
    assert await opened.put_new("a/b", b"first")
    assert not await opened.put_new("a/b", b"second")
    assert await opened.get("a/b") == b"first"
    assert [(each.name, each.bytes) for each in await opened.listed("a")] == [("a/b", 5)]


async def test_a_file_system_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UnsafeStorageError, match=r"without hard links.*--single-writer"):
        await probe(open_storage(tmp_path / "r"))
    opened = open_storage(tmp_path / "r", single_writer=True)
    await probe(opened)
    assert await opened.put_new("a", b"first")
    assert not await opened.put_new("a", b"second")
    assert await opened.get("a") == b"first"


async def test_a_repository_of_a_newer_version_is_refused(storage_place: str) -> None:
    opened = open_storage(storage_place)
    await opened.put_new(format.MARKER, format.seal(format.RepositoryMarker(format=2)))
    with pytest.raises(RepositoryError, match="version 2 of the format"):
        await probe(opened)


WRITER = """
import asyncio, os, sys
from eventferry.backup.storage import open_storage

async def main():
    opened = open_storage(sys.argv[1])
    number = 0
    while True:
        await opened.put_new(f"objects/{number}", number.to_bytes(4, "big") * 1_000_000)
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_no_object_in_part(tmp_path: Path) -> None:
    for attempt in range(5):
        root = tmp_path / str(attempt)
        with subprocess.Popen([sys.executable, "-c", WRITER, root], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.03 * attempt)
            writer.kill()
        objects = list((root / "objects").iterdir())
        assert objects
        for each in objects:
            assert each.read_bytes() == int(each.name).to_bytes(4, "big") * 1_000_000


async def test_what_a_killed_writer_left_is_removed_after_a_day(tmp_path: Path) -> None:
    unfinished = tmp_path / ".unfinished"
    unfinished.mkdir()
    old, young = unfinished / "old.part", unfinished / "young.part"
    old.write_bytes(b"left")
    young.write_bytes(b"being written")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    opened = open_storage(tmp_path)
    await opened.put_new("a", b"")
    assert not old.exists()
    assert young.exists()
    assert await opened.folders() == []


async def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RepositoryError, match=r"repository .*No space left on device"):
        await open_storage(tmp_path).put_new("a", b"1")
    monkeypatch.undo()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


async def test_when_the_disk_is_full_no_object_is_in_part(tmp_path: Path) -> None:
    disk = Disk.mounted(tmp_path / "disk")
    if disk is None:
        pytest.skip("cannot mount here")
    try:
        opened = open_storage(disk.folder / "repository")
        assert await opened.put_new("a/0", b"x" * 100_000)
        disk.fill(250_000)
        with pytest.raises(RepositoryError, match="No space left on device"):  # noqa: PT012
            for number in range(1, 9):
                await opened.put_new(f"a/{number}", b"x" * 100_000)
        found = await opened.listed("a")
        assert len(found) > 1
        assert {entry.bytes for entry in found} == {100_000}
        assert list((disk.folder / "repository" / ".unfinished").iterdir()) == []
        disk.free()
        assert await opened.put_new("b", b"x" * 100_000)
    finally:
        disk.unmount()


async def test_a_folder_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    await open_storage(tmp_path / "new" / "r").put_new("a/b", b"1")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "new").rglob("*")}
    assert modes == {"r": 0o700, ".unfinished": 0o700, "a": 0o700, "b": 0o600}


async def test_a_file_in_place_of_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "r").write_text("")
    with pytest.raises(RepositoryError, match=r"the repository .*/r: (Not a directory|File exists)"):
        await open_storage(tmp_path / "r").put_new("a", b"1")


async def test_a_bucket_that_is_not_there_is_told(bucket: str) -> None:
    with pytest.raises(RepositoryError, match="s3://no-such-bucket/r: there is no such bucket"):
        await probe(open_storage("s3://no-such-bucket/r"))


@pytest.mark.slow
def test_a_process_that_ends_with_its_last_answer_is_not_aborted(bucket: str) -> None:
    program = f"""if True:
        import asyncio
        from eventferry.backup.storage import open_storage
        assert asyncio.run(open_storage("s3://{bucket}/r").get("absent")) is None
    """
    for _ in range(5):
        children = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
        assert [child.wait() for child in children] == [0, 0, 0, 0]


@pytest.mark.parametrize("place", ["ftp://host/r", "", "postgresql://host/db"])
def test_what_is_no_repository_is_refused(place: str) -> None:
    with pytest.raises(UsageError, match="is not a repository"):
        open_storage(place)


@pytest.mark.parametrize(
    "place",
    [
        *("s3:/bucket/r", "s3//bucket/r", "s3:bucket/r", "gs:/bucket/r", "S3:/bucket/r"),
        *("az:/container/r?sig=hunter2", "az:user:hunter2@container"),
        *("postgres//user:hunter2@host/db", "user:hunter2@host/db", "mysql/db"),
    ],
)
def test_a_mistyped_url_is_no_folder_unless_there_is_one(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="mistyped") as error:
        open_storage(place)
    assert "hunter2" not in str(error.value)
    assert isinstance(open_storage(f"./{place}"), storage.FolderStorage)
    Path(place).mkdir(parents=True)
    assert isinstance(open_storage(place), storage.FolderStorage)


@pytest.mark.parametrize("place", ["s3", "s3/bucket", "backups/s3:x", "az-backups", "gsx:y"])
def test_a_folder_may_be_called_nearly_so(place: str) -> None:
    assert isinstance(open_storage(place), storage.FolderStorage)


def test_a_store_is_no_repository() -> None:
    with pytest.raises(UsageError, match="is a store"):
        open_storage("a.db")


@pytest.mark.parametrize(
    "place",
    [
        "ftp://user:hunter2@host/r",
        "postgresql:user:hunter2@host/db",
        "postgresql:/user:hunter2@host/db",
        r"postgresql:\\user:hunter2@host/db",
        "mysql:user:hunter2@host/db",
        "mysql:user:hunter2@host/a.db",
    ],
)
def test_a_password_in_the_address_is_not_repeated(place: str) -> None:
    with pytest.raises(UsageError) as error:
        open_storage(place)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "az://container@account/r?sv=1&sig=hunter2",
        "az://container@account/r?sig=it's,hunter2",
        "az:///?sig=hunter2",
        "az://user:hunter2@container/r",
    ],
)
def test_what_obstore_says_of_an_address_holds_no_signature(url: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be used: Generic .* error: ") as error:
        open_storage(url)
    assert "hunter2" not in str(error.value)


async def test_what_obstore_says_of_a_request_holds_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    found = open_storage("s3://bucket/r")
    asked = "http://host:1/r/a?sig=hunter2: timed out"
    monkeypatch.setattr("obstore.head", Mock(side_effect=OSError(asked)))
    with pytest.raises(
        RepositoryError, match=r"the repository s3://bucket/r, a: http://host:1/r/a\?…: timed out"
    ):
        await found.size("a")


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(MissingExtraError, match=r"eventferry\[backup\]"):
        open_storage("s3://bucket/r")


def test_a_folder_needs_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    assert isinstance(open_storage(tmp_path), storage.FolderStorage)


async def test_the_first_name_of_an_azure_url_is_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "a2V5")
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        try:
            with pytest.raises(RepositoryError, match="no such bucket or container"):
                await open_storage("az://container/some/path").put_new("a", b"")
        finally:
            server.shutdown()
    assert asked == ["/container/some/path/a"]
