"""What a store's tables are like: those that eventferry makes are known, those that reSolve made are looked at."""

from __future__ import annotations

from dataclasses import dataclass

from eventferry.databases.mysql.connection import Connection
from eventferry.databases.mysql.payloads import REST_OF_STATEMENT, refuse_number, refuse_size
from eventferry.databases.mysql.tables import ORDER
from eventferry.databases.names import EVENT, Tables, refuse_foreign
from eventferry.lines.limits import ColumnLimits
from eventferry.lines.payload import may_have_long_exponent


@dataclass(frozen=True, slots=True)
class Shape:
    """What statements must know about the events table. The collation is that of its identifiers, `order_key` the name
    of the index for the order; with `has_json` the payload column is MySQL's binary JSON."""

    is_ours: bool
    collation: str
    order_key: str | None
    has_json: bool = False
    id_length: int = 700
    type_length: int = 700

    @property
    def folds(self) -> bool:
        """Whether the server takes different identifiers for the same, by case or accent or blanks at the end."""
        return not self.is_ours

    @property
    def time_hint(self) -> str:
        """Keeps the server from finding events of a timestamp by anything else than a timestamp."""
        return "FORCE INDEX (`order`)" if self.is_ours else "IGNORE INDEX (PRIMARY, `aggregate`)"

    def same(self, column: str, value: str) -> str:
        """The condition that an identifier is this value, byte by byte, by the column's index."""
        if not self.folds:
            return f"{column} = {value}"
        return f"({column} = {value} AND CAST({column} AS BINARY) = CAST({value} AS BINARY))"

    def same_column(self, column: str, other: str) -> str:
        """The condition that an identifier is that of a column of a stage, whose collation is another."""
        return self.same(column, other if not self.folds else f"({other} COLLATE {self.collation})")

    def among(self, column: str, name: str) -> str:
        if not self.folds:
            return f"{column} IN %({name})s"
        return f"({column} IN %({name})s AND CAST({column} AS BINARY) IN %({name})s)"

    def limits(self, packet: int) -> ColumnLimits:
        def refuse(payload: bytes) -> str | None:
            return refuse_size(payload, packet) or (refuse_number(payload) if self.has_json else None)

        def all_survive(lines: bytes, longest: int) -> bool:
            is_small = 2 * longest <= packet - REST_OF_STATEMENT
            return is_small and not self.has_json and not may_have_long_exponent(lines)

        return ColumnLimits(self.id_length, self.type_length, refuse_payload=refuse, all_survive=all_survive)


OURS = Shape(is_ours=True, collation="", order_key="order")  # the shape of tables that eventferry makes


def read_shape(connection: Connection, tables: Tables, *, is_ours: bool) -> Shape:
    """The shape of tables. Raises StoreNotFoundError for those of another program."""
    columns = {
        str(name): (str(kind), length, collation)
        for name, kind, length, collation in connection.query(
            """SELECT column_name, data_type, character_maximum_length, collation_name
            FROM information_schema.columns WHERE table_schema = %s AND table_name = %s""",
            (connection.access.database, tables.events),
        )
    }
    refuse_foreign(connection.access.place, tables.events, EVENT, columns)
    if is_ours:
        return OURS
    indexed: dict[str, list[str]] = {}
    for name, column in connection.query(
        """SELECT index_name, column_name FROM information_schema.statistics
        WHERE table_schema = %s AND table_name = %s ORDER BY index_name, seq_in_index""",
        (connection.access.database, tables.events),
    ):
        indexed.setdefault(name, []).append(column)
    _, id_length, collation = columns["aggregateId"]
    return Shape(
        is_ours=False,
        collation=str(collation),
        order_key=next((name for name, found in indexed.items() if tuple(found[:3]) == ORDER), None),
        has_json=columns["payload"][0] == "json",
        id_length=int(id_length),
        type_length=int(columns["type"][1]),
    )
