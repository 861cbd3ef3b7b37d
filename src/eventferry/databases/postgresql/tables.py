"""Table definitions of a store in a PostgreSQL schema.

Columns and their names are reSolve's (`init-events.ts`, `init-secrets.ts`, `freeze.ts`,
`begin-incremental-import.ts` of eventstore-postgresql 0.34); which indexes there are and why: docs/postgresql.md.
"""

from __future__ import annotations

import hashlib

from eventferry.databases.names import Tables, is_text
from eventferry.errors import UsageError

MAX_NAME_BYTES = 63  # PostgreSQL cuts longer names, and two that are cut alike would be one
_LONGEST_SUFFIX = "-incremental-import"  # A stage's, with the twelve digits of its owner, is as long


def quoted(name: str) -> str:
    """A name as an SQL identifier, with per cent signs doubled: the only way a name gets into a statement."""
    if not name or "\0" in name or not is_text(name):
        raise UsageError(f"{name!r} cannot be the name of a table")
    return '"' + name.replace('"', '""').replace("%", "%%") + '"'


def literal(text: str) -> str:
    """A text as an SQL literal, for statements that take no parameters. What a backslash means between plain quotes
    depends on `standard_conforming_strings`; behind an E it does not."""
    escaped = text.replace("'", "''").replace("%", "%%")
    return f"'{escaped}'" if "\\" not in text else " E'" + escaped.replace("\\", "\\\\") + "'"


class Names:
    """The tables of one store as they are written in statements; `tables` are their bare names."""

    def __init__(self, schema: str, tables: Tables) -> None:
        for name in (tables.events + _LONGEST_SUFFIX, *tables, schema):
            quoted(name)
            if len(name.encode()) > MAX_NAME_BYTES:
                raise UsageError(
                    f"{name!r} is longer than the {MAX_NAME_BYTES} bytes of a name in PostgreSQL"
                )
        self.schema = schema
        self.tables = tables
        self.events = self.of(tables.events)
        self.threads = self.of(f"{tables.events}-threads")
        self.snapshots = self.of(tables.snapshots)
        self.secrets = self.of(tables.secrets)
        self.subscribers = self.of(tables.subscribers)
        self.freeze = self.of(tables.freeze)
        self.open_import = self.of(tables.open_import)

    def of(self, table: str) -> str:
        return f"{quoted(self.schema)}.{quoted(table)}"

    def stage_of(self, owner: str) -> str:
        return self.of(self.tables.stage_of(owner))

    def progress_of(self, owner: str) -> str:
        return self.of(self.tables.progress_of(owner))

    @property
    def merge_prefix(self) -> str:
        """What the names of "merge" stages begin with; the id must fit in behind it."""
        return self.index(f"merge-{'0' * 16}")[:-16]

    def index(self, suffix: str) -> str:
        """An index of the events. A name that is cut is told apart by a hash from others that begin alike."""
        events = self.tables.events.encode()
        room = MAX_NAME_BYTES - len(suffix) - 1
        if len(events) <= room:
            return f"{self.tables.events}-{suffix}"
        mark = hashlib.sha256(events).hexdigest()[:8]
        return f"{events[: room - len(mark) - 1].decode(errors='ignore')}-{mark}-{suffix}"


MAX_SUBSCRIBER_LENGTH = 190  # in reSolve's tables and in ours
COLUMNS = '"threadId", "threadCounter", "timestamp", "aggregateId", "aggregateVersion", "type", "payload", "eventSize"'
SIZE_OF_REST = 66 + len("'',1,'',''")
"""What reSolve, and so we, add in `eventSize` to the bytes of the three texts of an event."""

POSITION = ("threadId", "threadCounter")
VERSION = ("aggregateId", "aggregateVersion")
ORDER = ("timestamp", "threadCounter", "threadId")
INDEXES = {POSITION: "pkey", VERSION: "aggregateIdAndVersion", ORDER: "order"}

_EVENT_COLUMNS = """"threadId" BIGINT NOT NULL,
      "threadCounter" BIGINT NOT NULL,
      "timestamp" BIGINT NOT NULL,
      "aggregateId" VARCHAR(700) COLLATE "C" NOT NULL,
      "aggregateVersion" BIGINT NOT NULL,
      "type" VARCHAR(700) COLLATE "C" NOT NULL,
      "payload" JSONB,
      "eventSize" BIGINT NOT NULL"""


def columns(names: tuple[str, ...]) -> str:
    """Columns as they stand in an index."""
    return ", ".join(map(quoted, names))


