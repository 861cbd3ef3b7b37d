"""Incremental imports: exactly what the store lacks, behind what it holds."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventferry import (
    ImportReport,
    InputError,
    OlderEventsError,
    StoreUnreachableError,
    UsageError,
    open_store,
)
from eventferry.importing import incremental as staging
from tests.support import (
    FAR_FUTURE,
    LONG_AGO,
    NewUrl,
    Opened,
    exported,
    import_lines,
    make_lines,
)
from tests.support.incremental import (
    JSON_VALUES,
    PER_EXAMPLE,
    at,
    blocks,
    check_no_gaps,
    contents,
    make_new,
    meaning,
    payload_texts,
    payloads,
    raw,
    spelled,
    state,
)

# what cannot be staged


@pytest.mark.parametrize("nth", [1, 2, 3])
async def test_whichever_batch_cannot_be_put_into_the_stage_the_import_fails_and_nothing_is_in(
    opened: Opened, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(30))
        async with store._database.writing() as writing:
            kind = type(writing)
        put, batches = kind.stage_rows, itertools.count(1)

        async def fails_once(writing: Any, stage: Any, batch: Any) -> None:
            if next(batches) == nth:
                raise StoreUnreachableError("the connection is gone")
            await put(writing, stage, batch)

        with monkeypatch.context() as failing:
            failing.setattr(kind, "stage_rows", fails_once)
            failing.setattr(staging, "BATCH_BYTES", 1)
            failing.setattr(staging, "PART", 10)
            with pytest.raises(StoreUnreachableError):
                await store.incremental_import([at(FAR_FUTURE, i) for i in range(30)])
        assert await exported(store) == make_lines(30)
        assert await store.incremental_import([at(FAR_FUTURE, i) for i in range(30)]) == ImportReport(
            30, 0, 0
        )


# n new and m known


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
async def test_a_batch_shuffled_over_parallel_pushes_brings_exactly_what_is_new(
    opened: Opened, seed: int
) -> None:
    chance = random.Random(seed)
    known, new = 300, 200
    batch = [make_new(i) for i in range(known + new)]
    chance.shuffle(batch)
    pieces = [batch[start::17] for start in range(17)]
    async with opened() as store:
        await import_lines(store, make_lines(known))
        for imported in (new, 0):
            import_id = await store.begin_incremental_import()
            counts = await asyncio.gather(
                *(
                    store.push_incremental_import(piece, import_id, part=chance.choice([None, str(place)]))
                    for place, piece in enumerate(pieces)
                )
            )
            assert sum(counts) == known + new
            report = await store.commit_incremental_import(import_id)
            assert report == ImportReport(imported, known + new - imported, 0)
            events = await contents(store)
            assert Counter(event.payload["number"] for event in events) == Counter(range(known + new))
            check_no_gaps(events)


async def test_pushes_may_come_from_several_clients_at_once(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as first, open_store(url) as second, open_store(url) as third:
        await first.init()
        import_id = await first.begin_incremental_import()
        clients = itertools.cycle([first, second, third])
        pushes = [
            store.push_incremental_import([make_new(i) for i in range(start, 120, 12)], import_id)
            for start, store in zip(range(12), clients, strict=False)
        ]
        assert await asyncio.gather(*pushes) == [10] * 12
        assert await second.commit_incremental_import(import_id) == ImportReport(120, 0, 0)
        check_no_gaps(await contents(third))


async def test_equal_batches_imported_at_once_come_in_once(new_url: NewUrl) -> None:
    url = new_url()
    batch = [make_new(i) for i in range(100)]
    async with open_store(url) as first, open_store(url) as second:
        await first.init()
        reports = await asyncio.gather(
            *(store.incremental_import(batch) for store in (first, second, first, second))
        )
        assert sum(report.imported for report in reports) == 100
        assert sum(report.skipped_existing for report in reports) == 300
        assert (await first.describe()).event_count == 100


async def test_a_batch_of_an_export_of_the_store_itself_brings_nothing(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(500))
        before = await exported(store)
        assert await store.incremental_import(blocks(before)) == ImportReport(0, 500, 0)
        assert await exported(store) == before


# equal events


@pytest.mark.parametrize(
    ("stored", "batch"),
    [
        (1, 2),
        (2, 1),
        *(pytest.param(*each, marks=pytest.mark.once) for each in [(0, 2), (2, 2), (2, 5), (3, 0), (1, 1)]),
    ],
)
async def test_of_n_equal_events_those_come_in_that_the_store_lacks(
    opened: Opened, stored: int, batch: int
) -> None:
    async with opened() as store:
        assert await store.incremental_import([make_new(0)] * stored) == ImportReport(stored, 0, 0)
        report = await store.incremental_import([make_new(0)] * batch)
        assert report == ImportReport(max(0, batch - stored), min(stored, batch), 0)
        events = await contents(store)
        assert len(events) == max(stored, batch)
        check_no_gaps(events)


async def test_equal_events_are_counted_over_all_pushes_and_spellings(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import(blocks(raw('{"a":1,"b":2}'), raw('{"b":2.0,"a":1}')))
        import_id = await store.begin_incremental_import()
        for spelling in ('{"a":1,"b":2}', '{"b":20e-1,"a":1.0}', '{"a":1,"b":2.00}', '{ "b":2, "a":1 }'):
            await store.push_incremental_import(blocks(raw(spelling)), import_id)
        assert await store.commit_incremental_import(import_id) == ImportReport(2, 2, 0)


@pytest.mark.slow
async def test_many_events_of_one_aggregate_at_one_time_are_not_compared_each_with_each(
    opened: Opened,
) -> None:
    count = 12_000
    async with opened() as store:
        await store.incremental_import([at(7, number) for number in range(count)])
        async with asyncio.timeout(20):
            report = await store.incremental_import([at(7, count // 2 + number) for number in range(count)])
        assert report == ImportReport(count // 2, count // 2, 0)
        check_no_gaps(await contents(store))


@pytest.mark.parametrize("changed", ["type", "timestamp", "aggregateId", "payload"])
async def test_events_that_differ_in_one_field_are_two(opened: Opened, changed: str) -> None:
    other: dict[str, Any] = {
        "type": "type_0",
        "timestamp": LONG_AGO + 1,
        "aggregateId": "Aggregate-0",
        "payload": {"number": 1},
    }
    async with opened() as store:
        await store.incremental_import([make_new(0)])
        report = await store.incremental_import([make_new(0, **{changed: other[changed]})])
        assert report == ImportReport(1, 0, 0)


EQUAL = [
    ("1", "1.0"),
    ("1", "1e0"),
    ("10", "1E+1"),
    ("0.5", "5e-1"),
    ("0", "-0"),
    ("0", "0e100"),
    ('{"a":1,"b":[{"c":2,"d":3}]}', '{"b":[{"d":3,"c":2}],"a":1}'),
    ('"é"', '"\\u00e9"'),
    ('"😀"', '"\\ud83d\\ude00"'),
    ('"a/b"', '"a\\/b"'),
    ("[1,2]", " [ 1 ,\t2 ] "),
    ("12345678901234567890", "12345678901234567890.0"),
    ("1e400", "10e399"),
    ("null", "null"),
]


UNEQUAL = [
    ("1", "true"),
    ("0", "false"),
    ("1", '"1"'),
    ("true", '"true"'),
    ("null", '"null"'),
    ("null", "{}"),
    ("null", "false"),
    ("[]", "{}"),
    ("[1,2]", "[2,1]"),
    ('{"a":1}', '{"a":1,"b":null}'),
    ('{"a":1}', '{"A":1}'),
    ('{"1":1}', '{"1":"1"}'),
    ('"a"', '"a "'),
    ('"é"', '"e\\u0301"'),
    ("12345678901234567890", "12345678901234567000"),
    ("9007199254740993", "9007199254740992"),
    ("0.1", "0.1000000000000000055511151231257827"),
    ("1e400", "1e401"),
    ("1e400", "-1e400"),
    ("1e-400", "0"),
    ('"n1e0"', "1"),
    ('"s1"', '"1"'),
]


async def taken_for_others(opened: Opened, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those pairs of payloads, one that is stored and one that arrives, of which the second comes in."""
    stored, arriving = ([raw(pair[i], f"a{place}") for place, pair in enumerate(pairs)] for i in range(2))
    async with opened() as store:
        assert await store.incremental_import(blocks(*stored)) == ImportReport(len(pairs), 0, 0)
        report = await store.incremental_import(blocks(*arriving))
        count = Counter(event.aggregate_id for event in await contents(store))
        found = [pair for place, pair in enumerate(pairs) if count[f"a{place}"] == 2]
        assert report == ImportReport(len(found), len(pairs) - len(found), 0)
        return found


