"""An owner that has lost its lock: whatever it goes on with touches nothing but its own."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pymysql.err import OperationalError

from eventferry import (
    AUTO,
    EventStore,
    NotFrozenError,
    Rule,
    Rules,
    StoreBusyError,
    StoreFrozenError,
    UnsupportedStoreError,
    check,
    open_store,
)
from eventferry.database import StageKind
from eventferry.databases.mysql import owners
from eventferry.databases.mysql.connection import Connection
from eventferry.databases.mysql.tables import quoted
from eventferry.importing.stream import ImportStream
from eventferry.state import erasures
from tests.support import exported, import_lines, line, make_event, make_lines
from tests.support.mysql import RESOLVE_FREEZE, Database, made_on
from tests.support.servers import FOLDER, MariaDb, new_server

OTHER = b"".join(
    line(make_event(i, aggregateId=f"other-{i % 7}", aggregateVersion=i + 1)) for i in range(700)
)
NEW = {"type": "T", "aggregateId": "new", "aggregateVersion": 1}


def kill_owner(database: Database, owner: str) -> None:
    """End the connection that holds an owner's lock, as a proxy does or a server that starts anew."""
    [(connection,)] = database.run(f"SELECT IS_USED_LOCK('eventferry-{owner}')")
    database.run(f"KILL {connection}")
    while database.run(f"SELECT IS_USED_LOCK('eventferry-{owner}')") != [(None,)]:
        time.sleep(0.01)


def kill_import(database: Database, stream: ImportStream) -> None:
    kill_owner(database, stream._target._owner.id)  # type: ignore[attr-defined]


async def begun(store: EventStore, lines: bytes, **options: Any) -> ImportStream:
    """An import that has staged these lines."""
    stream = store.import_events(**options)
    await stream.begin()
    await stream.write(lines)
    await stream._batches.commit()
    return stream


@contextmanager
def reading(database: Database) -> Iterator[Callable[[], None]]:
    """A reader that a swap waits for, until it is let go."""
    with closing(database.connect()) as connection, connection.cursor() as cursor:
        cursor.execute("START TRANSACTION")
        cursor.execute("SELECT COUNT(*) FROM events")
        yield lambda: cursor.execute("ROLLBACK") and None


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.02)


def renaming(database: Database) -> set[int]:
    """The connections that are about to rename the events: a marker gets its name by a RENAME too."""
    listed = "SELECT id FROM information_schema.processlist WHERE db = '{}' AND info LIKE 'RENAME%`events`%'"
    return {connection for (connection,) in database.run(listed.format(database.name))}


async def test_an_import_that_was_taken_for_dead_puts_nothing_into_the_stage_of_the_next(
    database: Database,
) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        first = await begun(store, make_lines(300))
        kill_import(database, first)
        second = await begun(other, OTHER[: OTHER.index(b"\n", 9000) + 1])
        await first.write(make_lines(700)[len(make_lines(300)) :])
        with pytest.raises(StoreBusyError, match="considered dead"):
            await first._batches.commit()
        await first.abort(StoreBusyError())
        await second.write(OTHER[second.byte_offset :])
        await second.close()
        assert await exported(store) == OTHER


@pytest.mark.slow
@pytest.mark.parametrize("freezes", [False, True], ids=["", "and freezes"])
async def test_an_event_saved_while_an_import_waits_to_replace_is_not_lost(
    database: Database, freezes: bool
) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        await import_lines(store, make_lines(5))
        stream = await begun(store, OTHER)
        with reading(database) as let_go:
            ending = asyncio.create_task(stream.close())
            await until(lambda: renaming(database))
            kill_import(database, stream)
            await other.save_event(NEW)
            if freezes:
                await other.freeze()
            let_go()
            with pytest.raises(StoreBusyError, match="nothing was replaced"):
                await ending
        assert (await exported(store)).startswith(make_lines(5))
        assert (await store.describe()).event_count == 6
        assert (await store.describe()).is_frozen is freezes


async def test_a_freeze_that_a_user_sets_while_a_freezing_import_waits_to_replace_stays(
    database: Database,
) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        await import_lines(store, make_lines(5))
        stream = await begun(store, OTHER, freeze=True)
        with reading(database) as let_go:
            ending = asyncio.create_task(stream.close())
            await until(lambda: renaming(database))
            await other.freeze()
            let_go()
            with pytest.raises(StoreBusyError, match="nothing was replaced"):
                await ending
        assert await exported(store) == make_lines(5)
        assert (await store.describe()).frozen_by == "user"


