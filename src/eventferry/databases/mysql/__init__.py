"""A store in a MySQL or MariaDB database."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from pymysql.err import MySQLError

from eventferry.database import First, Frozen, Save, Saved, Traits, WritingKind
from eventferry.databases.mysql import cluster, markers, owners
from eventferry.databases.mysql import tables as ddl
from eventferry.databases.mysql.cluster import Hold, changed_threads
from eventferry.databases.mysql.connection import (
    BROKEN,
    DEADLOCK,
    KEY_EXISTS,
    LOCK_TIMEOUT,
    NO_KEY,
    Access,
    Connection,
    number_of,
)
from eventferry.databases.mysql.foreign import MysqlTables
from eventferry.databases.mysql.markers import FREEZE, freeze_of
from eventferry.databases.mysql.merge import MysqlExclusiveWriting
from eventferry.databases.mysql.optionfile import read_options
from eventferry.databases.mysql.reading import MysqlReading, Paces
from eventferry.databases.mysql.save import BEGIN, Saver, store
from eventferry.databases.mysql.shape import Shape, read_shape
from eventferry.databases.mysql.stage import MysqlWriting, store_comment
from eventferry.databases.mysql.swap import MysqlReplacing
from eventferry.databases.mysql.tables import Names, quoted
from eventferry.databases.names import Tables, comment, fact, new_owner, not_a_view
from eventferry.databases.server import ServerDatabase
from eventferry.databases.settings import full_path, seconds, whole_number
from eventferry.errors import (
    ConcurrentError,
    StoreBusyError,
    StoreExistsError,
    StoreFrozenError,
    StoreNotFoundError,
    StoreUnreachableError,
    UnsupportedStoreError,
    UsageError,
)
from eventferry.lifecycle import to_the_end
from eventferry.lines.limits import check_limits

T = TypeVar("T")
W = TypeVar("W", bound=MysqlWriting)
X = TypeVar("X", bound=MysqlExclusiveWriting)

_SWAP_STEP = 0.02
_TLS = ("ssl_ca", "ssl_cert", "ssl_key")
_SHAPES = 8


def open_url(address: str, tables: Tables, settings: dict[str, Any]) -> Callable[[], MysqlDatabase]:
    """A store in a database: mysql://user:password@host:port/database."""
    ddl.check_names(tables)
    access = _access(address, settings, tables.events)
    return partial(MysqlDatabase, access, Names(tables), whole_number(settings, "max_connections", 8))


def open_foreign(address: str, settings: dict[str, Any]) -> MysqlTables:
    """Another product's tables in a database."""
    access = _access(address, settings, "")
    return MysqlTables(access, whole_number(settings, "max_connections", 8))


def _access(address: str, settings: dict[str, Any], events: str) -> Access:
    """How to get to a database, and by which name the table `events` in it is locked."""
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise UsageError("the address of a MySQL store has no whole number as its port") from None
    database = unquote(parts.path[1:])
    if not database or "/" in database:
        raise UsageError(
            "the address of a MySQL store ends in the name of a database, without a / in it: mysql://host/database"
        )
    path = settings.pop("read_default_file", None)
    file = {} if path is None else read_options(str(path))
    host, unix_socket = unquote(parts.hostname or ""), settings.pop("unix_socket", None)
    if not host:
        unix_socket = unix_socket or file.get("socket")
    options: dict[str, Any] = {
        "host": host or file.get("host"),
        "port": port or whole_number({"port": file.get("port") or "3306"}, "port", 3306),
        "user": unquote(parts.username or "") or file.get("user"),
        "connect_timeout": max(1, round(seconds(settings, "connect_timeout", 10.0))),
    }
    if unix_socket:
        options["unix_socket"] = full_path(str(unix_socket))
    password = unquote(parts.password) if parts.password else file.get("password")
    if password is None and path is None:
        password = os.environ.get("MYSQL_PWD")
    if password is not None:
        options["password"] = password.encode()  # as text, PyMySQL would take it for Latin-1
    for name in _TLS:
        if name not in settings and (value := file.get(name.replace("_", "-"))):
            settings[name] = value
    options |= _tls(settings, is_here="unix_socket" in options or _is_here(options["host"]))
    # Locks have names of 64 characters for the whole server.
    store = hashlib.sha256(f"{database}/{events}".encode()).hexdigest()[:24]
    return Access(
        options,
        database,
        place=f"{unix_socket or options['host'] or 'localhost'}:{options['port']}/{database}",
        lock=f"eventferry-{store}",
        busy_timeout=seconds(settings, "busy_timeout", 60.0),
        read_timeout=seconds(settings, "read_timeout", 0.0),
        keepalive=whole_number(settings, "keepalive", 30),
    )


