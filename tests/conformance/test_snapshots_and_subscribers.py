"""Snapshots, which are strings under keys, and subscribers, reSolve's registry of read models."""

from __future__ import annotations

from typing import Any

import pytest

from eventferry import EmptyInputError, EventStore, InputError, Subscriber, UsageError, open_store
from tests.support import NewUrl, Opened, exported, import_lines, make_event, make_lines

# snapshots


async def test_a_snapshot_is_there_until_it_is_dropped(opened: Opened) -> None:
    async with opened() as store:
        assert await store.load_snapshot("key") is None
        await store.save_snapshot("key", "content")
        assert await store.load_snapshot("key") == "content"
        await store.save_snapshot("key", "newer")
        assert await store.load_snapshot("key") == "newer"
        await store.drop_snapshot("key")
        assert await store.load_snapshot("key") is None
        await store.drop_snapshot("key")


async def test_any_text_is_kept_as_it_is(opened: Opened) -> None:
    async with opened() as store:
        for text in ("", "null", "1", "1.0", "'\"\\;--", "é😀\u2028\n\r\t", "x" * 1_000_000):
            await store.save_snapshot("key", text)
            assert await store.load_snapshot("key") == text


async def test_keys_are_told_apart_byte_by_byte_and_dropped_exactly(opened: Opened) -> None:
    keys = ["a", "A", "á", "a ", " a", "ab", "a%", "%", "_", "1", "1.0", "01", "", "key;projection;1"]
    async with opened() as store:
        for key in keys:
            assert await store.load_snapshot(key) is None
            await store.save_snapshot(key, f"of {key}")
        left = set(keys)
        for key in ("%", "_", "a", "key", "1"):
            await store.drop_snapshot(key)
            left.discard(key)
            for other in keys:
                assert await store.load_snapshot(other) == (f"of {other}" if other in left else None)


async def test_a_long_key_is_a_key(opened: Opened) -> None:
    async with opened() as store:
        await store.save_snapshot("k" * 600 + "1", "one")
        await store.save_snapshot("k" * 600 + "2", "two")
        assert await store.load_snapshot("k" * 600 + "1") == "one"


@pytest.mark.once
async def test_every_call_is_kept_by_default(opened: Opened) -> None:
    async with opened() as store:
        for number in range(5):
            await store.save_snapshot("key", f"{number}")
            assert await store.load_snapshot("key") == f"{number}"


@pytest.mark.once
async def test_with_a_bucket_size_of_n_every_nth_call_for_a_key_is_kept(opened: Opened) -> None:
    async with opened(snapshot_bucket_size=3) as store:
        kept = []
        for number in range(1, 8):
            await store.save_snapshot("key", f"{number}")
            await store.save_snapshot("other", f"{number}") if number > 5 else None
            kept.append(await store.load_snapshot("key"))
        assert kept == [None, None, "3", "3", "3", "6", "6"]
        assert await store.load_snapshot("other") is None
        await store.save_snapshot("other", "8")
        assert await store.load_snapshot("other") == "8"


@pytest.mark.parametrize("size", [0, -1])
@pytest.mark.once
async def test_a_bucket_has_at_least_one_place(new_url: NewUrl, size: int) -> None:
    with pytest.raises(UsageError):
        open_store(new_url(), snapshot_bucket_size=size)


@pytest.mark.once
async def test_snapshots_are_text(opened: Opened) -> None:
    wrong: Any = {"a": 1}
    async with opened() as store:
        with pytest.raises(UsageError, match="content"):
            await store.save_snapshot("key", wrong)
        for call in (store.load_snapshot, store.drop_snapshot):
            with pytest.raises(UsageError, match="key"):
                await call(wrong)


