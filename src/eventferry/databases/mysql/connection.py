"""A connection to a MySQL or MariaDB server, the thread that alone uses it, and what the server's errors mean."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias, TypeVar

from pymysql.constants import CLIENT, SERVER_STATUS
from pymysql.cursors import SSCursor
from pymysql.err import InterfaceError, MySQLError, OperationalError

from eventferry.database import OvertakenError
from eventferry.databases import forking
from eventferry.databases.mysql.tables import definition, quoted
from eventferry.databases.mysql.wire import ServerAnswer, Wire
from eventferry.databases.pool import FullServerError
from eventferry.databases.server import PAUSES
from eventferry.databases.thread import Worker
from eventferry.errors import (
    DatabaseError,
    EventferryError,
    InputError,
    MissingExtraError,
    ReadOnlyStoreError,
    StoreBusyError,
    StoreNotFoundError,
    StoreUnreachableError,
)
from eventferry.lifecycle import to_the_end
from eventferry.lines.limits import BYTES_OF_A_CHARACTER
from eventferry.lines.payload import JsonText

T = TypeVar("T")
Values: TypeAlias = Mapping[str, object] | Sequence[object]

_SILENCE = 5  # seconds that a server has for an answer to what takes it no time
_STEP = 0.05  # seconds between two attempts at what somebody else is in the way of

# What the server's numbers mean; MariaDB and MySQL number alike below 1900.
NO_TABLE = 1146
TABLE_EXISTS = 1050
KEY_EXISTS = 1061
DUPLICATE = 1062
NO_KEY = 1176
DEFINITION_CHANGED = 1412
LOCK_TIMEOUT, DEADLOCK, LOCK_DEADLOCK, NO_WAIT = 1205, 1213, 3058, 3572
_IN_THE_WAY = (LOCK_TIMEOUT, DEADLOCK, LOCK_DEADLOCK, NO_WAIT)
TOO_LARGE = 1153  # of a packet
_LIMIT_OF_USER = 1226
_FULL = (1040, 1203, _LIMIT_OF_USER)
_TOO_LONG = 1406
BROKEN = (0, 1047, 1053, 1180, 1927, 2006, 2013, 4031)
"""The connection is gone, or that of its node to the cluster; whether what was sent has happened is not known."""

NOT_ALLOWED = (1044, 1142, 1143, 1227, 1290, 1370, 1792, 1836)
_UNREACHABLE = (*BROKEN, 1045, 1129, 1130, 1152, 1184, 1698, 2003, 2026, 2061)

_MEANINGS: tuple[tuple[tuple[int, ...], type[EventferryError], str], ...] = (
    ((NO_TABLE, 1049), StoreNotFoundError, "holds no store"),
    (_IN_THE_WAY, StoreBusyError, "is held by somebody else for more than {:g} s (the setting busy_timeout)"),
    (NOT_ALLOWED, ReadOnlyStoreError, "does not allow this, by the user's rights or the server's state"),
    (_FULL, FullServerError, "takes no more connections"),
    (_UNREACHABLE, StoreUnreachableError, "cannot be reached"),
    ((1021, 1030, 1114), DatabaseError, "has a full disk, or table; nothing of this step was kept"),
)

_SLOTS = 32  # how many writings of a store there can be at once, in all processes


@dataclass(slots=True)
class Access:
    """How to get to a store, and what has been learnt about its server.

    The options, PyMySQL's, hold the password, so they stand in no message; `place` does. `lock` begins the names of the
    store's locks. Times are seconds: for whoever is in the way, for the server's answer (0: any), of silence until the
    system looks whether the server is there. `loads` is whether it takes LOAD DATA LOCAL, `max_packet` the bytes of a
    statement and of a row.
    """

    options: dict[str, Any]
    database: str
    place: str
    lock: str
    busy_timeout: float
    read_timeout: float = 0
    keepalive: int = 30
    loads: bool = True
    max_packet: int = 16 * 1024 * 1024


class Connection:
    """A connection, the thread that alone uses it, and beside it a second one for definitions: a definition (CREATE,
    ALTER, DROP, RENAME) would commit the transaction that it is run in. Without a database, to the server alone."""

    def __init__(self, access: Access, database: str | None) -> None:
        self.access = access
        self._database = database
        self._worker = Worker("eventferry-mysql", self.interrupt, partial(self._translated, self._close))
        self._wire: Wire | None = None
        self._definitions: Wire | None = None
        self._is_spoilt = False
        self._interrupts = 0
        self._holds_locks = False
        forking.ours(self)

    @classmethod
    async def opened(cls, access: Access, database: str | None) -> Connection:
        """One that the server has answered."""
        connection = cls(access, database)
        try:
            await connection.run(connection._open)
        except BaseException:
            await to_the_end(connection.close())
            raise
        return connection

    def leave(self) -> object:
        """In a child: the server hears the parent's end when that ends, not when its children do."""
        for wire in self._wires:
            wire._force_close()
        return self

    # for asyncio

    async def run(self, function: Callable[[], T]) -> T:
        """Call `function` in the worker thread; a cancelled call's query is killed, and waited for."""
        return await self._worker.run(partial(self._translated, function))

    async def ask(self, function: Callable[[], T]) -> T:
        """The same, for what the server answers at once. Where no answer comes the connection is cut."""
        try:
            async with asyncio.timeout(_SILENCE):
                return await self.run(function)
        except TimeoutError:
            raise StoreUnreachableError(f"{self.access.place} does not answer") from None

    @property
    def is_usable(self) -> bool:
        return (
            self._wire is not None
            and self._wire.open
            and not (self._is_spoilt or self._holds_locks or self._is_in_transaction)
        )

    async def close(self) -> None:
        await self._worker.end()

    def interrupt(self) -> None:
        """Kill the query under way, from any thread; what is done so far in its transaction stays.

        Where that does not help for long, kill the connection: a server whose query is killed between two of several
        statements leaves out the rest without a word. Where nothing helps, cut the connection at this end.
        """
        self._is_spoilt = True  # a kill that came too late could meet the next user's query
        self._interrupts += 1
        kind = "QUERY" if self._interrupts <= _PATIENT_INTERRUPTS else "CONNECTION"
        if self._interrupts > 2 * _PATIENT_INTERRUPTS or not self._kill(kind):
            self.cut()

    def _kill(self, kind: str) -> bool:
        """Whether the server answers at all; that it has no room for one more is an answer."""
        try:
            with contextlib.closing(self._connected(None, patience=_KILL_SECONDS)) as killer:
                for wire in self._wires:
                    if killer.node != wire.node:  # there the number is somebody else's
                        return False
                    with contextlib.suppress(MySQLError):
                        killer.query(f"KILL {kind} {wire.server_thread_id[0]}")
        except OSError:
            return False
        except MySQLError as error:
            return number_of(error) in _FULL
        return True

    # for the worker thread

    @property
    def _wires(self) -> list[Wire]:
        return [wire for wire in (self._wire, self._definitions) if wire is not None and wire.open]

    def _close(self) -> None:
        for wire in self._wires:
            wire.close()

    def _open(self) -> None:
        _ = self.wire

    @property
    def wire(self) -> Wire:
        if self._wire is None:
            self._wire = self._connected(self._database)
        return self._wire

    @property
    def node(self) -> str | None:
        """The id of the node that it is connected to; None for a server that is none of a cluster."""
        return None if self._wire is None else self._wire.node

    @property
    def is_mariadb(self) -> bool:
        return self.wire.is_mariadb

    @property
    def _is_in_transaction(self) -> bool:
        return self._wire is not None and bool(
            self._wire.server_status & SERVER_STATUS.SERVER_STATUS_IN_TRANS
        )

    @property
    def given_up(self) -> bool:
        return self._worker.given_up

    def query(self, statements: str, values: Values | None = ()) -> list[tuple[Any, ...]]:
        """The rows of the last of these statements. None for values that stand in them already."""
        return self.results(statements, values)[-1]

    def with_values(self, statements: str, values: Values) -> str:
        with self.wire.cursor() as cursor:
            text: str = cursor.mogrify(statements, values)
            return text

    def results(self, statements: str, values: Values | None = ()) -> list[list[tuple[Any, ...]]]:
        """The rows of each of these statements. None for values that stand in them already."""
        return self.wire.results(statements if values is None else self.with_values(statements, values))

    def packets(self, statements: Sequence[str], values: Values) -> list[str]:
        """Statements of a transaction, with these values, as they are to be `sent`: all at once; but to a node of a
        cluster one by one. It may undo the transaction at any time for one of another node, and tells only behind the
        last statement of a packet: those before that would be run by themselves, and kept."""
        texts = ["; ".join(statements)] if self.node is None else statements
        return [self.with_values(text, values) for text in texts]

    def sent(self, packets: Sequence[str]) -> list[list[tuple[Any, ...]]]:
        """The rows of each statement of these packets."""
        return [answer.rows for answer in self.answers(packets)]

    def answers(self, packets: Sequence[str]) -> list[ServerAnswer]:
        """What the server says to each statement of these packets. Nothing is sent of what it would not take, and might
        end the connection for."""
        texts = ["; ".join(packets)] if self.node is None else packets
        room = self.access.max_packet - 1  # one byte is the command's
        if any(BYTES_OF_A_CHARACTER * len(text) > room and len(text.encode()) > room for text in texts):
            raise OperationalError(TOO_LARGE, f"a packet is larger than max_allowed_packet, {room + 1} bytes")
        return [answer for text in texts for answer in self.wire.answers(text)]

    def execute(self, statement: str, values: Values = ()) -> int:
        with self.wire.cursor() as cursor:
            return int(cursor.execute(statement, values))

    def insert(self, head: str, rows: Iterable[Sequence[int | str | JsonText | None]]) -> None:
        """Insert rows by `head`, which ends in VALUES, in statements that fit a packet."""
        written = (b"(" + b",".join(map(_literal, row)) + b")" for row in rows)
        self._in_statements(head, written, b",", "")

    def update(self, head: str, rows: Iterable[Sequence[int | str | JsonText | None]], tail: str) -> int:
        """Change what rows say, which stand between `head` and `tail` as a UNION, in statements that fit a packet; how
        many rows of the table were found."""
        written = (b"SELECT " + b",".join(map(_literal, row)) for row in rows)
        return self._in_statements(head, written, b" UNION ALL ", tail)

    def _in_statements(self, head: str, written: Iterable[bytes], between: bytes, tail: str) -> int:
        wire, prefix, suffix = self.wire, *(text.replace("%%", "%").encode() for text in (head, tail))
        room = min(self.access.max_packet, _STATEMENT) - len(prefix) - len(suffix)
        literals: list[bytes] = []
        size = found = 0
        for literal in written:
            if literals and size + len(literal) > room:
                found += wire.query(prefix + between.join(literals) + suffix)
                literals, size = [], 0
            literals.append(literal)
            size += len(literal) + len(between)
        if literals:
            found += wire.query(prefix + between.join(literals) + suffix)
        return found

    def lock(self, name: str, seconds: float) -> bool:
        """Take a named lock, until `end`; whether it came within this time."""
        self._holds_locks = True
        return self.query("SELECT GET_LOCK(%s, %s)", (name, seconds)) == [(1,)]

    def hold_off_freezes(self) -> None:
        """Until `end`, nobody freezes the store."""
        slots = random.sample(range(_SLOTS), 4)
        waits = [f"GET_LOCK(%s, {seconds})" for seconds in (0, 0, 0, 1)]
        self._take_locks(" OR ".join(waits), [f"{self.access.lock}-{slot}" for slot in slots], 1)

    def wait_for_writings(self) -> None:
        """Until `end`, no writing goes on beside this one; those that had begun are over."""
        slots = [f"{self.access.lock}-{slot}" for slot in range(_SLOTS)]
        self._take_locks(" + ".join(["GET_LOCK(%s, 1)"] * _SLOTS), slots, _SLOTS)

    def keep_out(self, others: str) -> None:
        """Until `end`, nobody else adds to the open import ("push"), or changes "secrets"."""
        self._take_locks("GET_LOCK(%s, 1)", [f"{self.access.lock}-{others}"], 1)

    def _take_locks(self, expression: str, names: list[str], wanted: int) -> None:
        deadline = time.monotonic() + self.access.busy_timeout
        self._holds_locks = True
        while self.query(f"SELECT {expression}", names) != [(wanted,)]:
            if self.given_up or time.monotonic() >= deadline:
                raise StoreBusyError(
                    f"{self.access.place} is held by somebody else for more than {self.access.busy_timeout:g} s "
                    "(the setting busy_timeout)"
                )

    def end(self) -> None:
        """After a transaction: give back what it needed beside this connection."""
        if self._definitions is not None and self._definitions.open:
            self._definitions.close()
        if self._holds_locks and self._wire is not None and self._wire.open:
            with contextlib.suppress(MySQLError):  # with a connection that is lost they are gone
                self.query("SELECT RELEASE_ALL_LOCKS()")
        self._holds_locks = False

    def make(self, kind: str, name: str, comment: str = "") -> None:
        """Make a table."""
        # The collation that compares byte by byte, blanks at the end too: the servers have it by two names.
        [(collation,)] = self.query(
            """SELECT MIN(collation_name) FROM information_schema.collations
            WHERE collation_name IN ('utf8mb4_nopad_bin', 'utf8mb4_0900_bin')"""
        )
        self.apart(definition(kind, name, collation), (comment,))

    def lines(self, statement: str, values: Values, take: Callable[[list[bytes], list[bytes]], bool]) -> bool:
        return self.wire.lines(self.with_values(statement, values), self.interrupt, take)

    def rename(self, names: Mapping[str, str], *, shows: tuple[str, str] | None = None) -> bool:
        """Give tables other names, in one step; False where one of them is not there, or a new name is taken: then
        nothing has changed.

        If the answer is lost, it is tried again, which waits for the first attempt, and one of the two finds the
        tables. `shows` is a table and its comment afterwards: by this a success is known whose answer was lost.
        """
        renames = ", ".join(f"{quoted(name)} TO {quoted(new)}" for name, new in names.items())
        is_lost = False
        for pause in (0, *PAUSES):
            time.sleep(pause)
            try:
                self.apart(f"RENAME TABLE {renames}")
            except MySQLError as error:
                if number_of(error) in (NO_TABLE, TABLE_EXISTS):
                    return is_lost and shows is not None and self._shows(*shows)
                if number_of(error) not in BROKEN or self.given_up:
                    raise
                is_lost, lost = True, error
            else:
                return True
        raise StoreUnreachableError(
            f"{self.access.place}: the connection broke, and whether tables were renamed is not known"
        ) from lost

    def _shows(self, table: str, text: str) -> bool:
        return self.apart(
            """SELECT table_comment = %s FROM information_schema.tables
            WHERE table_schema = %s AND table_name = %s""",
            (text, self.access.database, table),
        ) == [(1,)]

    def apart(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        """Run a statement apart from this connection's transaction: a definition, or a look at a table for which one
        may follow.

        It waits for a table's users in attempts of a second: while it waits, everybody else waits behind it.
        """

        def attempt() -> list[tuple[Any, ...]]:
            if self._definitions is None or not self._definitions.open:
                self._definitions = self._connected(self._database, lock_wait=1)
            with self._definitions.cursor() as cursor:
                cursor.execute(statement, values)
                return list(cursor.fetchall())

        return self.patiently(attempt)

    def patiently(self, attempt: Callable[[], T]) -> T:
        """Try until nobody is in the way, or `busy_timeout` is over."""
        deadline = time.monotonic() + self.access.busy_timeout
        while True:
            try:
                return attempt()
            except OperationalError as error:
                is_busy = error.args[0] in (*_IN_THE_WAY, *_FULL)
                if not is_busy or self.given_up or time.monotonic() >= deadline:
                    raise
            time.sleep(_STEP)

    def stream(self, statement: str) -> SSCursor:
        """A cursor that reads the rows of a statement, in which values stand already, as they come. Whoever leaves it
        before its end calls `cut`, and `drop`: closing it would read what is left."""
        cursor: SSCursor = self.wire.cursor(_Stream)
        cursor.execute(statement)
        return cursor

    def cut(self) -> None:
        """Give the connection up, with what is under way on it."""
        self._is_spoilt = True
        for wire in self._wires:
            wire.cut()

    def drop(self) -> None:
        """Close what was cut, without a word to the server."""
        for wire in self._wires:
            wire._force_close()

    def roll_back(self) -> None:
        if self._wire is not None and self._wire.open and self._is_in_transaction:
            with contextlib.suppress(MySQLError):  # a connection that is lost has done so
                self._wire.query("ROLLBACK")

    def _connected(self, database: str | None, *, lock_wait: int = 0, patience: int | None = None) -> Wire:
        """Connect. Until that has happened, or with `patience` ever after, the server has so many seconds to answer."""
        options = self.access.options
        seconds = patience or options["connect_timeout"]
        try:
            wire = Wire(
                **options | {"connect_timeout": seconds},
                read_timeout=seconds,
                write_timeout=seconds,
                database=database,
                collation="utf8mb4_general_ci",  # whatever the server takes for that of utf8mb4
                charset="utf8mb4",
                autocommit=True,
                local_infile=True,
                client_flag=CLIENT.MULTI_STATEMENTS | CLIENT.FOUND_ROWS,
                program_name="eventferry",
            )
        except RuntimeError as error:  # a way to log in that needs one more package, without TLS
            raise MissingExtraError(f"{self.access.place}: {error}: pip install 'PyMySQL[rsa]'") from None
        try:
            busy = max(1, math.ceil(self.access.busy_timeout))
            settings = _SETTINGS | (_MARIADB_SETTINGS if wire.is_mariadb else _MYSQL_SETTINGS)
            settings |= {"innodb_lock_wait_timeout": busy, "lock_wait_timeout": lock_wait or busy}
            words = ", SESSION ".join(f"{name} = {value}" for name, value in settings.items())
            # Before those of a node: it may have to wait for the others, which this need not.
            _, [(self.access.max_packet,)], told = wire.results(
                f"SET SESSION {words}; SELECT @@SESSION.max_allowed_packet; SHOW VARIABLES LIKE 'wsrep_on'"
            )
            if ("wsrep_on", "ON") in told:
                wire.node = self._joined(wire)
            if patience is None:
                wire._read_timeout = wire._write_timeout = self.access.read_timeout or None
            wire.keep_alive(self.access.keepalive)
        except BaseException:
            wire.cut()
            raise
        return wire

    def _joined(self, wire: Wire) -> str | None:
        """Set what statements on a node of a cluster depend on; the node's id."""
        words = ", SESSION ".join(f"{name} = {value}" for name, value in _NODE_SETTINGS.items())
        _, node, [(_, splits)] = wire.results(
            f"""SET SESSION {words}; SHOW STATUS LIKE 'wsrep_gcomm_uuid';
            SHOW VARIABLES LIKE 'wsrep_load_data_splitting'"""
        )
        if splits == "ON":  # the rows of one LOAD DATA would be committed by and by
            self.access.loads = False
        return str(node[0][1]) if node else None

    def _translated(self, function: Callable[[], T]) -> T:
        try:
            return function()
        except MySQLError as error:
            raise self._named(error) from error
        except OSError as error:
            raise StoreUnreachableError(f"{self.access.place} cannot be reached: {error}") from error

    def _named(self, error: MySQLError) -> EventferryError:
        number, place = number_of(error), self.access.place
        text = str(error.args[1]) if len(error.args) > 1 else str(error)
        if number == _TOO_LONG:
            column = re.search(r"for column .*?'?`?(\w+)[`']* at row", text)
            return InputError("is longer than its column takes", field=column[1] if column else None)
        if number == _LIMIT_OF_USER and "max_user_connections" not in text:
            return StoreBusyError(f"{place}: the server allows this user no more for now: {text}")
        if number == DEADLOCK and self.node is not None:
            return OvertakenError(f"{place} was changed on another node of the cluster meanwhile: try again")
        for numbers, kind, words in _MEANINGS:
            if number in numbers:
                reason = text or "the connection broke"
                return kind(f"{place} {words.format(self.access.busy_timeout)}: {reason}")
        return DatabaseError(f"{place}: {text} ({number})")


class _Stream(SSCursor):
    def __del__(self) -> None:
        """Nothing: PyMySQL's own reads what is left, in whichever thread drops the cursor."""


_PATIENT_INTERRUPTS = 6
"""How often a query is killed, half a second apart, before its connection is: it may have to undo what it did."""

_KILL_SECONDS = 3  # for a server to take a connection that kills another

_SETTINGS: dict[str, str | int] = {
    "sql_mode": "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'",
    "wait_timeout": 31536000,
    "net_read_timeout": 600,
    "net_write_timeout": 600,
    # What comes as one text: the 256 heads.
    "group_concat_max_len": 2 * 1024**2,
    # What is sorted by text is sorted by all of it.
    "max_sort_length": 8192,
    # A SELECT gives all rows, and a DELETE may be one without a key: a part of them doubles events.
    "sql_select_limit": 2**64 - 1,
    "sql_safe_updates": 0,
    "sql_big_selects": 1,
    "sql_auto_is_null": 0,
    # What is done in no transaction is kept.
    "autocommit": 1,
    # A COMMIT neither begins another transaction nor ends the connection.
    "completion_type": "'NO_CHAIN'",
    "foreign_key_checks": 1,
    "unique_checks": 1,
    # A table's time of creation, by which a store that has no id is known.
    "time_zone": "'+00:00'",
    # Which key a row violates stands in the words of the error.
    "lc_messages": "'en_US'",
}
"""What of a user's, a server's or an init_connect's settings would change what our statements do: set on every
connection that is opened."""

_MARIADB_SETTINGS: dict[str, str | int] = {
    "tx_isolation": "'REPEATABLE-READ'",
    "max_statement_time": 0,
    "idle_transaction_timeout": 0,
    "idle_readonly_transaction_timeout": 0,
    "idle_write_transaction_timeout": 0,
    "alter_algorithm": "'DEFAULT'",
    "innodb_strict_mode": 1,
    "check_constraint_checks": 1,
}
_MYSQL_SETTINGS: dict[str, str | int] = {
    "transaction_isolation": "'REPEATABLE-READ'",
    "max_execution_time": 0,
}

_NODE_SETTINGS: dict[str, str | int] = {
    # A transaction begins when this node has what was committed on any: what was stored can be read.
    "wsrep_sync_wait": 1,
    "wsrep_dirty_reads": 0,
    # A definition happens on all nodes, at one point in the order of the transactions.
    "wsrep_osu_method": "'TOI'",
}

_STATEMENT = 4 * 1024 * 1024


def _literal(value: int | str | JsonText | None) -> bytes:
    if value is None:
        return b"NULL"
    if isinstance(value, int):
        return b"%d" % value
    text = value.encode() if isinstance(value, str) else bytes(value)
    return b"'" + text.replace(b"\\", b"\\\\").replace(b"'", b"''") + b"'"


def number_of(error: MySQLError) -> int:
    """The server's number of an error; 0 where the driver itself has none for it."""
    if isinstance(error, InterfaceError) or not error.args or not isinstance(error.args[0], int):
        return 0
    return error.args[0]


def duplicate_key(error: MySQLError) -> str | None:
    """The name of the unique key that a row would have violated."""
    if number_of(error) != DUPLICATE:
        return None
    # MySQL writes table.key; and the doubled value, which comes before, may hold anything.
    found = re.search(r"for key '(?:[^']*\.)?([^'.]+)'$", str(error.args[1]))
    return found[1] if found else None
