"""A deleted secret stands in no file of the store."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from eventferry import (
    SecretNotErasedError,
    open_store,
    verify,
)
from tests.support.sqlite import (
    KEY,
    connect,
    make_store,
    url_of,
)


def bytes_in_files(path: Path, text: str) -> list[str]:
    return [other.name for other in path.parent.iterdir() if text.encode() in other.read_bytes()]


@contextmanager
def read_by_somebody(path: Path) -> Iterator[None]:
    """As long as it is open, a reader needs the log as it is now."""
    with connect(path) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchone()
        yield
        reader.execute("COMMIT")


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
@pytest.mark.parametrize("size", [1, 4000])
async def test_a_deleted_secret_stands_in_no_file(tmp_path: Path, mode: str, size: int) -> None:
    """Wherever a page of it, or an overflow page, may have been on the way."""
    path = tmp_path / "a.db"
    await make_store(path, 3, journal_mode=mode)
    async with open_store(url_of(path), journal_mode=mode) as store:
        await store.set_secret("id", KEY * size)
        await store.set_secret("neighbour", "neighbour")
        assert bytes_in_files(path, KEY)
        assert await store.delete_secret("id")
        assert bytes_in_files(path, KEY) == []
        assert bytes_in_files(path, "neighbour")
    assert bytes_in_files(path, KEY) == []


async def test_pages_that_were_split_and_joined_keep_no_deleted_secret(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    chance = random.Random(1)
    ids = [f"{chance.randrange(10**9)} {place}" for place in range(150)]
    await make_store(path)
    async with open_store(url_of(path)) as store:
        lines = b"".join(
            json.dumps(
                {"secret": f"{KEY}-{i}." * chance.choice([1, 5, 40, 300]), "id": i, "idx": idx}
            ).encode()
            + b"\n"
            for idx, i in enumerate(ids)
        )
        async with store.import_secrets() as sink:
            await sink.write(lines)
        chance.shuffle(ids)
        for secret_id in ids[:75]:
            await store.delete_secret(secret_id)
        found = b"".join(other.read_bytes() for other in tmp_path.iterdir())
        assert [i for i in ids[:75] if f"{KEY}-{i}.".encode() in found] == []
        assert all(f"{KEY}-{i}.".encode() in found for i in ids[75:])


async def test_a_secret_that_an_imported_tombstone_deletes_stands_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        await store.set_secret("id", KEY)
        async with store.import_secrets() as sink:
            await sink.write(b'{"secret":null,"id":"id","idx":0}\n')
        assert bytes_in_files(path, KEY) == []


async def test_dropped_secrets_stand_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        await store.set_secret("id", KEY)
        await store.drop()
    assert bytes_in_files(path, KEY) == []


async def test_delete_secret_says_so_when_a_reader_keeps_the_log_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path), busy_timeout=0.3) as store:
        await store.set_secret("id", KEY)
        with read_by_somebody(path):
            with pytest.raises(SecretNotErasedError, match="wal"):
                await store.delete_secret("id")
            assert await store.get_secret("id") is None
            assert bytes_in_files(path, KEY)
        await store.set_secret("other", "x")
        await store.delete_secret("other")
        assert bytes_in_files(path, KEY) == []


async def test_deleting_a_secret_again_erases_the_copy_that_was_left(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path), busy_timeout=0.3) as store:
        await store.set_secret("id", KEY)
        with read_by_somebody(path), pytest.raises(SecretNotErasedError):
            await store.delete_secret("id")
        assert bytes_in_files(path, KEY)
        events = (await store.describe()).event_count
        assert not await store.delete_secret("id")
        assert bytes_in_files(path, KEY) == []
        assert (await store.describe()).event_count == events


async def test_an_import_of_tombstones_is_done_also_where_a_copy_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path), busy_timeout=0.3) as store:
        await store.set_secret("id", KEY)
        with read_by_somebody(path):
            sink = store.import_secrets()
            await sink.write(b'{"secret":null,"id":"id","idx":0}\n')
            with pytest.raises(SecretNotErasedError, match="wal"):
                await sink.close()
        assert (await sink.close()).deleted == 1
        assert await store.get_secret("id") is None


async def test_a_sync_stores_what_it_brought_also_where_a_copy_of_a_secret_is_left(tmp_path: Path) -> None:
    path = tmp_path / "target.db"
    await make_store(tmp_path / "source.db")
    async with (
        open_store(url_of(tmp_path / "source.db")) as source,
        open_store(url_of(path), busy_timeout=0.3) as target,
    ):
        await source.set_secret("id", KEY)
        await target.sync(source)
        follower = asyncio.create_task(target.sync(source, follow=True))
        await asyncio.sleep(0.3)  # it has looked at the secrets: the next one comes with its event
        with read_by_somebody(path):
            await source.delete_secret("id")
            with pytest.raises(SecretNotErasedError):
                await asyncio.wait_for(follower, 60)
        assert await target.get_secret("id") is None
        assert (await target.sync(source)).secrets == 0
        assert (await verify(source.export_events(), target.export_events())).equal


async def test_secrets_that_two_stores_delete_at_once_are_all_erased(tmp_path: Path) -> None:
    """The log is folded in by one at a time: the other waits for that, as long as it may."""
    path = tmp_path / "a.db"
    await make_store(path)
    stores = [open_store(url_of(path)) for _ in range(2)]
    try:
        for number in range(100):
            await stores[0].set_secret(f"{number}", f"{KEY}{number}.")
        await asyncio.gather(*(stores[number % 2].delete_secret(f"{number}") for number in range(100)))
        assert bytes_in_files(path, KEY) == []
    finally:
        for store in stores:
            await store.close()


async def test_who_gives_up_waiting_for_a_log_to_be_folded_in_returns_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path), busy_timeout=60) as store:
        await store.set_secret("id", KEY)
        with read_by_somebody(path):
            deleting = asyncio.create_task(store.delete_secret("id"))
            await asyncio.sleep(0.5)
            assert not deleting.done()
            deleting.cancel()
            async with asyncio.timeout(5):
                await asyncio.wait([deleting])
        await store.save_snapshot("key", "content")