async def test_snapshots_outlive_the_store_object(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await store.save_snapshot("key", "content")
    async with open_store(url) as store:
        assert await store.load_snapshot("key") == "content"


# subscribers


async def registered(store: EventStore, *filters: str | None) -> list[tuple[Any, ...]]:
    return [
        (row.application_name, row.event_subscriber, row.destination, row.status)
        for row in await store.get_event_subscribers(*filters)
    ]


async def test_a_subscriber_is_registered_until_it_is_removed(opened: Opened) -> None:
    async with opened() as store:
        assert await store.get_event_subscribers() == []
        assert await store.ensure_event_subscriber("app", "model", {"queue": "q"}, {"state": "ok"}) is True
        assert await store.get_event_subscribers() == [
            Subscriber("app", "model", {"queue": "q"}, {"state": "ok"})
        ]
        await store.remove_event_subscriber("app", "model")
        assert await store.get_event_subscribers() == []
        await store.remove_event_subscriber("app", "model")


async def test_registering_again_replaces(opened: Opened) -> None:
    async with opened() as store:
        await store.ensure_event_subscriber("app", "model", "old", "ok")
        assert await store.ensure_event_subscriber("app", "model", "new") is True
        assert await registered(store) == [("app", "model", "new", None)]


async def test_an_update_changes_the_status_of_what_is_registered_and_nothing_else(opened: Opened) -> None:
    async with opened() as store:
        assert await store.ensure_event_subscriber("app", "model", status="ok", update_only=True) is False
        assert await registered(store) == []
        await store.ensure_event_subscriber("app", "model", {"at": 1}, "old")
        await store.ensure_event_subscriber("app", "other", {"at": 2}, "old")
        assert await store.ensure_event_subscriber("app", "model", status="new", update_only=True) is True
        assert await registered(store) == [
            ("app", "model", {"at": 1}, "new"),
            ("app", "other", {"at": 2}, "old"),
        ]


@pytest.mark.once
async def test_a_destination_goes_with_a_registration_and_not_with_an_update(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(UsageError):
            await store.ensure_event_subscriber("app", "model", status="ok")
        with pytest.raises(UsageError):
            await store.ensure_event_subscriber("app", "model", {"at": 1}, "ok", update_only=True)
        assert await registered(store) == []


async def test_the_registry_is_read_by_application_and_by_subscriber(opened: Opened) -> None:
    async with opened() as store:
        for application in ("app", "App", "other"):
            for subscriber in ("model", "saga"):
                await store.ensure_event_subscriber(application, subscriber, f"{application} {subscriber}")

        async def names(*filters: str | None) -> set[str]:
            return {destination for _, _, destination, _ in await registered(store, *filters)}

        assert len(await names()) == 6
        assert await names("app") == {"app model", "app saga"}
        assert await names(None, "saga") == {"app saga", "App saga", "other saga"}
        assert await names("other", "model") == {"other model"}
        assert await names("oth%", None) == set()
        await store.remove_event_subscriber("app", "saga")
        assert await names("app") == {"app model"}
        assert await names("App") == {"App model", "App saga"}


VALUES: list[Any] = [
    "text",
    "1",
    "",
    0,
    1,
    -7,
    1.5,
    True,
    False,
    [],
    {},
    {"a": [1, {"b": None}], "é": "😀"},
    3.141592653589793,
    1e300,
    12345678901234567890,
]


async def test_destination_and_status_are_any_json_values(opened: Opened) -> None:
    async with opened() as store:
        for value in VALUES:
            await store.ensure_event_subscriber("app", "model", value, value)
            await store.ensure_event_subscriber("app", "updated", "somewhere", None)
            await store.ensure_event_subscriber("app", "updated", status=value, update_only=True)
            rows = await registered(store)
            assert rows == [("app", "model", value, value), ("app", "updated", "somewhere", value)]
            for found in (rows[0][2], rows[0][3], rows[1][3]):
                assert isinstance(found, bool) == isinstance(value, bool)


@pytest.mark.once
async def test_what_is_no_json_value_is_refused(opened: Opened) -> None:
    async with opened() as store:
        for wrong in (float("nan"), {1, 2}, "\ud800"):
            with pytest.raises(InputError):
                await store.ensure_event_subscriber("app", "model", wrong)
            with pytest.raises(InputError):
                await store.ensure_event_subscriber("app", "model", "there", wrong)
        assert await registered(store) == []


# what describes events goes with them


async def test_an_import_takes_snapshots_and_subscribers_away_with_the_events_they_describe(
    opened: Opened,
) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        await store.save_snapshot("key", "content")
        await store.ensure_event_subscriber("app", "model", "there")
        await import_lines(store, make_lines(20))
        assert await store.load_snapshot("key") is None
        assert await store.get_event_subscribers() == []


async def test_an_import_that_fails_leaves_snapshots_and_subscribers(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(10))
        await store.save_snapshot("key", "content")
        await store.ensure_event_subscriber("app", "model", "there")
        before = await exported(store)
        with pytest.raises(InputError):
            await import_lines(store, make_lines(5) + b"{broken\n")
        with pytest.raises(InputError):
            await import_lines(store, [make_event(0), make_event(0)])
        with pytest.raises(EmptyInputError):
            await import_lines(store, b"")
        assert await exported(store) == before
        assert await store.load_snapshot("key") == "content"
        assert len(await store.get_event_subscribers()) == 1


async def test_saves_leave_snapshots_and_subscribers(opened: Opened) -> None:
    async with opened() as store:
        await store.save_snapshot("key", "content")
        await store.ensure_event_subscriber("app", "model", "there")
        await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        assert await store.load_snapshot("key") == "content"
        assert len(await store.get_event_subscribers()) == 1