async def test_payloads_are_equal_as_json_values_however_they_are_spelled(opened: Opened) -> None:
    assert await taken_for_others(opened, EQUAL) == []


async def test_payloads_that_are_other_json_values_are_other_events(opened: Opened) -> None:
    assert await taken_for_others(opened, UNEQUAL) == UNEQUAL


def almost(value: Any, chance: random.Random) -> Any:
    """The value, or one that a careless comparison takes for the same."""
    if isinstance(value, list) and value and chance.random() < 0.8:
        place = chance.randrange(len(value))
        return [*value[:place], almost(value[place], chance), *value[place + 1 :]]
    if isinstance(value, dict) and value and chance.random() < 0.8:
        key = chance.choice(list(value))
        return value | {key: almost(value[key], chance)}
    if isinstance(value, tuple):
        mantissa, exponent = value
        return chance.choice(
            [value, (mantissa * 10 + 1, exponent - 1), (mantissa, exponent + 1), f"{mantissa}", mantissa != 0]
        )
    others: list[Any] = [(1, 0), (0, 0), "", "1", "null", True, False, None, [], {}, [value]]
    return chance.choice([value, value, *others])


@PER_EXAMPLE
@given(values=st.lists(JSON_VALUES, min_size=1, max_size=30), seed=st.integers(0, 2**32))
async def test_whatever_the_payload_an_event_is_known_if_and_only_if_its_value_is_there(
    opened: Opened, values: list[Any], seed: int
) -> None:
    chance = random.Random(seed)
    pairs = [(spelled(value, chance), spelled(almost(value, chance), chance)) for value in values]
    equal = sum(meaning(stored) == meaning(arriving) for stored, arriving in pairs)
    stored = b"".join(raw(stored, f"a{place}") for place, (stored, _) in enumerate(pairs))
    arriving = b"".join(raw(arriving, f"a{place}") for place, (_, arriving) in enumerate(pairs))
    async with opened() as store:
        assert await store.incremental_import(blocks(stored)) == ImportReport(len(pairs), 0, 0)
        report = await store.incremental_import(blocks(arriving))
        assert report == ImportReport(len(pairs) - equal, equal, 0)
        found = [meaning(text) for text in await payload_texts(store)]
        expected = [meaning(text) for text, _ in pairs]
        expected += [meaning(text) for other, text in pairs if meaning(text) != meaning(other)]
        assert Counter(found) == Counter(expected)


