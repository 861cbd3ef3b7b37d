"""Names, table definitions and markers of a store in a MySQL or MariaDB database.

Columns and their names are reSolve's (`init-events.ts`, `init-secrets.ts`, `freeze.ts`,
`begin-incremental-import.ts` of eventstore-mysql 0.34); which keys there are and why: docs/mysql.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from eventferry.databases.names import STAGE_WORDS, Tables, fact, import_id_of, is_text
from eventferry.errors import UsageError

MAX_NAME = 64
_LONGEST_SUFFIX = 19


def quoted(name: str) -> str:
    """A name as an SQL identifier, for a statement with values: the only way a name gets into a statement."""
    is_odd = any(not " " <= character <= "\uffff" for character in name) or not is_text(name)
    if not name or name[-1] == " " or is_odd:
        raise UsageError(f"{name!r} cannot be the name of a table")
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


def check_names(tables: Tables) -> None:
    """Refuses names that the server cannot take; that of the events is lengthened for what stands beside it."""
    for name in tables:
        quoted(name)
        room = MAX_NAME - _LONGEST_SUFFIX if name == tables.events else MAX_NAME
        if len(name) > room:
            raise UsageError(f"the table name {name!r} is longer than {room} characters")


@dataclass(frozen=True, slots=True)
class Names:
    """The tables beside those that are named in the store's address."""

    tables: Tables

    @property
    def threads(self) -> str:
        return f"{self.tables.events}-threads"

    def heads_of(self, owner: str) -> str:
        """Those of the stage of an owner's import."""
        return f"{self.tables.events}-heads-{owner}"

    def import_of(self, owner: str) -> tuple[str, str, str]:
        """All tables of an owner's import; the last, which is made first and goes last, says whose they are."""
        return self.tables.stage_of(owner), self.heads_of(owner), self.tables.progress_of(owner)

    def mark(self, marker_id: str) -> str:
        return f"{self.tables.events}-mark-{marker_id}"

    def merge_stage(self, stage_id: str) -> str:
        return f"{self.tables.events}-merge-{stage_id[-12:]}"

    def aside(self, token: str) -> dict[str, str]:
        """For each table of a store, and for a marker and its companion, a name that no other table has: for one to be
        made, or to be removed. Last comes the companion, whose comment holds the token."""
        tables = self.tables
        beside = tables.open_import, *tables.made_later, tables.freeze
        own = (*tables, self.threads, *beside, self.mark(token))
        # One digit, for a name has no room for more.
        return {name: f"{tables.events}-old-{token}-{place:x}" for place, name in enumerate(own)}

    def left_over(self, beside: Mapping[str, str]) -> list[str]:
        """Which of the tables, by their names and comments, somebody was about to remove or to make. A name alone does
        not say so, for another store may be called so; but of those with one token a comment holds it, or they are
        markers."""
        aside: dict[str, list[str]] = {}
        for name in sorted(beside):
            if (token := self._token(name, "old", "-[0-9a-f]")) is not None:
                aside.setdefault(token, []).append(name)
        return [
            name
            for token, names in aside.items()
            for name in names
            if any(f"ID '{token}'" in beside[other] for other in names) or is_marker(beside[name])
        ]

    def imports(self, beside: Mapping[str, str]) -> list[str]:
        """The owners of the imports that these tables, by their names and comments, belong to."""
        owners = ((self.tables.owner_of(name), facts) for name, facts in sorted(beside.items()))
        words = STAGE_WORDS.values()
        return [owner for owner, facts in owners if owner and any(fact(facts, word, "id") for word in words)]

    def merge_stages(self, beside: Mapping[str, str]) -> list[str]:
        """Those of the tables that are stages of whole incremental imports."""
        stages = (name for name, facts in beside.items() if fact(facts, "STAGE", "id") is not None)
        return [name for name in stages if self._token(name, "merge") is not None]

    def marks(self, beside: Mapping[str, str]) -> dict[str, str]:
        ids = {name: fact(facts, "MARK", "id") for name, facts in beside.items()}
        return {name: token for name, token in ids.items() if token and self._token(name, "mark") == token}

    def _token(self, name: str, word: str, more: str = "") -> str | None:
        found = re.fullmatch(rf"{re.escape(self.tables.events)}-{word}-([0-9a-f]{{12}}){more}", name)
        return found[1] if found else None


def is_marker(text: str) -> bool:
    """Whether this is the comment of a marker: of a freeze, or of an open incremental import."""
    return text.startswith("RESOLVE EVENT STORE ") or import_id_of(text) is not None


