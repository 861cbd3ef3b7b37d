"""How small statements are written for MySQL and MariaDB."""

from __future__ import annotations

from collections.abc import Sequence

from eventferry.databases.dialect import Condition, Dialect, Value
from eventferry.databases.mysql.tables import quoted
from eventferry.databases.names import Tables


def begins(column: str, value: str) -> str:
    """That a column begins with a text, as an SQL expression with the text twice in it."""
    # As bytes: the collation of a column that reSolve made takes different texts for the same.
    prefix = f"CAST({value} AS BINARY)"
    return f"LEFT(CAST({column} AS BINARY), LENGTH({prefix})) = {prefix}"


class MysqlDialect(Dialect):
    """MySQL's, for a store in this database."""

    snapshot_key = "SnapshotKey"
    snapshot_content = "SnapshotContent"
    arrival = "arrival"
    of_table = " ENGINE=InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    is_standby = "@@global.read_only"
    insert_tells = False

    def __init__(self, tables: Tables, database: str) -> None:
        super().__init__(tables)
        self._database = database

    def table(self, name: str) -> str:
        return quoted(name)

    def column(self, name: str) -> str:
        return quoted(name)

    def columns(self, table: str) -> tuple[str, tuple[Value, ...]]:
        return (
            """SELECT column_name, character_maximum_length, is_nullable = 'YES', data_type
            FROM information_schema.columns WHERE table_schema = %s AND table_name = %s""",
            (self._database, table),
        )

    def among(self, column: str, texts: Sequence[str]) -> Condition:
        # By the column's own collation, for its index, which in reSolve's tables takes different texts for the same.
        found = super().among(column, texts)
        exact = f"CAST({self.column(column)} AS BINARY) IN ({', '.join(['%s'] * len(texts))})"
        values = tuple(text.encode() for text in texts)
        return Condition(f"({found.text} AND {exact})", found.values + values) if texts else found

    def begins(self, column: str, prefix: str) -> Condition:
        return Condition(begins(self.column(column), "%s"), (prefix, prefix))

    def grouped(self, column: str) -> str:
        # As bytes: the collation of a column that reSolve made takes different texts for the same.
        return f"CAST({self.column(column)} AS BINARY)"

    @property
    def payload_size(self) -> str:
        return "IFNULL(LENGTH(`payload`), 4)"

    def json(self, column: str) -> str:
        return f"CAST(IFNULL({self.column(column)}, 'null') AS BINARY)"

    def if_absent(self, key: Sequence[str]) -> str:
        # Not INSERT IGNORE, which would cut what is too long.
        column = self.column(key[0])
        return f"ON DUPLICATE KEY UPDATE {column} = {column}"

    @property
    def estimate(self) -> str:
        database, events = _literal(self._database), _literal(self.tables.events)
        return f"""(SELECT table_rows FROM information_schema.tables
          WHERE table_schema = {database} AND table_name = {events})"""


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "''").replace("%", "%%")
    return f"'{escaped}'"
