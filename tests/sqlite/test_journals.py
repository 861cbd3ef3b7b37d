"""Journal modes, and what a reader of a file may not change."""

from __future__ import annotations

from pathlib import Path

import pytest

from eventferry import (
    UsageError,
    open_store,
)
from tests.support import (
    all_pages,
    exported,
    import_lines,
    make_lines,
)
from tests.support.sqlite import (
    MODES,
    SAVED,
    file_hash,
    journal_mode,
    make_store,
    names_beside,
    url_of,
)

# journal modes


async def test_a_store_that_is_made_is_in_wal_mode(tmp_path: Path) -> None:
    await make_store(tmp_path / "a.db", 3)
    assert journal_mode(tmp_path / "a.db") == "wal"
    await make_store(tmp_path / "b.db", 3, journal_mode="delete")
    assert journal_mode(tmp_path / "b.db") == "not wal"


@pytest.mark.parametrize("mode", MODES)
async def test_reading_a_store_changes_no_byte_of_its_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 300, journal_mode=mode)
    before, beside = file_hash(path), names_beside(path)
    async with open_store(url_of(path)) as store:
        await store.describe(calculate_cursor=True)
        await exported(store)
        await all_pages(store, 100)
        await store.get_latest_event()
        await store.load_secrets(limit=5)
        await store.load_snapshot("key")
        await store.get_event_subscribers()
        await store.exists()
        loader = await store.get_event_loader(cursor=None)
        await loader.load_events(5)
        await loader.close()
        assert file_hash(path) == before
    assert file_hash(path) == before
    assert names_beside(path) == beside


@pytest.mark.parametrize("mode", MODES)
async def test_writing_keeps_the_journal_mode_that_a_file_has(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, 3, journal_mode=mode)
    async with open_store(url_of(path)) as store:
        await store.save_event(SAVED)
        await import_lines(store, make_lines(5))
    assert (journal_mode(path) == "wal") == (mode == "wal")


@pytest.mark.parametrize(("before", "asked"), [("wal", "delete"), ("delete", "wal"), ("wal", "truncate")])
async def test_an_option_changes_the_journal_mode(tmp_path: Path, before: str, asked: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, journal_mode=before)
    async with open_store(f"{url_of(path)}?journal_mode={asked}") as store:
        await store.save_event(SAVED)
    assert (journal_mode(path) == "wal") == (asked == "wal")


def test_an_unknown_journal_mode_is_refused(tmp_path: Path) -> None:
    for wrong in ("off", "memory", "wal2"):
        with pytest.raises(UsageError, match=wrong):
            open_store(url_of(tmp_path / "a.db"), journal_mode=wrong)
