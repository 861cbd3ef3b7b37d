"""What is erased from a store in a SQLite file stands in no file."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from eventferry import MANUAL, EventStore, NotErasedError, Rule, Rules, open_store
from tests.support import import_lines, line, make_event
from tests.support.persons import ERASE, left_in_files, person, text_of, texts_in
from tests.support.sqlite import connect, make_store, url_of


async def fill(store: EventStore, count: int, chance: random.Random) -> None:
    """As an import does, and saves, and a MANUAL import into gaps."""
    lines = [person(i, chance.choice([1, 3, 40, 900])) for i in range(count)]
    half = count // 2
    await import_lines(store, b"".join(lines[:half]))
    later = lines[half:]
    await import_lines(store, b"".join(later[256:]), maintenance_mode=MANUAL)
    await store.freeze()
    await import_lines(store, b"".join(later[:256]), maintenance_mode=MANUAL)
    await store.unfreeze()


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate", "persist"])
async def test_an_erased_text_stands_in_no_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.db"
    await make_store(path, journal_mode=mode)
    async with open_store(url_of(path), journal_mode=mode) as store:
        await fill(store, 4_000, random.Random(1))
        await store.erase(ERASE, aggregate_ids=["erased"])
        assert left_in_files(tmp_path, range(4_000), 5) == []
        assert (await store.describe()).event_count == 4_000


@pytest.mark.parametrize("seed", [3, 37])
async def test_persons_who_are_erased_again_and_again_stand_in_no_file(tmp_path: Path, seed: int) -> None:
    """Each time rows get longer or shorter, and the pages around them are taken to pieces."""
    chance = random.Random(seed)
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        count = chance.choice([300, 1_000, 3_000])
        persons = chance.choice([1, 2, 7, 40])
        lines: list[bytes] = []
        for i in range(count):
            payload = {
                "before": "x" * chance.randrange(200),
                "name": text_of(i) * chance.choice([1, 3, 40, 300, 900]),
                "number": i,
            }
            aggregate = f"person-{i % persons}"
            lines.append(line(make_event(i, aggregateId=aggregate, aggregateVersion=i + 1, payload=payload)))
        text = b"".join(lines)
        cut = text.index(b"\n", len(text) // 2) + 1
        await import_lines(store, text[:cut])
        await import_lines(store, text[cut:], maintenance_mode=MANUAL)
        erased: set[int] = set()
        order = list(range(persons))
        chance.shuffle(order)
        for person in order[: max(1, persons // 2)]:
            why = "y" * chance.choice([0, 10, 500, 5_000])
            rules = Rules(rules=(Rule(redact=("/name",), set={"/why": why}),))
            await store.erase(rules, aggregate_ids=[f"person-{person}"])
            erased |= set(range(person, count, persons))
            assert texts_in(tmp_path).isdisjoint(erased)


async def test_what_replaced_events_held_stands_in_no_file(tmp_path: Path) -> None:
    """They are gone, but their pages are still in the file, free to be used again."""
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        await fill(store, 2_000, random.Random(2))
        await import_lines(store, b"".join(person(i, 1) for i in range(500)))
        assert 1_995 in left_in_files(tmp_path, range(500), 5)
        await store.erase(ERASE, aggregate_ids=["erased"])
        assert left_in_files(tmp_path, range(500), 5) == []


async def test_what_an_import_staged_meanwhile_stands_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        lines = b"".join(person(i, 40) for i in range(600))
        await import_lines(store, lines)
        sink = store.import_events()
        await sink.begin()
        await sink.write(lines)
        await store.erase(ERASE, aggregate_ids=["erased"])
        await sink.abort(ValueError())
        await store.erase(ERASE, aggregate_ids=["none"])
        assert left_in_files(tmp_path, range(600), 5) == []


async def test_snapshots_that_are_removed_stand_in_no_file(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        await fill(store, 600, random.Random(3))
        await store.save_snapshot("view", "<seen>" * 3_000)
        await store.erase(ERASE, aggregate_ids=["erased"])
        assert b"<seen>" not in b"".join(other.read_bytes() for other in tmp_path.iterdir())


async def test_erase_says_so_when_a_reader_keeps_the_log_that_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path), busy_timeout=0.3) as store:
        await fill(store, 600, random.Random(4))
        with connect(path) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM events").fetchone()
            with pytest.raises(NotErasedError, match="wal"):
                await store.erase(ERASE, aggregate_ids=["erased"])
            reader.execute("COMMIT")
        again = await store.erase(ERASE, aggregate_ids=["erased"])
        assert again.changed == 0
        assert left_in_files(tmp_path, range(600), 5) == []


@pytest.mark.slow
async def test_an_erasure_that_is_cancelled_twice_leaves_all_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    async with open_store(url_of(path)) as store:
        await fill(store, 4_000, random.Random(5))
        before = await store.erase(ERASE, aggregate_ids=["erased"], dry_run=True)
        for pause in (0.0, 0.005, 0.02, 0.05):
            erasing = asyncio.create_task(store.erase(ERASE, aggregate_ids=["erased"]))
            await asyncio.sleep(pause)
            erasing.cancel()
            await asyncio.sleep(0)
            erasing.cancel()
            await asyncio.wait([erasing])
            left = await store.erase(ERASE, aggregate_ids=["erased"], dry_run=True)
            assert left.changed in (0, before.changed)
        await store.erase(ERASE, aggregate_ids=["erased"])
        assert left_in_files(tmp_path, range(4_000), 5) == []