def _is_here(host: str | None) -> bool:
    """Whether a host is this machine: what is sent there passes no network."""
    if host is None or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _tls(settings: dict[str, Any], *, is_here: bool) -> dict[str, Any]:
    """The options for TLS. With a certificate authority the server's certificate and name are checked. Another machine
    must have TLS in any case, unless it is said that it need not."""
    options: dict[str, Any] = {name: full_path(str(settings.pop(name))) for name in _TLS if name in settings}
    verify = settings.pop("ssl_verify", None)
    if verify not in (None, "identity", "ca", "none", "off"):
        raise UsageError(
            f"ssl_verify is identity, ca, none (TLS all the same) or off (no TLS), not {verify!r}"
        )
    if verify == "off":
        return {"ssl_disabled": True}
    if verify == "none":
        ssl = {"verify_mode": "none", "check_hostname": False}
        return {"demands_tls": True, "ssl": ssl | {name[4:]: file for name, file in options.items()}}
    if options or verify is not None:
        options |= {"ssl_verify_cert": True, "ssl_verify_identity": verify != "ca"}
    return options | {"demands_tls": bool(options) or not is_here}


class MysqlDatabase(ServerDatabase[Connection]):
    """The tables of one store in one database; `size` connections at most work at once."""

    def __init__(self, access: Access, names: Names, size: int) -> None:
        connect = partial(Connection.opened, access, access.database)
        super().__init__(access.place, connect, size, owners.NamedLocks(), access.busy_timeout)
        self._access = access
        self._names = names
        self._tables = names.tables
        self._paces = Paces()
        self._shapes: dict[str, Shape] = {}
        self._shape: Shape | None = None

    @property
    def traits(self) -> Traits:
        options = self._access.options
        names = {
            "host": str(options.get("unix_socket") or options["host"] or "localhost"),
            "port": str(options["port"]),
            "database": self._access.database,
        }
        return Traits(names | self._tables.resource_names, saves_at_once=1)

    @asynccontextmanager
    async def _begun(self, begin: Callable[[Connection], T]) -> AsyncIterator[T]:
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(self._pool.connection())
            try:
                begun = await connection.run(partial(begin, connection))
            except StoreUnreachableError as error:
                if not self._was_connected(error):
                    raise
                # It broke while nobody used it; nothing was sent, and the others are no better.
                await stack.aclose()
                await self._pool.forget_idle()
                connection = await stack.enter_async_context(self._pool.connection())
                begun = await connection.run(partial(begin, connection))
            yield begun

    def _enter(self, connection: Connection, begin: Sequence[str]) -> tuple[tuple[Any, ...], str | None]:
        """Begin a transaction: what a reading has, and the comment of the freeze marker. For the worker thread."""
        tables = self._tables
        names = {"database": self._access.database, "events": tables.events, "freeze": tables.freeze}
        statements = [
            *begin,
            f"SELECT 1 FROM {quoted(tables.events)} LIMIT 1",
            """SELECT table_comment, create_time, table_type FROM information_schema.tables
            WHERE table_schema = %(database)s AND table_name = %(events)s""",
            FREEZE,
        ]
        *_, [(text, created, kind)], marker = connection.sent(connection.packets(statements, names))
        if kind == "VIEW":
            raise not_a_view(self._place, tables.events)
        our_id = fact(text, "STORE", "id")
        identity = our_id or f"made {created}"
        shape = self._shapes.get(identity)
        if shape is None:
            shape = read_shape(connection, tables, is_ours=our_id is not None)
            if len(self._shapes) == _SHAPES:
                self._shapes.clear()
            self._shapes[identity] = shape
        self._shape = shape  # another thread may set another one
        return (connection, self._names, shape, identity, self._paces), marker[0][0] if marker else None

    @asynccontextmanager
    async def reading(self, first: First | None = None) -> AsyncIterator[MysqlReading]:
        async with self._begun(self._begin_reading) as reading:
            try:
                yield reading
            finally:
                await reading.connection.run(reading.undo)

    def _begin_reading(self, connection: Connection) -> MysqlReading:
        # Without a snapshot of its own: the look at the events keeps them from being replaced, and takes it. MySQL
        # shows the comments of a snapshot, so one taken before would show the former store's beside the new events.
        begin = ["START TRANSACTION READ ONLY"]
        try:
            # On a cluster a swap undoes whoever reads.
            reading, _ = connection.patiently(partial(self._enter, connection, begin))
        except BaseException:
            connection.roll_back()
            raise
        return MysqlReading(*reading)

    def writing(
        self, kind: WritingKind = "shared", *, frozen: Frozen = "refuse", secrets: bool = False
    ) -> AbstractAsyncContextManager[Any]:
        if kind == "shared":
            return self._writing(MysqlWriting, self._begin_writing, secrets=secrets)
        if kind == "repeatable":
            return self._writing(MysqlExclusiveWriting, self._begin_writing, secrets=secrets)
        alone = MysqlExclusiveWriting if kind == "exclusive" else MysqlReplacing
        return self._writing(alone, self._begin_held, secrets=secrets)

    @asynccontextmanager
    async def _writing(
        self, kind: type[W], begin: Callable[[type[W], Connection], W], *, secrets: bool = False
    ) -> AsyncIterator[W]:
        await self._refuse_part()
        async with self._begun(partial(begin, kind)) as writing:
            try:
                if secrets:
                    await writing.connection.run(partial(writing.keep_out, "secrets"))
                yield writing
            except BaseException:
                await writing.connection.run(writing.undo)
                raise
            await writing.connection.run(writing.commit)

    def _begin_held(self, kind: type[X], connection: Connection) -> X:
        """On a cluster, keep out whoever would save on another node meanwhile: a save there would undo this."""
        if connection.node is None:
            return self._begin_writing(kind, connection)
        try:
            hold = self._hold(connection, connection.node)
        except BaseException:
            connection.end()
            raise
        if hold is None:
            return self._begin_writing(kind, connection)
        try:
            writing = self._begin_writing(kind, connection, hold)
        except BaseException:
            hold.release()
            raise
        writing.keep(hold)
        return writing

    def _hold(self, connection: Connection, node: str) -> Hold | None:
        """Set a marker for which all writers wait, on all nodes. None where the store is frozen: who may write there
        waits for none."""
        deadline = time.monotonic() + self._access.busy_timeout
        connection.query(f"SELECT 1 FROM {quoted(self._tables.events)} LIMIT 1")  # is there a store at all?
        hold = cluster.new_hold(connection, node, self._names)
        while True:
            text = markers.comment_of(connection, self._tables.freeze)
            if text is not None and (freeze_of(text) is not None or not ddl.is_marker(text)):
                return None
            if self._is_swapped(connection, text, deadline):
                self._wait_for_swap(connection, deadline)
            elif markers.put(connection, self._names, "marker", hold.marker) is not None:
                # Whoever had looked for the marker before is undone by this, or before it, and looks again.
                barrier = connection.packets([*self._begin_alone(connection), "COMMIT"], ())
                connection.patiently(partial(connection.sent, barrier))
                return hold

    def _begin_writing(self, kind: type[W], connection: Connection, hold: Hold | None = None) -> W:
        begin = BEGIN if kind is MysqlWriting else self._begin_alone(connection)
        deadline = time.monotonic() + self._access.busy_timeout
        while True:
            try:
                if kind is MysqlWriting:
                    connection.hold_off_freezes()
                reading, marker = connection.patiently(partial(self._enter, connection, begin))
                if not self._is_swapped(connection, marker, deadline, hold):
                    return kind(*reading, freeze=freeze_of(marker))
            except BaseException:
                connection.roll_back()
                connection.end()
                raise
            connection.roll_back()
            connection.end()
            self._wait_for_swap(connection, deadline)

    def _wait_for_swap(self, connection: Connection, deadline: float) -> None:
        if time.monotonic() >= deadline or connection.given_up:
            raise StoreBusyError(f"the events in {self._place} are being replaced")
        time.sleep(_SWAP_STEP)

    def _is_swapped(
        self, connection: Connection, text: str | None, deadline: float, hold: Hold | None = None
    ) -> bool:
        """Whether the marker is that of a swap, or a hold that is not ours, which whoever writes waits for. One whose
        owner is dead is moved out of the way: then nothing is swapped any more. So is one of another node at the
        deadline, for whether its owner lives is not known here; what it was set for fails then."""
        found = markers.marker(self._tables.freeze, text)
        if found is None or freeze_of(text) is not None or found == (hold and hold.marker):
            return False
        is_alive = found.owner is None or owners.is_alive(connection, found.owner)
        if is_alive and not (
            time.monotonic() >= deadline and cluster.lives_elsewhere(connection, found.owner)
        ):
            return True
        if (change := markers.take(connection, self._names, found)) is None:
            return True  # somebody was quicker, and another marker may stand there
        change.finish()
        return False

    def _begin_alone(self, connection: Connection) -> Sequence[str]:
        # In order of the threads, as everybody does: nobody waits for one who waits for him.
        alone = *BEGIN, f"SELECT COUNT(threadCounter) FROM {quoted(self._names.threads)} FOR UPDATE"
        return alone if connection.node is None else (*alone, *changed_threads(self._names.threads))

    async def create(self) -> None:
        try:
            async with self._begun(self._create):
                return
        except StoreNotFoundError:
            create = f"CREATE DATABASE IF NOT EXISTS {quoted(self._access.database)}"
        with self.life.running():
            connection = await Connection.opened(self._access, None)
            try:
                await connection.run(lambda: connection.execute(create))
            finally:
                await to_the_end(connection.close())
        async with self._begun(self._create):
            return

    def _create(self, connection: Connection) -> None:
        """Make the tables under other names, then rename all at once: a crash leaves a store or none."""
        tables, token = self._tables, new_owner()
        fresh, made = self._names.aside(token), comment("MADE", id=token)
        kinds = {
            tables.events: ("events", store_comment(token)),
            self._names.threads: ("threads", ""),
            tables.snapshots: ("snapshots", made),
            tables.subscribers: ("subscribers", made),
            tables.secrets: ("secrets", ""),
        }
        for name in kinds:
            if markers.comment_of(connection, name) is not None:
                raise StoreExistsError(f"{self._place} has a table {name!r} already")
        try:
            for name, (kind, text) in kinds.items():
                connection.make(kind, fresh[name], text)
            connection.insert(
                f"INSERT INTO {quoted(fresh[self._names.threads])} VALUES ",
                ((thread, 0) for thread in range(256)),
            )
            renames = {fresh[name]: name for name in kinds}
            if not connection.rename(renames, shows=(tables.events, store_comment(token))):
                raise StoreExistsError(f"{self._place} has a table {tables.events!r} already")
        except BaseException:
            markers.drop(connection, *(fresh[name] for name in kinds))
            raise
        finally:
            connection.end()

    async def upgrade(self) -> list[str]:
        if await self._has_order():
            return []
        async with self._pool.connection() as connection:
            is_added = await connection.run(partial(self._add_order, connection))
        self._shapes.clear()
        if is_added:
            return ["order"]
        if await self._has_order():  # somebody else has added it, or replaced the events
            return []
        raise UnsupportedStoreError(
            f"the table {self._tables.events!r} in {self._place} has a key 'order' on other columns than "
            f"{', '.join(ddl.ORDER)}: give it another name first"
        )

    def _add_order(self, connection: Connection) -> bool:
        try:
            connection.apart(f"ALTER TABLE {quoted(self._tables.events)} ADD {ddl.ORDER_KEY}")
        except MySQLError as error:
            if number_of(error) != KEY_EXISTS:
                raise
            return False
        finally:
            connection.end()
        return True

    async def _has_order(self) -> bool:
        async with self._writing(MysqlExclusiveWriting, self._begin_writing) as writing:
            return writing.shape.order_key is not None

    async def _check_limits(self, save: Save) -> None:
        shape = self._shape
        if shape is None:
            async with self.reading() as reading:
                shape = reading.shape
        limits = shape.limits(self._access.max_packet)
        for event in save.events:
            check_limits(limits, event.aggregate_id, event.type, event.payload)

    async def _save_one(self, save: Save) -> Saved:
        async with self._pool.connection() as connection:
            return await connection.run(partial(self._store_one, connection, save))

    async def _save_group(self, saves: Sequence[Save]) -> list[Saved | None]:
        async with self._pool.connection() as connection:
            return await connection.run(partial(self._store_group, connection, saves))

    async def _look_up(self, save: Save) -> Saved | None:
        async with self._pool.connection() as connection:
            return await connection.run(lambda: self._saver(connection, save).stored(connection))

    def _store_group(self, connection: Connection, saves: Sequence[Save]) -> list[Saved | None]:
        savers = [self._saver(connection, save) for save in saves]
        try:
            return store(connection, self._names, [(saver, saver.preferred) for saver in savers])
        except MySQLError as error:
            # Because of which event is found out one by one.
            if number_of(error) in (*BROKEN, LOCK_TIMEOUT):
                raise
            return [None] * len(saves)
        finally:
            connection.roll_back()
            connection.end()

    def _saver(self, connection: Connection, save: Save) -> Saver:
        return Saver(self._names, self._known_shape(connection), save, self._access.database)

    def _known_shape(self, connection: Connection) -> Shape:
        shape = self._shape
        if shape is None:
            shape = self._begin_reading(connection).shape
            connection.roll_back()
        return shape

    def _store_one(self, connection: Connection, save: Save) -> Saved:
        shape = self._known_shape(connection)
        saver = self._saver(connection, save)
        place = saver.preferred
        deadline = time.monotonic() + self._access.busy_timeout
        try:
            while True:
                try:
                    [saved] = store(connection, self._names, [(saver, place)])
                except MySQLError as error:
                    connection.roll_back()
                    number = number_of(error)
                    if number == NO_KEY and shape.is_ours:
                        # Somebody has put a foreign table in the place of ours.
                        self._shape = None
                        return self._store_one(connection, save)
                    if number in (DEADLOCK, LOCK_TIMEOUT) and time.monotonic() < deadline:
                        if number == LOCK_TIMEOUT:  # at once, on a node that has just lost the others
                            time.sleep(_SWAP_STEP)
                        continue
                    raise saver.refusal(connection, place, error) from None
                if saved is not None:
                    return saved
                # On a cluster a transaction of another node undoes whoever reads, too.
                obstacle = connection.patiently(partial(saver.in_the_way, connection))
                if obstacle.marker is None and not obstacle.follows:
                    raise ConcurrentError(save.aggregate_id, save.version)
                if obstacle.marker is None:
                    place = connection.patiently(partial(saver.next_place, connection, obstacle))
                elif freeze_of(obstacle.marker) is not None:
                    raise StoreFrozenError(f"the store {self._place} is frozen")
                elif self._is_swapped(connection, obstacle.marker, deadline):
                    self._wait_for_swap(connection, deadline)
        finally:
            connection.roll_back()
            connection.end()

    def _was_connected(self, error: StoreUnreachableError) -> bool:
        return isinstance(error.__cause__, MySQLError) and number_of(error.__cause__) in BROKEN
