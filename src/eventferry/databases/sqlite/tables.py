"""Names, table definitions and markers of a store in a SQLite file.

Columns and their names are reSolve's (`init-events.ts`, `init-secrets.ts`, `freeze.ts`,
`begin-incremental-import.ts` of eventstore-lite 0.34); which indexes there are and why: docs/sqlite.md.
"""

from __future__ import annotations

from secrets import token_hex

from eventferry.database import Stage
from eventferry.databases.names import STAGE_WORDS, comment, is_text
from eventferry.errors import UsageError


def quoted(name: str) -> str:
    """A name as an SQL identifier: the only way a name gets into a statement. A line feed would end a comment that
    carries it, so control characters are refused."""
    if not name or any(character < " " for character in name) or not is_text(name):
        raise UsageError(f"{name!r} cannot be the name of a table")
    if name[:7].lower() == "sqlite_":
        raise UsageError(f"{name!r} cannot be the name of a table: SQLite keeps such names for itself")
    return '"' + name.replace('"', '""') + '"'


_MERGED = """"threadId" BIGINT NULL, "threadCounter" BIGINT NULL, "timestamp" BIGINT NOT NULL,
  "aggregateId" VARCHAR(700) NOT NULL, "aggregateVersion" BIGINT NULL, "type" VARCHAR(700) NOT NULL,
  "payload" TEXT NULL, "part" BLOB NULL"""

_COLUMNS = {
    # The payload has no affinity. reSolve's JSON would give it the numeric one and rewrite bare numbers; TEXT would cut
    # to 15 digits those that the real reSolve's incremental import brings, which stages in such a column.
    "events": """"threadId" BIGINT NOT NULL, "threadCounter" BIGINT NOT NULL, "timestamp" BIGINT NOT NULL,
      "aggregateId" VARCHAR(700) NOT NULL, "aggregateVersion" BIGINT NOT NULL, "type" VARCHAR(700) NOT NULL,
      "payload" BLOB NULL""",
    "snapshots": """"snapshotKey" TEXT, "content" TEXT, PRIMARY KEY("snapshotKey")""",
    # TEXT for the same reason as the payload's.
    "subscribers": """"applicationName" VARCHAR(700) NOT NULL, "eventSubscriber" VARCHAR(700) NOT NULL,
      "destination" TEXT NOT NULL, "status" TEXT NOT NULL, PRIMARY KEY("applicationName", "eventSubscriber")""",
    "secrets": """"idx" BIG INT NOT NULL UNIQUE, "id" VARCHAR(700) NOT NULL PRIMARY KEY, "secret" text""",
    "freeze": """"surrogate" BIGINT NOT NULL, PRIMARY KEY("surrogate")""",
    # What begin opens: reSolve's columns, and which part brought a row.
    "open": _MERGED,
    # The stage of a whole incremental import: private to the connection, gone with it.
    "merge": _MERGED,
    # How far an import has come: a row for each commit. Whose import it is stands in the name.
    "progress": """"byteOffset" INTEGER NOT NULL, "line" INTEGER NOT NULL, "events" INTEGER NOT NULL,
      "digest" BLOB NOT NULL""",
    # What was pushed of an import in parts: a row for each push.
    "ledger": """"step" INTEGER PRIMARY KEY, "push" TEXT NOT NULL, "part" BLOB NOT NULL, "isWhole" INTEGER NOT NULL,
      "events" INTEGER NOT NULL, "digest" BLOB NOT NULL""",
}


def definition(kind: str, name: str, *comments: str) -> str:
    """The statement that makes a table of this kind, with what its comments say."""
    told = "".join(f"-- {text}\n" for text in comments)
    return f"CREATE {'TEMP ' if kind == 'merge' else ''}TABLE {quoted(name)}(\n{told}{_COLUMNS[kind]})"


def store_comment() -> str:
    """The comment of the events. Its random id changes when they are replaced."""
    return comment("STORE", id=token_hex(8))


def unique_indexes(table: str, generation: str) -> list[tuple[str, tuple[str, str]]]:
    """What may be there once only: (statement, columns). Index names are global to a file, hence the generation."""
    columns = {"position": ("threadId", "threadCounter"), "version": ("aggregateId", "aggregateVersion")}
    return [
        (
            f"CREATE UNIQUE INDEX {quoted(f'{generation}-{name}')} ON {quoted(table)}({quoted(a)}, {quoted(b)})",
            (a, b),
        )
        for name, (a, b) in columns.items()
    ]


ORDER = ("timestamp", "threadCounter", "threadId")


def order_index(table: str, generation: str) -> str:
    """The index for the order of events."""
    return f"CREATE INDEX {quoted(f'{generation}-order')} ON {quoted(table)}({', '.join(map(quoted, ORDER))})"


def generation(events: str) -> str:
    """A name for a set of indexes that no other set in the file has."""
    return f"{events}-{token_hex(4)}"


def stage_comment(stage: Stage) -> str:
    """What the table of an import's progress says."""
    told = STAGE_WORDS[stage.kind]
    return comment(told, id=stage.id, since=stage.since, driver=stage.driver, baseline=stage.baseline)


def steps_definition(stage: Stage, name: str) -> str:
    """The statement that makes the table of an import's progress."""
    return definition("progress" if stage.kind == "replace" else "ledger", name, stage_comment(stage))


def known(stage: Stage) -> str:
    """Where a merge keeps what the store holds at the times of its stage."""
    return f"{stage.id}-known"
