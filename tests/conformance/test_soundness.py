"""A sound store is found sound, whatever has been done with it; what a database finds is told with the lines."""

from __future__ import annotations

from eventferry import check, sync
from tests.support import FAR_FUTURE, LONG_AGO, NewUrl, Opened, import_lines, make_event, make_lines


async def test_a_store_is_sound_at_every_step_of_its_life(opened: Opened) -> None:
    async with opened() as store:

        async def is_sound(events: int) -> None:
            report = await check(store)
            assert (report.sound, report.events) == (True, events)
            assert (report.faults, report.unchecked) == (0, 0)
            assert (report.missing_counters, report.missing_versions) == (0, 0)

        await is_sound(0)
        await import_lines(store, make_lines(300))
        await is_sound(300)
        for version in range(1, 4):
            await store.save_event({"type": "S", "aggregateId": "saved", "aggregateVersion": version})
        await is_sound(303)
        old = [{"type": "T", "timestamp": LONG_AGO + i, "aggregateId": "a"} for i in range(20)]
        await store.incremental_import(old, older="accept")
        await store.begin_incremental_import()
        await store.set_secret("anna", "key")
        # one event more: that the secret was set
        await is_sound(324)
        await import_lines(store, make_lines(40))
        await store.freeze()
        await is_sound(40)


async def test_what_foreign_stores_may_have_is_no_fault_of_the_database(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(
            store,
            [
                make_event(0, threadId=3, threadCounter=5, timestamp=FAR_FUTURE),
                make_event(1, threadId=3, threadCounter=9, aggregateVersion=7),
            ],
        )
        report = await check(store)
    assert (report.sound, report.faults, report.unchecked) == (True, 0, 0)
    assert report.missing_counters > 0


def test_without_await_a_store_is_checked_as_a_whole_too(new_url: NewUrl) -> None:
    with sync.open_store(new_url()) as store:
        store.init()
        assert sync.check(store).sound