async def test_an_import_whose_connection_dies_while_it_replaces_still_replaces(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(5))
        stream = await begun(store, OTHER)
        with reading(database) as let_go:
            ending = asyncio.create_task(stream.close())
            killed: set[int] = set()
            while len(killed) < 2:
                # The server lists a connection for a while after it was killed.
                await until(lambda: renaming(database) - killed)
                for connection in renaming(database) - killed:
                    database.run(f"KILL {connection}")
                    killed.add(connection)
            let_go()
            assert (await ending).imported == 700
        assert await exported(store) == OTHER
        assert not (await store.describe()).is_frozen


async def test_an_answer_that_is_lost_when_the_events_are_replaced_is_no_failure(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = Connection.apart
    lost: list[str] = []

    def lose_the_answer(self: Connection, statement: str, values: Any = ()) -> list[tuple[Any, ...]]:
        rows = apart(self, statement, values)
        if statement.startswith("RENAME TABLE `events` ") and not lost:
            lost.append(statement)
            assert self._definitions is not None
            self._definitions.close()
            raise OperationalError(2013, "Lost connection to server during query")
        return rows

    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(5))
        monkeypatch.setattr(Connection, "apart", lose_the_answer)
        assert (await import_lines(store, OTHER)).imported == 700
        assert lost
        assert await exported(store) == OTHER
        assert not (await store.describe()).is_frozen


async def test_a_save_that_ends_a_dead_freeze_leaves_the_freeze_that_a_user_has_set_meanwhile(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_alive = owners.is_alive
    looks: list[str] = []

    async def freeze() -> None:
        async with open_store(database.url) as other:
            await other.freeze()

    def look_and_let_somebody_freeze(connection: Connection, owner: str) -> bool:
        found = is_alive(connection, owner)
        if not looks:
            looks.append(owner)
            thread = threading.Thread(target=asyncio.run, args=(freeze(),))
            thread.start()
            thread.join()
        return found

    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        export = other.export_events(maintenance_mode=AUTO)
        await export.begin()
        kill_owner(database, export._export._owner)  # type: ignore[arg-type]
        monkeypatch.setattr(owners, "is_alive", look_and_let_somebody_freeze)
        with pytest.raises(StoreFrozenError):
            await store.save_event(NEW)
        assert looks
        assert (await store.describe()).frozen_by == "user"
        await export.aclose()
        assert (await store.describe()).frozen_by == "user"
        await store.unfreeze()
        await store.save_event(NEW)


@pytest.mark.slow
async def test_of_many_who_resume_a_dead_import_at_once_one_does(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(9))
        for _ in range(6):
            dead = await begun(store, OTHER[: OTHER.index(b"\n", 9000) + 1])
            kill_import(database, dead)
            begin_together = asyncio.Barrier(3)

            async def resume() -> int:
                async with open_store(database.url) as other:
                    await begin_together.wait()  # noqa: B023
                    async with other.import_events(resume=True) as stream:
                        await stream.write(OTHER[stream.byte_offset :])
                        await asyncio.sleep(0.5)
                        return (await stream.close()).imported

            answers = await asyncio.gather(*(resume() for _ in range(3)), return_exceptions=True)
            assert sorted(map(str, map(type, answers))) == sorted(
                map(str, (int, StoreBusyError, StoreBusyError))
            ), answers
            assert await exported(store) == OTHER
            assert (await check(store)).sound
            await dead.abort(StoreBusyError())
            assert await exported(store) == OTHER
            await import_lines(store, make_lines(9))


async def test_an_import_that_was_adopted_can_neither_build_keys_nor_replace(database: Database) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        first = await begun(store, OTHER)
        kill_import(database, first)
        second = other.import_events(resume=True)
        await second.begin()
        assert second.byte_offset == len(OTHER)
        with pytest.raises(StoreBusyError, match="considered dead"):
            await first.close()
        assert (await store.describe()).event_count == 0
        await second.close()
        assert await exported(store) == OTHER


async def test_a_drop_whose_connection_dies_removes_no_store_that_was_made_since(database: Database) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        await import_lines(store, make_lines(9))
        with reading(database) as let_go:
            dropping = asyncio.create_task(store.drop())
            await until(lambda: renaming(database))
            [(_, marker)] = database.run("SHOW CREATE TABLE `events-freeze`")
            kill_owner(database, str(marker).partition("OWNER ''")[2][:12])
            await other.save_event(NEW)
            let_go()
            with pytest.raises(StoreBusyError):
                await dropping
        assert (await store.describe()).event_count == 10
        assert not (await store.describe()).is_frozen


async def test_a_freeze_that_resolve_has_set_and_ended_leaves_nothing_of_ours_in_the_way(
    database: Database,
) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await store.freeze()
        database.run("DROP TABLE `events-freeze`", RESOLVE_FREEZE)
        assert (await store.describe()).frozen_by == "user"
        await store.unfreeze()
        with pytest.raises(NotFrozenError):
            await store.unfreeze()
        await store.freeze()
        database.run("DROP TABLE `events-freeze`")
        await store.save_event(NEW)
        await import_lines(store, make_lines(3))
        assert not [name for name in database.tables() if "-mark-" in name]


class Folding(MariaDb):
    """A server as it is on Windows: names of tables are written in small letters."""

    def command(self) -> list[str]:
        return [*super().command(), "--lower-case-table-names=1"]


@pytest.mark.slow
async def test_a_server_that_writes_names_in_small_letters_finds_what_is_beside_the_events() -> None:
    server = new_server(Folding, Path(os.environ[FOLDER]) / f"mariadb-{secrets.token_hex(4)}")
    try:
        database = made_on(server.url("folding"))
        async with open_store(database.url, events_table_name="Orders") as store:
            await store.init()
            dead = await begun(store, make_lines(300))
            kill_import(database, dead)
            async with store.import_events(resume=True) as stream:
                assert stream.saved_events_count == 300
            await import_lines(store, make_lines(5))
            await store.drop()
        assert database.tables() == set()
    finally:
        server.kill()


def named(database: Database, events: str) -> EventStore:
    """A store beside others in one database."""
    return open_store(
        database.url,
        busy_timeout=5,
        events_table_name=events,
        snapshots_table_name=f"{events}_snap",
        secrets_table_name=f"{events}_secr",
        subscribers_table_name=f"{events}_subs",
    )


async def make_events(database: Database, name: str) -> str:
    """Nine events in a table that no store of ours can be told to have, but an older one or another program's can."""
    async with named(database, "made") as store:
        await store.init()
        await import_lines(store, make_lines(9))
        database.run(f"RENAME TABLE made TO `{name}`, `made-threads` TO `{name}-of-threads`")
        for kind in ("snap", "secr", "subs"):
            database.run(f"DROP TABLE made_{kind}")
    return name


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix",
    [
        "-stage-0123456789ab",
        "-heads-0123456789ab",
        "-steps-0123456789ab",
        "-mark-0123456789ab",
        "-merge-0123456789ab",
        "-old-0123456789ab-0",
        "-old-0123456789ab-7",
    ],
)
async def test_a_store_that_is_called_as_a_table_beside_another_stays_whole(
    database: Database, suffix: str
) -> None:
    name = await make_events(database, f"o{suffix}")
    async with named(database, "o") as store:
        await store.init()
        await import_lines(store, make_lines(5))
        await store.freeze()
        await store.unfreeze()
        await store.incremental_import([make_event(7)])
        await store.begin_incremental_import()
        await store.rollback_incremental_import()
        await store.drop()
    assert database.run(f"SELECT COUNT(*) FROM `{name}`") == [(9,)]