def store_tables(names: Names, store_comment: str) -> list[str]:
    """Everything that a store is made of. The random id in the events' comment changes when they are replaced."""
    return [
        f"CREATE TABLE {names.events}({_EVENT_COLUMNS})",
        f"COMMENT ON TABLE {names.events} IS {literal(store_comment)}",
        f"ALTER TABLE {names.events} ADD CONSTRAINT {quoted(names.index('pkey'))} PRIMARY KEY ({columns(POSITION)})",
        f"CREATE UNIQUE INDEX {quoted(names.index('aggregateIdAndVersion'))} ON {names.events}({columns(VERSION)})",
        f"CREATE INDEX {quoted(names.index('order'))} ON {names.events}({columns(ORDER)})",
        # Every save updates a row here: with room in its page that touches no index.
        f"""CREATE TABLE {names.threads}(
          "threadId" BIGINT NOT NULL, "threadCounter" BIGINT NOT NULL, PRIMARY KEY("threadId")
        ) WITH (fillfactor = 20)""",
        f"INSERT INTO {names.threads} SELECT id, 0 FROM generate_series(0, 255) AS id",
        f"""CREATE TABLE {names.snapshots}(
          "snapshotKey" TEXT NOT NULL, "snapshotContent" TEXT, PRIMARY KEY("snapshotKey"))""",
        # JSON, not JSONB: it keeps what it is given, and nobody compares here.
        f"""CREATE TABLE {names.subscribers}(
          "applicationName" VARCHAR({MAX_SUBSCRIBER_LENGTH}) NOT NULL,
          "eventSubscriber" VARCHAR({MAX_SUBSCRIBER_LENGTH}) NOT NULL,
          "destination" JSON NOT NULL,
          "status" JSON NOT NULL,
          PRIMARY KEY("applicationName", "eventSubscriber"))""",
        # reSolve leaves `idx` to the default when it adds a secret. The server finds names that are free.
        f"""CREATE TABLE {names.secrets}(
          "idx" BIGINT GENERATED BY DEFAULT AS IDENTITY (MINVALUE 0 START 0) UNIQUE,
          "id" VARCHAR(700) COLLATE "C" NOT NULL PRIMARY KEY,
          "secret" TEXT)""",
    ]


_COLUMNS = {
    # Where the events of an import wait: the events to be, each with the number of its line.
    "replace": f'{_EVENT_COLUMNS}, "line" BIGINT NOT NULL',
    # How far an import has come: a row for each commit.
    "progress": """"commit" BIGINT GENERATED ALWAYS AS IDENTITY, "byteOffset" BIGINT NOT NULL,
      "line" BIGINT NOT NULL, "events" BIGINT NOT NULL, "digest" BYTEA NOT NULL""",
    # What was pushed of an import in parts: a row for each push.
    "ledger": """"step" BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "push" TEXT NOT NULL, "part" BYTEA NOT NULL,
      "isWhole" INTEGER NOT NULL, "events" BIGINT NOT NULL, "digest" BYTEA NOT NULL""",
    "freeze": '"surrogate" BIGINT NOT NULL, PRIMARY KEY("surrogate")',
}


def table(kind: str, name: str, told: str) -> list[str]:
    """What makes a table of this kind, with its comment."""
    return [f"CREATE TABLE {name}({_COLUMNS[kind]})", f"COMMENT ON TABLE {name} IS {literal(told)}"]


def open_import_table(names: Names, marker: str) -> list[str]:
    """The stage that begin opens: reSolve's columns, and which part brought a row. Columns come from the events, for a
    comparison of texts needs one collation. reSolve compares the comment as a whole."""
    return [
        f"CREATE TABLE {names.open_import}(LIKE {names.events})",
        f"""ALTER TABLE {names.open_import}
          ALTER "threadId" DROP NOT NULL, ALTER "threadCounter" DROP NOT NULL, ALTER "aggregateVersion" DROP NOT NULL,
          ADD "sortedIdx" BIGINT, ADD "rowid" BIGSERIAL, ADD "part" BYTEA""",
        f"COMMENT ON TABLE {names.open_import} IS {literal(marker)}",
        f"ALTER TABLE {names.open_import} REPLICA IDENTITY FULL",  # see merge_table
    ]


def merge_table(names: Names, table: str, merge_comment: str) -> list[str]:
    """The stage of a whole incremental import.

    Not an unlogged one: where a transaction that made one was rolled back in the last half second before a crash,
    PostgreSQL 15 does not start any more ("could not create file: File exists").

    Rows are deleted from it, which the server refuses where it publishes all tables of the database and this one has
    neither a key nor this identity. A key would cost each row its entry.
    """
    return [
        f"""CREATE TABLE {names.of(table)} AS
          SELECT "timestamp", "aggregateId", "type", "payload", "eventSize" FROM {names.events} WITH NO DATA""",
        f'ALTER TABLE {names.of(table)} ADD "rowid" BIGINT GENERATED ALWAYS AS IDENTITY, ADD "part" BYTEA',
        f"ALTER TABLE {names.of(table)} REPLICA IDENTITY FULL",
        f"COMMENT ON TABLE {names.of(table)} IS {literal(merge_comment)}",
    ]
