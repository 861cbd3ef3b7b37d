"""A person is erased from a store: in place, in one step, and from whatever enters it later."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from eventferry import (
    MANUAL,
    EventStore,
    ImportOpenError,
    RulesError,
    StoreChangedError,
    StoreFrozenError,
    StoreReplacedError,
    UnsupportedStoreError,
    cutover,
    open_store,
    pipeline,
    verify,
)
from eventferry.changing.rules import Rule, Rules, load_rules
from tests.support import NewUrl, Opened, exported, import_lines, line, make_event, raw
from tests.support.restoring import heads_of, restore

NAME = "Ada Lovelace"
RULES = """
[[rule]]
redact = ["/name"]
remove = ["/contact/email"]
[[rule]]
type = "TYPE_1"
set = { "/source" = "erased" }
"""


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    return rules_of(tmp_path, RULES)


def rules_of(folder: Path, text: str) -> Rules:
    path = folder / "erase.toml"
    path.write_text(text)
    return load_rules(path)


def person(i: int) -> dict[str, Any]:
    """The ith event, which holds personal data."""
    payload = {"number": i, "name": NAME, "contact": {"email": "ada@example.org", "city": "London"}}
    return make_event(i, payload=payload)


def erased(i: int) -> dict[str, Any]:
    """What is left of it."""
    payload: dict[str, Any] = {"number": i, "name": None, "contact": {"city": "London"}}
    if i % 3 == 1:
        payload["source"] = "erased"
    return make_event(i, payload=payload)


def left_of(count: int, *aggregates: int) -> list[dict[str, Any]]:
    """The first events, where these aggregates are erased."""
    return [erased(i) if i % 10 in aggregates else person(i) for i in range(count)]


async def events_in(store: EventStore) -> list[dict[str, Any]]:
    return [json.loads(one) for one in (await exported(store)).splitlines()]


async def test_a_person_is_erased_in_place(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(3_000)))
        await store.save_snapshot("view", NAME)
        described = await store.describe(calculate_cursor=True)
        report = await store.erase(rules, aggregate_ids=["aggregate-4"])
        assert await events_in(store) == left_of(3_000, 4)
        assert (report.events, report.changed, report.snapshots) == (300, 300, 1)
        assert report.types == {"TYPE_0": 100, "TYPE_1": 100, "TYPE_2": 100}
        assert await store.load_snapshot("view") is None
        assert await store.describe(calculate_cursor=True) == described
        await store.save_event({"type": "T", "aggregateId": "aggregate-4", "aggregateVersion": 301})


async def test_to_erase_again_changes_nothing(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(100)))
        await store.erase(rules, aggregate_ids=["aggregate-4"])
        before = await exported(store)
        await store.save_snapshot("view", "new")
        again = await store.erase(rules, aggregate_ids=["aggregate-4"])
        assert (again.events, again.changed, again.types, again.snapshots) == (10, 0, {}, 0)
        assert await exported(store) == before
        assert await store.load_snapshot("view") == "new"


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        ({"event_types": ["TYPE_1"]}, {i for i in range(600) if i % 3 == 1}),
        ({"aggregate_prefixes": ["aggregate-7"]}, {i for i in range(600) if i % 10 == 7}),
        ({"aggregate_ids": ["aggregate-2", "none"], "event_types": ["TYPE_0"]}, set(range(12, 600, 30))),
        ({}, set(range(600))),
    ],
    ids=["types", "prefixes", "ids", "all"],
)
@pytest.mark.once
async def test_a_selection_says_from_which_events(
    opened: Opened, rules: Rules, selection: dict[str, Any], numbers: set[int]
) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(600)))
        dry = await store.erase(rules, **selection, dry_run=True)
        assert await events_in(store) == left_of(600)
        report = await store.erase(rules, **selection)
        assert await events_in(store) == [erased(i) if i in numbers else person(i) for i in range(600)]
        assert report.changed == len(numbers) == dry.changed
        assert report.types == dry.types


@pytest.mark.once
async def test_a_dry_run_leaves_nothing_in_force(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await store.erase(rules, dry_run=True)
        await import_lines(store, map(person, range(9)))
        assert await events_in(store) == left_of(9)


@pytest.mark.once
async def test_what_no_rule_touches_stays_as_it_is_spelled(new_url: NewUrl, tmp_path: Path) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, [make_event(0, payload={"b": 1.50, "a": "ü", "name": NAME, "z": [1e3]})])
        before = await exported(store)
        await store.erase(rules_of(tmp_path, '[[rule]]\nredact = ["/name"]'))
        assert await exported(store) == before.replace(b'"Ada Lovelace"', b"null")


@pytest.mark.slow
async def test_large_events_are_erased_a_few_at_a_time(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        fill = "x" * 700_000
        await import_lines(store, [make_event(i, payload={"name": NAME, "fill": fill}) for i in range(40)])
        report = await store.erase(rules, aggregate_prefixes=["aggregate-"])
        assert report.changed == 40
        assert NAME.encode() not in await exported(store)


@pytest.mark.once
async def test_an_erasure_only_redacts_removes_and_sets(opened: Opened, tmp_path: Path) -> None:
    async with opened() as store:
        for text, told in [
            ('[[rule]]\nrename = "B"', "rename"),
            ('[[rule]]\nredact = ["/a"]\n[[rule]]\ndrop = true', "rule 2 has 'drop'"),
            ("", "at least one rule"),
            ('[[rule]]\nremove = ["/tags/0"]', "/tags/0"),
        ]:
            with pytest.raises(RulesError, match=told):
                await store.erase(rules_of(tmp_path, text))


@pytest.mark.once
@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (Rule(aggregate_id=(), redact=("/name",)), "rule 1: aggregate_id: the list is empty"),
        (Rule(redact=("name",)), "rule 1: 'name' is not a JSON Pointer"),
        (Rule(set={"/name": "\ud800"}), "rule 1: field payload"),
    ],
)
async def test_rules_of_an_erasure_made_in_python_are_checked_too(
    opened: Opened, rule: Rule, says: str
) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(3)))
        with pytest.raises(RulesError, match=says):
            await store.erase(Rules(rules=(rule,)))
        assert await events_in(store) == [person(i) for i in range(3)]


@pytest.mark.once
@pytest.mark.parametrize("value", [Decimal("1.5"), Decimal("1e400"), 10**30, "1.5"])
async def test_a_number_that_an_erasure_sets_stays_one(opened: Opened, value: Any) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(1)))
        await store.erase(Rules(rules=(Rule(set={"/number": value}),)))
        found = json.loads(
            await exported(store), parse_int=Decimal, parse_float=Decimal
        )  # however it is spelled
        assert found["payload"]["number"] == value


@pytest.mark.once
async def test_an_erasure_that_is_repeated_concerns_no_fewer_events(opened: Opened, rules: Rules) -> None:
    late = person(1) | {"timestamp": 4_102_444_800_000}  # in 2100, so that the erasure is of that time
    async with opened() as store:
        await import_lines(store, [late])
        first = await store.erase(rules)
        await import_lines(store, [person(0)], replace=True)
        assert (await store.erase(rules)).at == first.at == late["timestamp"]
        await import_lines(store, [late], replace=True)
        assert NAME.encode() not in await exported(store)


@pytest.mark.once
async def test_a_frozen_store_is_not_erased_from(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(9)))
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await store.erase(rules)
        await store.unfreeze()
        assert await events_in(store) == left_of(9)


async def test_a_table_of_that_name_that_is_not_ours_is_refused(new_url: NewUrl, rules: Rules) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        raw.run(url, 'CREATE TABLE "events-erasures" (note VARCHAR(20))')
        with pytest.raises(UnsupportedStoreError, match="events-erasures"):
            await store.erase(rules)


async def test_the_erasures_go_with_the_store(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await store.erase(rules)
        await store.drop()
        await store.init()
        await import_lines(store, map(person, range(9)))
        assert await events_in(store) == left_of(9)


async def test_an_import_does_not_bring_back_what_is_erased(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(3_000)))
        await store.erase(rules, aggregate_ids=["aggregate-4"])
        await import_lines(store, map(person, range(4_000)))
        assert await events_in(store) == left_of(4_000, 4)


async def test_a_manual_import_does_not_bring_back_what_is_erased(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(2_560)))
        await store.erase(rules, aggregate_ids=["aggregate-4"])
        # What is there already is known for the same, although it is not any more.
        await import_lines(store, map(person, range(5_120)), maintenance_mode=MANUAL)
        assert await events_in(store) == left_of(5_120, 4)


async def test_an_incremental_import_does_not_bring_back_what_is_erased(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(1_000)))
        await store.erase(rules, aggregate_ids=["aggregate-4"])
        report = await store.incremental_import(map(person, range(1_500)))
        assert (report.imported, report.skipped_existing) == (500, 1_000)
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import(map(person, range(1_400, 2_000)), import_id)
        report = await store.commit_incremental_import(import_id)
        assert (report.imported, report.skipped_existing) == (500, 100)
        found = sorted(await events_in(store), key=lambda event: event["payload"]["number"])
        assert [event["payload"] for event in found] == [event["payload"] for event in left_of(2_000, 4)]


@pytest.mark.once
async def test_what_happens_after_an_erasure_is_not_erased(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        report = await store.erase(rules)
        event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": {"name": NAME}}
        await store.save_event(event | {"timestamp": report.at + 1_000_000})
        await store.incremental_import([event | {"timestamp": report.at + 2_000_000, "aggregateId": "b"}])
        assert [event["payload"]["name"] for event in await events_in(store)] == [NAME, NAME]


async def test_an_import_during_an_erasure_is_refused_at_its_end(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(300)))
        sink = store.import_events()
        await sink.begin()
        await sink.write(b"".join(line(person(i)) for i in range(400)))
        await store.erase(rules)
        with pytest.raises(StoreChangedError, match="erased"):
            await sink.close()
        assert await events_in(store) == list(map(erased, range(300)))


async def test_an_incremental_import_during_an_erasure_is_refused(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(300)))

        async def events() -> AsyncIterator[dict[str, Any]]:
            for i in range(300, 400):
                yield person(i)
            await store.erase(rules)

        with pytest.raises(StoreChangedError, match="erased"):
            await store.incremental_import(events())
        assert await events_in(store) == list(map(erased, range(300)))


@pytest.mark.once
async def test_an_interrupted_import_begins_anew_behind_an_erasure(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        lines = b"".join(line(person(i)) for i in range(400))
        sink = store.import_events()
        await sink.begin()
        await sink.write(lines[:-100])
        await sink.abort(asyncio.CancelledError())
        await store.erase(rules)
        assert await store.import_progress() is None
        async with store.import_events(resume=True) as again:
            assert again.byte_offset == 0
            await again.write(lines)
        assert await events_in(store) == list(map(erased, range(400)))


@pytest.mark.once
async def test_an_import_that_died_behind_an_erasure_begins_anew(opened: Opened, rules: Rules) -> None:
    """It was running at the time, so its stage was left alone."""
    async with opened() as store:
        lines = b"".join(line(person(i)) for i in range(400))
        sink = store.import_events()
        await sink.begin()
        await sink.write(lines[:-100])
        await store.erase(rules)
        await sink.abort(asyncio.CancelledError())
        async with store.import_events(resume=True) as again:
            assert again.byte_offset == 0
            await again.write(lines)
        assert await events_in(store) == list(map(erased, range(400)))


@pytest.mark.once
async def test_nothing_is_erased_while_an_incremental_import_is_open(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(9)))
        import_id = await store.begin_incremental_import()
        with pytest.raises(ImportOpenError, match=import_id):
            await store.erase(rules)
        await store.rollback_incremental_import(import_id)
        assert await events_in(store) == left_of(9)


async def test_readers_go_on_behind_an_erasure(opened: Opened, rules: Rules) -> None:
    """Although what they read last is not as it was."""
    async with opened() as store:
        await import_lines(store, map(person, range(300)))
        page = await store.load_events(limit=200, since=None)
        assert page.bookmark is not None
        following = store.follow(page.bookmark, idle=0.1)
        first = await anext(following)
        assert len(first.events) == 100
        await store.erase(rules)
        saved = await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        async for one in following:
            if one.events:
                assert one.events == [saved.event]
                break
        assert len((await store.load_events(limit=200, since=page.bookmark)).events) == 101


async def test_an_erasure_does_not_hide_that_other_events_were_stored(new_url: NewUrl, rules: Rules) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, map(person, range(1_000)))
        backup = await heads_of(store)
        await import_lines(store, map(person, range(1_000, 1_500)), maintenance_mode=MANUAL)
        bookmark = await store.bookmark()
    restore(url, backup)
    async with open_store(url) as store:
        others = [person(i) | {"payload": {"other": i}} for i in range(1_000, 1_500)]
        await import_lines(store, others, maintenance_mode=MANUAL)
        await store.erase(rules, aggregate_ids=["none"])
        with pytest.raises(StoreReplacedError):
            await store.load_events(limit=1, since=bookmark)


async def test_a_replica_loses_what_is_erased_from_its_source(opened: Opened, rules: Rules) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, map(person, range(300)))
        await target.sync(source)
        await source.erase(rules, aggregate_ids=["aggregate-4"])
        await import_lines(source, map(person, range(300, 400)), maintenance_mode=MANUAL)
        report = await target.sync(source)
        assert (report.events, report.erasures_left) == (100, 0)
        assert await events_in(target) == await events_in(source) == left_of(400, 4)
        assert (await target.erased()).digest == (await source.erased()).digest
        await cutover(source, target)


@pytest.mark.once
async def test_what_comes_to_a_replica_late_is_erased(opened: Opened, rules: Rules) -> None:
    """It was read before it was erased from the source."""
    async with opened() as source, opened() as target:
        await import_lines(source, map(person, range(300)))
        await target.sync(source)
        late = make_event(300, payload=person(300)["payload"])
        await import_lines(source, [late], maintenance_mode=MANUAL)
        await target.erase(rules)
        await target.sync(source)
        assert await events_in(target) == list(map(erased, range(301)))


async def test_a_merge_brings_the_erasures_that_name_aggregates(opened: Opened, rules: Rules) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, map(person, range(300)))
        await import_lines(target, [make_event(0, aggregateId="own", payload={"name": NAME})])
        await target.sync(source, mode="merge")
        await source.erase(rules, aggregate_ids=["aggregate-4"])
        await source.erase(rules, event_types=["TYPE_0"])
        report = await target.sync(source)
        assert report.erasures_left == 1
        found = {event["aggregateId"]: event["payload"]["name"] for event in await events_in(target)}
        assert {name for name, value in found.items() if value is None} == {"aggregate-4"}


@pytest.mark.once
async def test_a_merge_with_a_prefix_brings_all_erasures(opened: Opened, rules: Rules) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, map(person, range(300)))
        await import_lines(target, [make_event(0, aggregateId="own", payload={"name": NAME})])
        await target.sync(source, mode="merge", same_aggregate="prefix=b-")
        await source.erase(rules, aggregate_ids=["aggregate-4"])
        await source.erase(rules, event_types=["TYPE_0"])
        report = await target.sync(source)
        assert report.erasures_left == 0
        for event in await events_in(target):
            is_erased = event["aggregateId"] == "b-aggregate-4" or (
                event["type"] == "TYPE_0" and event["aggregateId"] != "own"
            )
            assert (event["payload"]["name"] is None) == is_erased


@pytest.mark.once
async def test_a_copy_is_told_what_was_erased(opened: Opened, rules: Rules) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, map(person, range(300)))
        await pipeline(source.export_events(), target.import_events())
        await source.erase(rules, aggregate_ids=["aggregate-4"])
        report = await target.bring_erasures(source)
        assert report is not None
        assert report.changed == 30
        assert await target.bring_erasures(source) is None
        await import_lines(target, map(person, range(300)))
        assert await events_in(target) == left_of(300, 4)


@pytest.mark.once
async def test_a_copy_keeps_what_was_erased_in_the_step_that_brings_the_events(
    opened: Opened, rules: Rules
) -> None:
    async with opened() as source, opened() as target:
        await import_lines(source, map(person, range(300)))
        await source.erase(rules, aggregate_ids=["aggregate-4"])
        await pipeline(source.export_events(), target.import_events(erased_from=source))
        await import_lines(target, map(person, range(300)))
        assert await events_in(target) == left_of(300, 4)
        import_id = await target.begin_incremental_import()
        with pytest.raises(ImportOpenError, match=import_id):
            await pipeline(source.export_events(), target.import_events(erased_from=source))
        assert await events_in(target) == left_of(300, 4)


@pytest.mark.once
async def test_an_older_copy_verifies_with_what_was_erased_since(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(3_000)))
        older = await exported(store)
        await store.erase(rules, aggregate_ids=["aggregate-4"])
        assert not (await verify([older], store.export_events())).equal
        since = await store.erased()
        assert (await verify([older], store.export_events(), erased=since)).equal
        assert (await verify(store.export_events(), [older], content=True, erased=since)).equal
        others = older.replace(b'"number":1234,', b'"number":4321,')
        assert not (await verify([others], store.export_events(), erased=since)).equal


@pytest.mark.once
async def test_an_older_file_passes_through_what_was_erased(opened: Opened, rules: Rules) -> None:
    async with opened() as store, opened() as other:
        await import_lines(store, map(person, range(3_000)))
        older = await exported(store)
        await store.erase(rules, aggregate_ids=["aggregate-4"])
        await pipeline([older], await store.erased(), other.import_events())
        assert await events_in(other) == left_of(3_000, 4)


async def test_two_erasures_at_once_are_both_in_force(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(1_000)))
        await asyncio.gather(*(store.erase(rules, aggregate_ids=[f"aggregate-{i % 3}"]) for i in range(6)))
        await import_lines(store, map(person, range(1_000)))
        assert await events_in(store) == left_of(1_000, 0, 1, 2)
        assert len((await store.erased()).erasures) == 3


async def test_saves_go_on_around_an_erasure(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(3_000)))
        over = asyncio.Event()

        async def save(name: str) -> int:
            version = 0
            while not over.is_set() or version < 3:
                version += 1
                await store.save_event({"type": "T", "aggregateId": name, "aggregateVersion": version})
            return version

        saving = [asyncio.create_task(save(f"saved-{i}")) for i in range(4)]
        for i in range(5):
            await store.erase(rules, aggregate_ids=[f"aggregate-{i}"])
        over.set()
        saved = sum(await asyncio.gather(*saving))
        found = await events_in(store)
        assert found[:3_000] == left_of(3_000, 0, 1, 2, 3, 4)
        assert len(found) == 3_000 + saved


@pytest.mark.slow
async def test_an_erasure_that_is_cancelled_leaves_all_or_nothing(opened: Opened, rules: Rules) -> None:
    async with opened() as store:
        await import_lines(store, map(person, range(3_000)))
        for pause in (0.0, 0.003, 0.01, 0.03, 0.1):
            erasing = asyncio.create_task(store.erase(rules))
            await asyncio.sleep(pause)
            erasing.cancel()
            await asyncio.sleep(0)
            erasing.cancel()
            await asyncio.wait([erasing])
            left = await store.erase(rules, dry_run=True)
            assert left.changed in (0, 3_000)
            assert (left.changed == 0) == bool((await store.erased()).erasures)
        await store.erase(rules)
        assert await events_in(store) == list(map(erased, range(3_000)))