async def test_a_store_that_is_called_as_the_marker_of_another_is_taken_for_none(database: Database) -> None:
    names = [await make_events(database, name) for name in ("o-freeze", "o-incremental-import")]
    async with named(database, "o") as store:
        await store.init()
        await store.save_event(NEW)
        assert not (await store.describe()).is_frozen
        for refused, name in (
            (store.freeze, "o-freeze"),
            (lambda: import_lines(store, make_lines(5)), "o-freeze"),
            (store.begin_incremental_import, "o-incremental-import"),
        ):
            with pytest.raises(UnsupportedStoreError, match=f"the table '{name}'"):
                await refused()
        with pytest.raises(NotFrozenError):
            await store.unfreeze()
        await store.rollback_incremental_import()
        assert (await store.describe()).event_count == 1
    for name in names:
        assert database.run(f"SELECT COUNT(*) FROM `{name}`") == [(9,)]


@pytest.mark.parametrize("kind", ["replace", "parts", "merge", "open"])
async def test_a_reader_that_began_before_a_stage_was_removed_does_not_wait_for_it(
    database: Database, kind: StageKind
) -> None:
    async with open_store(database.url) as store, open_store(database.url) as other:
        await store.init()
        stream = await begun(store, OTHER)
        async with other._database.reading() as reading:
            await reading.heads()
            staged = [name for name in database.tables() if re.search("-[0-9a-f]{12}", name)]
            database.run(f"DROP TABLE {', '.join(map(quoted, staged))}")
            async with asyncio.timeout(5):
                assert await reading.stages(kind) == []
        await stream.abort(StoreBusyError())


async def test_a_reader_that_began_before_a_table_was_rebuilt_reads_what_is_in_it(database: Database) -> None:
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, make_lines(9))
        await store.erase(Rules(rules=(Rule(redact=("/number",)),)))
        async with store._database.reading() as reading:
            await reading.heads()
            database.run("ALTER TABLE `events-erasures` FORCE")
            assert len(await erasures.load(reading)) == 1
        assert len((await store.erased()).erasures) == 1
