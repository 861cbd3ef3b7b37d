"""How small statements are written for PostgreSQL."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from eventferry.databases.dialect import Column, Condition, Dialect, Value
from eventferry.databases.postgresql.payloads import refuse_payload
from eventferry.databases.postgresql.tables import SIZE_OF_REST, Names, literal

_MARK = re.compile("%([s%])")


def bound(statement: str, values: Sequence[Value], literal_of: Callable[[bytes], str]) -> str:
    """A statement with its values in it: psycopg takes as long for hundreds of them as the server does."""
    rest = iter(values)

    def written(found: re.Match[str]) -> str:
        if found[1] == "%":
            return "%"
        value = next(rest)
        if value is None:
            return "NULL"
        if isinstance(value, int):
            return f"({value:d})"
        return literal_of(value.encode()) if isinstance(value, str) else f"decode('{value.hex()}', 'hex')"

    return _MARK.sub(written, statement)


def begins(column: str, value: str) -> str:
    """That a column begins with a text, as an SQL expression."""
    # LIKE would take % and _ for any character; a collation of the column's own may not know where a text begins.
    return f'starts_with({column} COLLATE "C", {value})'


class PostgresDialect(Dialect):
    """PostgreSQL's."""

    is_standby = "pg_is_in_recovery()"

    def __init__(self, names: Names) -> None:
        super().__init__(names.tables)
        self._names = names

    def table(self, name: str) -> str:
        return self._names.of(name)

    def columns(self, table: str) -> tuple[str, tuple[Value, ...]]:
        return (
            """SELECT attname::text, CASE WHEN atttypmod > 4 THEN atttypmod - 4 END, NOT attnotnull,
              format_type(atttypid, NULL) FROM pg_attribute
            WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped""",
            (self.value(table),),
        )

    def grants(self, table: str) -> tuple[str, tuple[Value, ...]]:
        return (
            """SELECT format('GRANT %%s ON TABLE %%s TO %%s', string_agg(DISTINCT privilege_type, ', '),
              to_regclass(%s), coalesce(nullif(grantee, 0)::regrole::text, 'PUBLIC'))
            FROM pg_class, aclexplode(coalesce(relacl, acldefault('r', relowner)))
            WHERE oid = to_regclass(%s) AND privilege_type IN ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
            GROUP BY grantee""",
            (self.value(table), self.value(self.tables.events)),
        )

    def value(self, table: str) -> str:
        """A table's name as `to_regclass` takes it."""
        return self.table(table).replace("%%", "%")

    def begins(self, column: str, prefix: str) -> Condition:
        return Condition(begins(self.column(column), "%s"), (prefix,))

    @property
    def payload_size(self) -> str:
        # What was reckoned when the event was stored: to print jsonb takes four times as long as to count it.
        rest = f"""octet_length("type") - octet_length("aggregateId") - {SIZE_OF_REST}"""
        return f"""greatest("eventSize" - {rest}, 1)"""

    def json(self, column: str) -> str:
        return f"convert_to({self.column(column)}::text, 'UTF8')"

    def refuse_text(self, text: str) -> str | None:
        if is_storable(text):
            return None
        return "holds the character U+0000 or a lone surrogate, which PostgreSQL cannot hold"

    def refuse_json(self, payload: bytes, column: Column) -> str | None:
        return refuse_payload(payload)

    @property
    def estimate(self) -> str:
        # reltuples is -1 in a table that nothing has looked at yet.
        events = self.table(self.tables.events)
        return f"""(SELECT CASE WHEN reltuples < 0 THEN (SELECT count(*) FROM {events}) ELSE reltuples::bigint END
          FROM pg_class WHERE oid = {literal(self.value(self.tables.events))}::regclass)"""

    @property
    def after_secrets(self) -> str:
        """reSolve takes the next number from the sequence, so that must stay ahead of what is given here."""
        secrets = self.table(self.tables.secrets)
        sequence = f"pg_get_serial_sequence({literal(self.value(self.tables.secrets))}, 'idx')"
        return f"""SELECT setval({sequence}, max("idx") + 1, false) FROM {secrets} WHERE {sequence} IS NOT NULL"""


def is_storable(text: str) -> bool:
    """Whether PostgreSQL can hold a text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