# older events


async def test_events_older_than_the_latest_are_skipped_and_counted(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(100, 1), at(200, 2)])
        report = await store.incremental_import([at(199, 3), at(200, 4), at(201, 5), at(1, 6, "b")])
        assert report == ImportReport(2, 0, 2)
        assert await payloads(store) == [1, 2, 4, 5]


async def test_older_events_refuse_the_whole_batch_if_asked(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(200, 1)])
        before = await state(store)
        with pytest.raises(OlderEventsError, match="200"):
            await store.incremental_import([at(300, 2), at(199, 3)], older="reject")
        assert await state(store) == before
        assert await store.incremental_import([at(300, 2)], older="reject") == ImportReport(1, 0, 0)


async def test_older_events_are_taken_in_if_asked(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(200, 1)])
        report = await store.incremental_import([at(300, 2), at(100, 3)], older="accept")
        assert report == ImportReport(2, 0, 0)
        assert await payloads(store) == [3, 1, 2]
        check_no_gaps(await contents(store))


async def test_a_known_event_counts_as_existing_and_not_as_older(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(100, 1), at(200, 2)])
        batch = [at(100, 1), at(100, 1), at(200, 2), at(300, 3)]
        with pytest.raises(OlderEventsError):
            await store.incremental_import(batch, older="reject")
        assert await store.incremental_import(batch[1:], older="reject") == ImportReport(1, 2, 0)
        assert await store.incremental_import(batch) == ImportReport(0, 3, 1)


