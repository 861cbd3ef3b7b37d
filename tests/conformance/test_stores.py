"""The life of a store: init, drop, close, describe, freeze."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from unittest.mock import patch

import msgspec
import pytest

from eventferry import (
    AUTO,
    MANUAL,
    AlreadyFrozenError,
    Append,
    EventferryError,
    EventStore,
    InputError,
    NotFrozenError,
    Rule,
    Rules,
    StoreClosedError,
    StoreExistsError,
    StoreFrozenError,
    StoreNotFoundError,
    UsageError,
    archive,
    open_store,
    pipeline,
    recall,
)
from eventferry.database import OvertakenError
from tests.support import (
    LONG_AGO,
    NewUrl,
    Opened,
    all_pages,
    exported,
    import_lines,
    make_event,
    make_lines,
)

Use: TypeAlias = Callable[[EventStore], Awaitable[Any]]
NEW = {"type": "T", "aggregateId": "new", "aggregateVersion": 1}
INCREMENTAL = {"type": "T", "aggregateId": "new", "timestamp": LONG_AGO * 2}


async def import_secret(store: EventStore) -> None:
    async with store.import_secrets() as sink:
        await sink.write(b'{"secret":"s","id":"imported","idx":7}\n')


async def load_one(store: EventStore) -> None:
    loader = await store.get_event_loader(cursor=None)
    await loader.load_events(1)


async def drain(source: Any) -> None:
    async for _ in source:
        pass


ERASE = Rules(rules=(Rule(redact=("/name",)),))
NOWHERE = "/dev/null/repository"


async def bring_erasures(store: EventStore) -> None:
    async with open_store("sqlite://:memory:") as source:
        await source.init()
        await source.erase(ERASE)
        await store.bring_erasures(source)


async def sync_into(store: EventStore) -> None:
    async with open_store("sqlite://:memory:") as source:
        await source.init()
        await import_lines(source, make_lines(3))
        await store.sync(source)


READS: dict[str, Use] = {
    "describe": lambda store: store.describe(calculate_cursor=True),
    "load_events by cursor": lambda store: store.load_events(limit=10, cursor=None),
    "load_events by time": lambda store: store.load_events(limit=10, start_time=0),
    "get_latest_event": lambda store: store.get_latest_event(),
    "an event loader": load_one,
    "get_cursor_until_event_types": lambda store: store.get_cursor_until_event_types(None, ["T"]),
    "export_events": exported,
    "export_secrets": lambda store: drain(store.export_secrets()),
    "load_secrets": lambda store: store.load_secrets(limit=1),
    "get_secret": lambda store: store.get_secret("kept"),
    "gather_secrets_from_events": lambda store: store.gather_secrets_from_events([]),
    "load_snapshot": lambda store: store.load_snapshot("key"),
    "get_event_subscribers": lambda store: store.get_event_subscribers(),
}
WRITES_THAT_A_FREEZE_REFUSES: dict[str, Use] = {
    "save_event": lambda store: store.save_event(NEW),
    "append_events": lambda store: store.append_events("new", [{"type": "T"}]),
    "append_batches": lambda store: store.append_batches([Append("new", [{"type": "T"}], "none")]),
    "append_events, a key": lambda store: store.append_events("new", [{"type": "T"}], idempotency_key="k"),
    "erase": lambda store: store.erase(ERASE),
    "begin_import": lambda store: store.begin_import(),
    "import_events": lambda store: import_lines(store, make_lines(3)),
    "incremental_import": lambda store: store.incremental_import([INCREMENTAL]),
    "begin_incremental_import": lambda store: store.begin_incremental_import(),
    "set_secret": lambda store: store.set_secret("new", "secret"),
    "delete_secret": lambda store: store.delete_secret("kept"),
    "import_secrets": import_secret,
}
OTHER_WRITES: dict[str, Use] = {
    "freeze": lambda store: store.freeze(),
    "unfreeze": lambda store: store.unfreeze(),
    "import_events, MANUAL": lambda store: import_lines(store, make_lines(3), maintenance_mode=MANUAL),
    "export_events, AUTO": lambda store: exported(store, maintenance_mode=AUTO),
    "push_incremental_import": lambda store: store.push_incremental_import([INCREMENTAL], "some id"),
    "commit_incremental_import": lambda store: store.commit_incremental_import("some id"),
    "rollback_incremental_import": lambda store: store.rollback_incremental_import(),
    "save_snapshot": lambda store: store.save_snapshot("key", "content"),
    "drop_snapshot": lambda store: store.drop_snapshot("key"),
    "ensure_event_subscriber": lambda store: store.ensure_event_subscriber("app", "model", {}, {}),
    "remove_event_subscriber": lambda store: store.remove_event_subscriber("app", "model"),
    "drop": lambda store: store.drop(),
}
WRITES_BY_SOMETHING_ELSE: dict[str, Use] = {
    "push_import": lambda store: store.push_import("some id", "part", [make_lines(3)]),
    "commit_import": lambda store: store.commit_import("some id"),
    "rollback_import": lambda store: store.rollback_import(),
    "bring_erasures": bring_erasures,
    "archive": lambda store: archive(store, NOWHERE, until=0),
    "recall": lambda store: recall(store, NOWHERE),
}
"""What may write nothing, by what it is told: an open import, another store, a repository."""

EVERY_USE = READS | WRITES_THAT_A_FREEZE_REFUSES | OTHER_WRITES | WRITES_BY_SOMETHING_ELSE


async def refused(store: EventStore, error: type[EventferryError], name: str, use: Use) -> None:
    """One of several uses of one store must be refused; a failure says which."""
    try:
        await use(store)
    except error:
        return
    except Exception as other:
        other.add_note(f"instead of {error.__name__}: {name}")
        raise
    pytest.fail(f"not refused: {name}")


# init, drop, exists


async def test_a_new_store_is_empty(opened: Opened) -> None:
    async with opened() as store:
        assert await all_pages(store, 10) == []
        assert await exported(store) == b""
        assert await store.get_latest_event() is None


async def test_a_store_exists_from_init_to_drop(new_url: NewUrl) -> None:
    async with open_store(new_url()) as store:
        assert not await store.exists()
        await store.init()
        assert await store.exists()
        await store.drop()
        assert not await store.exists()


async def test_asking_whether_a_store_exists_makes_nothing(new_url: NewUrl) -> None:
    url = new_url()
    for _ in range(2):
        async with open_store(url) as store:
            assert not await store.exists()


async def test_opening_a_store_makes_nothing(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url):
        pass
    async with open_store(url) as store:
        assert not await store.exists()


async def test_what_was_saved_is_there_when_the_store_is_opened_again(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        saved = await store.save_event(NEW)
    async with open_store(url) as store:
        assert await all_pages(store, 10) == [saved.event]


async def test_init_of_a_store_that_is_there_is_refused_and_harms_nothing(opened: Opened) -> None:
    async with opened() as store:
        saved = await store.save_event(NEW)
        with pytest.raises(StoreExistsError):
            await store.init()
        assert await all_pages(store, 10) == [saved.event]


async def test_init_by_another_client_is_refused_too(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        with pytest.raises(StoreExistsError):
            await other.init()


async def test_of_many_that_init_a_store_at_once_one_succeeds(new_url: NewUrl) -> None:
    url = new_url()
    clients = [open_store(url) for _ in range(5)]
    results = await asyncio.gather(*(client.init() for client in clients), return_exceptions=True)
    assert [type(result) for result in results if result is not None] == [StoreExistsError] * 4
    await clients[0].save_event(NEW)
    for client in clients:
        await client.close()


async def test_drop_of_a_store_that_is_not_there_is_refused(new_url: NewUrl) -> None:
    async with open_store(new_url()) as store:
        with pytest.raises(StoreNotFoundError):
            await store.drop()


async def test_drop_of_a_store_that_was_dropped_is_refused(opened: Opened) -> None:
    async with opened() as store:
        await store.drop()
        with pytest.raises(StoreNotFoundError):
            await store.drop()


async def test_a_store_can_be_made_again_after_drop_and_is_empty(opened: Opened) -> None:
    async with opened() as store:
        await store.save_event(NEW)
        await store.set_secret("id", "secret")
        await store.save_snapshot("key", "content")
        await store.ensure_event_subscriber("app", "model", {}, {})
        await store.begin_incremental_import()
        await store.freeze()
        await store.drop()
        await store.init()
        description = await store.describe()
        assert description.event_count == description.secret_count == 0
        assert not description.is_frozen
        assert description.open_import is None
        assert await store.load_snapshot("key") is None
        assert await store.get_event_subscribers() == []


async def test_using_a_store_that_is_not_there_is_refused(new_url: NewUrl) -> None:
    async with open_store(new_url()) as store:
        for name, use in EVERY_USE.items():
            await refused(store, StoreNotFoundError, name, use)
            assert not await store.exists(), name


async def test_using_a_store_that_was_dropped_is_refused(opened: Opened) -> None:
    async with opened() as store:
        await store.drop()
        for name, use in EVERY_USE.items():
            await refused(store, StoreNotFoundError, name, use)


# close


@pytest.mark.once
async def test_closing_twice_is_fine(opened: Opened) -> None:
    async with opened() as store:
        await store.close()
        await store.close()


@pytest.mark.once
async def test_closing_a_store_that_never_connected_is_fine(new_url: NewUrl) -> None:
    await open_store(new_url()).close()


@pytest.mark.once
async def test_using_a_closed_store_is_refused_by_name(opened: Opened) -> None:
    every = EVERY_USE | {
        "init": lambda store: store.init(),
        "exists": lambda store: store.exists(),
        "sync": sync_into,
    }
    async with opened() as store:
        await store.close()
        for name, use in every.items():
            await refused(store, StoreClosedError, name, use)


@pytest.mark.once
async def test_an_event_loader_of_a_closed_store_says_so(opened: Opened) -> None:
    async with opened() as store:
        loader = await store.get_event_loader(cursor=None)
        await store.close()
        with pytest.raises(StoreClosedError):
            await loader.load_events(1)


@pytest.mark.once
async def test_an_export_of_a_store_closed_meanwhile_says_so(opened: Opened) -> None:
    async with opened() as store:
        await store.save_event(NEW)
        export = store.export_events()
        await store.close()
        with pytest.raises(StoreClosedError):
            await drain(export)


@pytest.mark.once
async def test_an_import_into_a_store_closed_meanwhile_says_so(opened: Opened) -> None:
    async with opened() as store:
        stream = store.import_events()
        await store.close()
        with pytest.raises(StoreClosedError):
            await stream.write(make_lines(1))


async def test_closing_one_client_leaves_another_working(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await store.save_event(NEW)
        assert len(await all_pages(other, 10)) == 1
        await store.close()
        await other.save_event(NEW | {"aggregateVersion": 2})
        assert len(await all_pages(other, 10)) == 2


# other table names

OTHER_NAMES: dict[str, Any] = {
    "events_table_name": "other-events",
    "snapshots_table_name": "other-snapshots",
    "secrets_table_name": "other-secrets",
    "subscribers_table_name": "other-subscribers",
}


async def test_two_stores_with_other_table_names_share_a_database_and_nothing_else(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as one, open_store(url, **OTHER_NAMES) as two:
        await one.init()
        assert not await two.exists()
        await two.init()
        saved = await one.save_event(NEW)
        await one.set_secret("id", "secret")
        await one.save_snapshot("key", "content")
        await one.ensure_event_subscriber("app", "model", {}, {})
        await one.begin_incremental_import()
        await one.freeze()

        description = await two.describe()
        assert description.event_count == description.secret_count == 0
        assert not description.is_frozen
        assert description.open_import is None
        assert await two.load_snapshot("key") is None
        assert await two.get_event_subscribers() == []

        same = await two.save_event(NEW | {"type": "OTHER"})
        assert same.event.aggregate_id == saved.event.aggregate_id
        await two.drop()
        assert await one.exists()
        assert (await one.describe()).event_count == 2  # with RESOLVE_SET_SECRET
        assert await one.get_secret("id") == "secret"


async def test_events_move_between_two_stores_in_one_database(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as one, open_store(url, **OTHER_NAMES) as two:
        await one.init()
        await two.init()
        await import_lines(one, make_lines(600))
        await pipeline(one.export_events(), two.import_events())
        await pipeline(one.export_events(), two.import_events())
        assert await exported(two) == await exported(one) == make_lines(600)


@pytest.mark.once
async def test_table_names_can_stand_in_the_url_as_well(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url, events_table_name="other-events") as store:
        await store.init()
        await store.save_event(NEW)
    async with open_store(f"{url}{'&' if '?' in url else '?'}events_table_name=other-events") as store:
        assert (await store.describe()).event_count == 1


@pytest.mark.parametrize(
    "name",
    [
        'a"b',
        "a`b",
        "größe",
        *(pytest.param(each, marks=pytest.mark.once) for each in ("a'b", "a b", "select")),
    ],
)
async def test_any_table_name_that_can_be_quoted_works(new_url: NewUrl, name: str) -> None:
    async with open_store(new_url(), events_table_name=name) as store:
        await store.init()
        await store.save_event(NEW)
        await import_lines(store, make_lines(10))
        await store.freeze()
        await store.unfreeze()
        await store.incremental_import([INCREMENTAL])
        for _ in range(2):
            await store.append_events("appended", [{"type": "T"}], idempotency_key="k")
        assert len((await store.load_aggregate("appended")).events) == 1
        assert len(await all_pages(store, 3)) == 12
        await store.drop()


@pytest.mark.once
@pytest.mark.parametrize(
    "suffix",
    [
        "freeze",
        "FREEZE",
        "threads",
        "appends",
        "incremental-import",
        "stage-0123456789ab",
        "steps-0123456789ab",
        "heads-0123456789ab",
        "merge-0123456789ab",
        "merge-0123456789abcdef",
        "old-0123456789ab-1",
    ],
)
@pytest.mark.parametrize("table", ["events", "snapshots", "secrets", "subscribers"])
async def test_no_table_can_be_called_as_what_stands_beside_another_store(
    new_url: NewUrl, table: str, suffix: str
) -> None:
    options: dict[str, Any] = {f"{table}_table_name": f"orders-{suffix}"}
    with pytest.raises(UsageError, match="of its own"):
        open_store(new_url(), **options)


NEIGHBOURS = (
    "orders-import",
    "orders-import-progress",
    "orders-old",
    "orders-stage",
    "orders-steps",
    "orders-merge-done",
)


async def test_stores_with_names_that_begin_alike_do_each_other_no_harm(new_url: NewUrl) -> None:
    def named(name: str) -> dict[str, Any]:
        return {
            f"{table}_table_name": name if table == "events" else f"{name}-{table}"
            for table in ("events", "snapshots", "secrets", "subscribers")
        }

    url = new_url()
    for neighbour in NEIGHBOURS:
        async with open_store(url, **named(neighbour)) as store:
            await store.init()
            await import_lines(store, make_lines(3))
    async with open_store(url, **named("orders")) as store:
        await store.init()
        await import_lines(store, make_lines(5))
        await store.freeze()
        await store.unfreeze()
        await store.incremental_import([INCREMENTAL])
        await store.rollback_incremental_import(await store.begin_incremental_import())
        with pytest.raises(InputError):
            await import_lines(store, b"nonsense")
        await store.drop()
    for neighbour in NEIGHBOURS:
        async with open_store(url, **named(neighbour)) as store:
            assert await exported(store) == make_lines(3)


@pytest.mark.once
async def test_an_option_that_does_not_exist_is_refused_by_name(new_url: NewUrl) -> None:
    with pytest.raises(UsageError, match="no_such_option"):
        open_store(new_url(), no_such_option=1)


async def test_a_url_of_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(UsageError):
        open_store("gopher://localhost/events")


# describe


async def test_describe_of_a_new_store_is_all_zeros(opened: Opened) -> None:
    async with opened() as store:
        description = await store.describe()
        assert description.event_count == 0
        assert description.secret_count == 0
        assert description.set_secret_count == 0
        assert description.deleted_secret_count == 0
        assert description.last_event_timestamp == 0
        assert description.is_frozen is False
        assert description.frozen_by is None
        assert description.frozen_since is None
        assert description.open_import is None
        assert description.cursor is None


async def test_describe_counts_events_and_gives_the_highest_timestamp(opened: Opened) -> None:
    async with opened() as store:
        lines = [make_event(0, timestamp=50), make_event(1, timestamp=70), make_event(2, timestamp=60)]
        await import_lines(store, lines)
        description = await store.describe()
        assert description.event_count == 3
        assert description.last_event_timestamp == 70


async def test_describe_counts_secrets_set_and_deleted(opened: Opened) -> None:
    async with opened() as store:
        for name in ("a", "b", "c"):
            await store.set_secret(name, "secret")
        await store.delete_secret("b")
        description = await store.describe()
        assert description.secret_count == 3
        assert description.set_secret_count == 2
        assert description.deleted_secret_count == 1
        assert description.event_count == 4


@pytest.mark.once
async def test_describe_gives_the_cursor_at_the_end_if_asked_for(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(600))
        description = await store.describe(calculate_cursor=True)
        page = await store.load_events(limit=1000, cursor=None)
        assert description.cursor == page.cursor
        assert (await store.load_events(limit=1, cursor=description.cursor)).events == []


@pytest.mark.once
async def test_the_cursor_of_an_empty_store_is_the_zero_cursor(opened: Opened) -> None:
    async with opened() as store:
        assert (await store.describe(calculate_cursor=True)).cursor == "A" * 2048


async def test_describe_may_estimate_the_counts(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(100))
        assert (await store.describe(estimate_counts=True)).event_count >= 0


async def test_describe_says_who_froze_the_store_and_since_when(opened: Opened) -> None:
    async with opened() as store:
        before = (await store.save_event(NEW)).event.timestamp
        await store.freeze()
        description = await store.describe()
        after = before + 600_000
        assert description.is_frozen is True
        assert description.frozen_by == "user"
        assert description.frozen_since is not None
        assert before <= description.frozen_since <= after


async def test_describe_says_that_an_operation_froze_the_store(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(3))
        async with store.import_events(freeze=True) as stream:
            await stream.write(make_lines(3))
            description = await store.describe()
            assert description.is_frozen is True
            assert description.frozen_by == "operation"
        assert not (await store.describe()).is_frozen


async def test_describe_names_the_open_import_and_since_when(opened: Opened) -> None:
    async with opened() as store:
        before = (await store.save_event(NEW)).event.timestamp
        import_id = await store.begin_incremental_import()
        description = await store.describe()
        assert description.open_import is not None
        assert description.open_import.id == import_id
        assert description.open_import.since is not None
        assert before <= description.open_import.since <= before + 600_000


async def test_describe_says_where_the_store_is(opened: Opened) -> None:
    async with opened() as store:
        names = (await store.describe()).resource_names
        assert names
        assert "events" in names.values()


@pytest.mark.once
async def test_a_description_becomes_json_with_the_names_that_resolve_uses(opened: Opened) -> None:
    async with opened() as store:
        await store.freeze()
        written = msgspec.json.decode(msgspec.json.encode(await store.describe(calculate_cursor=True)))
        assert written | {"resourceNames": {}, "frozenSince": 0} == {
            "eventCount": 0,
            "secretCount": 0,
            "setSecretCount": 0,
            "deletedSecretCount": 0,
            "lastEventTimestamp": 0,
            "isFrozen": True,
            "resourceNames": {},
            "frozenBy": "user",
            "frozenSince": 0,
            "openImport": None,
            "partsImport": None,
            "cursor": "A" * 2048,
        }


# freeze


async def test_freeze_of_a_frozen_store_is_refused(opened: Opened) -> None:
    async with opened() as store:
        await store.freeze()
        with pytest.raises(AlreadyFrozenError):
            await store.freeze()
        assert (await store.describe()).is_frozen


async def test_unfreeze_of_a_store_that_is_not_frozen_is_refused(opened: Opened) -> None:
    async with opened() as store:
        with pytest.raises(NotFrozenError):
            await store.unfreeze()


async def test_unfreeze_lets_writes_in_again(opened: Opened) -> None:
    async with opened() as store:
        await store.freeze()
        await store.unfreeze()
        await store.save_event(NEW)
        with pytest.raises(NotFrozenError):
            await store.unfreeze()


async def test_of_many_that_freeze_a_store_at_once_one_succeeds(opened: Opened) -> None:
    async with opened() as store:
        results = await asyncio.gather(*(store.freeze() for _ in range(5)), return_exceptions=True)
        assert [type(result) for result in results if result is not None] == [AlreadyFrozenError] * 4


async def test_a_freeze_outlives_the_client_that_set_it(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store:
        await store.init()
        await store.freeze()
    async with open_store(url) as store:
        with pytest.raises(StoreFrozenError):
            await store.save_event(NEW)


async def test_a_freeze_by_one_client_stops_the_writes_of_another(new_url: NewUrl) -> None:
    url = new_url()
    async with open_store(url) as store, open_store(url) as other:
        await store.init()
        await other.save_event(NEW)
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await other.save_event(NEW | {"aggregateVersion": 2})
        await store.unfreeze()
        await other.save_event(NEW | {"aggregateVersion": 2})


async def test_a_frozen_store_refuses_by_name(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, [make_event(i, type="T") for i in range(5)])
        await store.set_secret("kept", "secret")
        before = await exported(store)
        await store.freeze()
        for name, use in WRITES_THAT_A_FREEZE_REFUSES.items():
            await refused(store, StoreFrozenError, name, use)
            assert await exported(store) == before, name
        assert await store.get_secret("kept") == "secret"
        assert [secret.id for secret in (await store.load_secrets(limit=10)).secrets] == ["kept"]
        description = await store.describe()
        assert description.is_frozen
        assert description.open_import is None


@pytest.mark.once
async def test_a_frozen_store_refuses_a_push_and_takes_it_after_unfreeze(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await store.push_incremental_import([INCREMENTAL], import_id)
        await store.unfreeze()
        await store.push_incremental_import([INCREMENTAL], import_id)
        assert (await store.commit_incremental_import(import_id)).imported == 1


@pytest.mark.once
async def test_a_frozen_store_refuses_a_commit_and_takes_it_after_unfreeze(opened: Opened) -> None:
    async with opened() as store:
        import_id = await store.begin_incremental_import()
        await store.push_incremental_import([INCREMENTAL], import_id)
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await store.commit_incremental_import(import_id)
        assert await exported(store) == b""
        await store.unfreeze()
        assert (await store.commit_incremental_import(import_id)).imported == 1


async def test_an_import_under_way_cannot_replace_a_store_frozen_meanwhile(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(3))
        stream = store.import_events()
        await stream.write(make_lines(5))
        await store.freeze()
        with pytest.raises(StoreFrozenError):
            await stream.close()
        assert await exported(store) == make_lines(3)


@pytest.mark.once
async def test_a_frozen_store_allows_rollback_of_the_open_import(opened: Opened) -> None:
    async with opened() as store:
        await store.begin_incremental_import()
        await store.freeze()
        await store.rollback_incremental_import()
        description = await store.describe()
        assert description.open_import is None
        assert description.is_frozen


@pytest.mark.once
async def test_a_frozen_store_allows_a_manual_import_and_stays_frozen(opened: Opened) -> None:
    async with opened() as store:
        await store.freeze()
        report = await import_lines(store, make_lines(10), maintenance_mode=MANUAL)
        assert report.imported == 10
        assert await exported(store) == make_lines(10)
        assert (await store.describe()).is_frozen


async def test_a_frozen_store_can_be_read(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(5))
        await store.freeze()
        for use in READS.values():
            await use(store)


@pytest.mark.once
async def test_an_export_that_freezes_lets_go_at_its_end(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(5))
        export = store.export_events(maintenance_mode=AUTO)
        await anext(export)
        assert (await store.describe()).frozen_by == "operation"
        with pytest.raises(StoreFrozenError):
            await store.save_event(NEW)
        await drain(export)
        assert not (await store.describe()).is_frozen


@pytest.mark.once
async def test_an_export_that_freezes_lets_go_when_it_is_given_up(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(5))
        async with store.export_events(maintenance_mode=AUTO) as export:
            await anext(export)
        assert not (await store.describe()).is_frozen


@pytest.mark.once
async def test_an_export_leaves_a_store_frozen_that_someone_else_froze(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(5))
        await store.freeze()
        assert await exported(store, maintenance_mode=AUTO) == make_lines(5)
        assert (await store.describe()).frozen_by == "user"


@pytest.mark.once
async def test_a_freeze_by_a_user_takes_over_that_of_a_running_export(opened: Opened) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(5))
        export = store.export_events(maintenance_mode=AUTO)
        await anext(export)
        await store.freeze()
        await drain(export)
        assert (await store.describe()).frozen_by == "user"


@pytest.mark.once
@pytest.mark.parametrize("attempts", [1, 9])
async def test_a_change_of_the_freeze_that_another_node_has_undone_is_made_again(
    opened: Opened, attempts: int
) -> None:
    async with opened() as store:
        await import_lines(store, make_lines(5))
        database, left = store._database, 0
        original = database.writing

        @asynccontextmanager
        async def undone(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            nonlocal left
            async with original(*args, **kwargs) as writing:
                yield writing
                if left:
                    left -= 1
                    raise OvertakenError("another node came first")

        with patch.object(database, "writing", undone):
            for change, by in (store.freeze, "user"), (store.unfreeze, None):
                left = attempts
                await change()
                assert (await store.describe()).frozen_by == by
            left = 1
            async with store.export_events(maintenance_mode=AUTO) as stream:
                await anext(stream)
                assert (await store.describe()).frozen_by == "operation"
                left = attempts
            assert (await store.describe()).frozen_by is None
