"""How small statements are written for SQLite."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from eventferry.databases.dialect import COUNTED, Column, Condition, Dialect, Value
from eventferry.databases.sqlite.payloads import refuse_number
from eventferry.databases.sqlite.tables import quoted

_MARK = re.compile("%(.)")


def bound(statement: str) -> str:
    """A statement of the dialect as SQLite takes it."""
    return _MARK.sub(lambda found: "?" if found[1] == "s" else found[1], statement)


# In foreign tables the column may have numeric affinity, and a writer may have left white space.
def foreign(column: str) -> str:
    """The JSON text of a column of a foreign table, as an SQL expression."""
    return f"""CASE typeof({column})
      WHEN 'text' THEN CASE
        WHEN instr({column}, ' ') OR instr({column}, char(9)) OR instr({column}, char(10)) OR instr({column}, char(13))
        THEN eventferry_compact({column}) ELSE {column} END
      WHEN 'integer' THEN {column}
      WHEN 'real' THEN eventferry_number({column})
      WHEN 'null' THEN 'null'
      ELSE CAST({column} AS TEXT) END"""


def begins(column: str, value: str) -> str:
    """That a column begins with a text, as an SQL expression with the text twice in it."""
    # As bytes: LIKE takes different cases for the same, and % and _ for any character.
    prefix = f"CAST({value} AS BLOB)"
    return f"substr(CAST({column} AS BLOB), 1, length({prefix})) = {prefix}"


class SqliteDialect(Dialect):
    """SQLite's."""

    snapshot_content = "content"
    computed_once = "LIMIT -1"
    line = "rowid"

    def table(self, name: str) -> str:
        return quoted(name).replace("%", "%%")

    def columns(self, table: str) -> tuple[str, tuple[Value, ...]]:
        # No declared length is a limit here.
        return """SELECT name, NULL, "notnull" = 0, type FROM pragma_table_info(%s)""", (table,)

    def among(self, column: str, texts: Sequence[str]) -> Condition:
        if len(texts) == 1:  # it may hold U+0000, at which SQLite's JSON functions end a text
            return Condition(f"{self.column(column)} = %s", tuple(texts))
        # As one value, for of those a statement takes some thousands at most.
        return Condition(
            f"{self.column(column)} IN (SELECT value FROM json_each(%s))", (json.dumps(list(texts)),)
        )

    def begins(self, column: str, prefix: str) -> Condition:
        return Condition(begins(self.column(column), "%s"), (prefix, prefix))

    def grouped(self, column: str) -> str:
        return f"+{self.column(column)}"

    @property
    def payload_size(self) -> str:
        return """coalesce(length(CAST("payload" AS BLOB)), 4)"""

    def json(self, column: str) -> str:
        return f"CAST({foreign(self.column(column))} AS BLOB)"

    @property
    def estimate(self) -> str:
        # Rows are numbered one after another as they come, and those of an import by their lines.
        events = self.table(self.tables.events)
        return f"""(SELECT CASE WHEN last < {COUNTED} THEN (SELECT count(*) FROM {events}) ELSE last END
          FROM (SELECT coalesce(max(rowid), 0) AS last FROM {events}))"""

    def refuse_json(self, payload: bytes, column: Column) -> str | None:
        return None if column.kind == "TEXT" else refuse_number(payload)