async def test_nothing_is_older_than_an_empty_store(opened: Opened) -> None:
    async with opened() as store:
        report = await store.incremental_import([at(300, 3), at(-5, 1), at(0, 2)], older="reject")
        assert report == ImportReport(3, 0, 0)
        assert await payloads(store) == [1, 2, 3]


async def test_older_is_judged_at_the_commit(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(FAR_FUTURE - 1, 1), at(FAR_FUTURE, 2)], import_id)
        await store.save_event(
            {"type": "T", "timestamp": FAR_FUTURE, "aggregateId": "b", "aggregateVersion": 1}
        )
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 1)


@pytest.mark.once
async def test_a_commit_that_is_refused_leaves_the_import_open(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(200, 1)])
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([at(100, 2), at(200, 1)], import_id)
        before = await state(store)
        for _ in range(2):
            with pytest.raises(OlderEventsError):
                await store.commit_incremental_import(import_id, older="reject")
        assert await state(store) == before
        report = await store.commit_incremental_import(import_id, older="accept")
        assert report == ImportReport(1, 1, 0)


@pytest.mark.once
async def test_an_unknown_way_to_treat_older_events_is_refused(opened: Opened) -> None:
    wrong: Any = "ignore"
    async with opened() as store:
        with pytest.raises(UsageError, match="ignore"):
            await store.incremental_import([], older=wrong)
        import_id = await store.begin_incremental_import()
        with pytest.raises(UsageError, match="ignore"):
            await store.commit_incremental_import(import_id, older=wrong)


# dry run


@pytest.mark.parametrize("older", ["skip", "accept"])
async def test_a_dry_run_reports_what_would_come_in_and_changes_nothing(
    opened: Opened, older: Literal["skip", "accept"]
) -> None:
    batch = [*(make_new(i) for i in range(50, 150)), *(make_new(i, type="NEW") for i in range(20))]
    async with opened() as store:
        await import_lines(store, make_lines(100))
        await store.save_snapshot("key", "content")
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([make_new(200)], import_id)
        before = await state(store)
        report = await store.incremental_import(batch, older=older, dry_run=True)
        assert report == (ImportReport(50, 50, 20) if older == "skip" else ImportReport(70, 50, 0))
        assert await state(store) == before
        assert await store.load_snapshot("key") == "content"
        assert await store.incremental_import(batch, older=older) == report
        assert await store.commit_incremental_import(import_id) == ImportReport(1, 0, 0)


@pytest.mark.once
async def test_a_dry_run_refuses_what_the_run_would_refuse(opened: Opened) -> None:
    async with opened() as store:
        await store.incremental_import([at(200, 1)])
        before = await state(store)
        with pytest.raises(OlderEventsError):
            await store.incremental_import([at(100, 2)], older="reject", dry_run=True)
        with pytest.raises(InputError):
            await store.incremental_import([{}], dry_run=True)
        assert await state(store) == before


async def test_saves_after_a_dry_run_take_the_next_positions(opened: Opened) -> None:
    async with opened() as store:
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        await store.incremental_import([at(FAR_FUTURE, i) for i in range(9)], dry_run=True)
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 2})
        check_no_gaps(await contents(store))


async def test_snapshots_and_subscribers_stay(opened: Opened) -> None:
    async with opened() as store:
        await store.save_snapshot("key", "content")
        await store.ensure_event_subscriber("app", "model", {"at": 1})
        await store.incremental_import([at(1, 1)])
        assert await store.load_snapshot("key") == "content"
        assert len(await store.get_event_subscribers()) == 1