# Keys stand apart from columns: those of an import's stage are built after its rows.
POSITION_KEY = "PRIMARY KEY (`threadId`, `threadCounter`)"
VERSION_KEY = "UNIQUE KEY `aggregate` (`aggregateId`, `aggregateVersion`)"
ORDER = ("timestamp", "threadCounter", "threadId")
ORDER_KEY = "KEY `order` (`timestamp`, `threadCounter`, `threadId`)"

_EVENT = """`threadId` BIGINT NOT NULL, `threadCounter` BIGINT NOT NULL, `timestamp` BIGINT NOT NULL,
  `aggregateId` {text}, `aggregateVersion` BIGINT NOT NULL, `type` {text}, `payload` {json}"""
_MERGED = """`threadId` BIGINT NULL, `threadCounter` BIGINT NULL, `timestamp` BIGINT NOT NULL,
  `aggregateId` {text}, `aggregateVersion` BIGINT NULL, `type` {text}, `payload` {json},
  `part` VARBINARY(3000) NULL, `arrival` BIGINT NOT NULL AUTO_INCREMENT"""

_COLUMNS = {
    "events": f"{_EVENT}, {POSITION_KEY}, {VERSION_KEY}, {ORDER_KEY}",
    # The next counter of each thread.
    "threads": "`threadId` BIGINT NOT NULL, `threadCounter` BIGINT NOT NULL, PRIMARY KEY (`threadId`)",
    # reSolve's key is unique by its first 255 bytes; this one by all that it has.
    "snapshots": """`SnapshotKey` VARBINARY(3072) NOT NULL, `SnapshotContent` LONGBLOB,
      PRIMARY KEY (`SnapshotKey`)""",
    "subscribers": """`applicationName` {text}, `eventSubscriber` {text}, `destination` {json}, `status` {json},
      PRIMARY KEY (`applicationName`(384), `eventSubscriber`(384))""",
    "secrets": """`idx` BIGINT NOT NULL, `id` {text}, `secret` {json},
      PRIMARY KEY (`id`), UNIQUE KEY `idx` (`idx`)""",
    # A freeze, or the companion of a marker: its comment says whose.
    "marker": "`surrogate` BIGINT NOT NULL, PRIMARY KEY (`surrogate`)",
    # What begin opens: reSolve's columns, and which part brought a row and when.
    "open": f"""`rowid` VARCHAR(100) CHARACTER SET ascii COLLATE ascii_bin NOT NULL, `sortedIdx` BIGINT NULL,
      {_MERGED}, PRIMARY KEY (`rowid`), UNIQUE KEY (`arrival`), KEY (`part`), KEY (`timestamp`)""",
    # The stage of a whole incremental import. Where its events go is written beside them.
    "merge": f"{_MERGED}, PRIMARY KEY (`arrival`), KEY (`timestamp`)",
    # The stage of an import: the events to be, each with the number of its line.
    "replace": f"{_EVENT}, `line` BIGINT NOT NULL PRIMARY KEY",
    # How far an import has come: a row for each commit. The first holds what the store was before.
    "progress": """`step` BIGINT NOT NULL AUTO_INCREMENT, `byteOffset` BIGINT NULL, `line` BIGINT NULL,
      `events` BIGINT NULL, `digest` VARBINARY(64) NULL, `baseline` LONGTEXT CHARACTER SET ascii NULL,
      PRIMARY KEY (`step`)""",
    # What was pushed of an import in parts: a row for each push. The first holds what the store was before.
    "ledger": """`step` BIGINT NOT NULL AUTO_INCREMENT, `push` VARCHAR(32) CHARACTER SET ascii NULL,
      `part` VARBINARY(3000) NULL, `isWhole` INTEGER NULL, `events` BIGINT NULL, `digest` VARBINARY(64) NULL,
      `baseline` LONGTEXT CHARACTER SET ascii NULL, PRIMARY KEY (`step`)""",
}


def definition(kind: str, name: str, collation: str) -> str:
    """The statement that makes a table of this kind, with the value of its comment. An older format of rows, which a
    server may take by itself, has no room for our keys."""
    columns = _COLUMNS[kind].format(
        text=f"VARCHAR(700) CHARACTER SET utf8mb4 COLLATE {collation} NOT NULL",
        # Text, not JSON: what came in goes out as it came.
        json=f"LONGTEXT CHARACTER SET utf8mb4 COLLATE {collation} NULL",
    )
    return f"CREATE TABLE {quoted(name)} ({columns}) ENGINE=InnoDB ROW_FORMAT=DYNAMIC COMMENT=%s"
