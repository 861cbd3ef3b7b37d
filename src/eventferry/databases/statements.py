"""Statements on events and stages that every database takes alike."""

from __future__ import annotations

from eventferry.clock import now
from eventferry.database import Clash, Reading, Stage, StageKind
from eventferry.databases.names import Tables, new_owner


async def first_clash(reading: Reading, table: str, line: str, key: tuple[str, str]) -> Clash | None:
    """The first line of a stage whose key an earlier one has; `line` is the column of their numbers."""
    dialect = reading.dialect
    columns = ", ".join(map(dialect.column, key))
    rows = await reading.ask(
        f"""SELECT min({line}), max({line}), {columns} FROM (
          SELECT {line}, {columns}, row_number() OVER (PARTITION BY {columns} ORDER BY {line}) AS place
          FROM {dialect.table(table)}
        ) AS numbered WHERE place <= 2 GROUP BY {columns} HAVING count(*) = 2 ORDER BY 2 LIMIT 1"""
    )
    if not rows:
        return None
    [(line_a, line_b, a, b)] = rows
    return Clash(line_a, line_b, key[1], f"{key[0]} {a!r} with {key[1]} {b}")


async def thread_of_the_latest(reading: Reading) -> int:
    """The thread whose last event comes after all others, wherever threads fall: what follows does too."""
    column, events = reading.dialect.column, reading.dialect.table(reading.dialect.tables.events)
    rows = await reading.ask(
        f"""SELECT {column("threadId")} FROM {events}
        WHERE {column("timestamp")} = (SELECT max({column("timestamp")}) FROM {events})
        ORDER BY {column("threadCounter")} DESC, {column("threadId")} DESC LIMIT 1"""
    )
    return int(rows[0][0]) if rows else 0


async def knows_parts(reading: Reading, table: str) -> bool:
    """Whether a stage has the column that orders parts; one that the real reSolve opened has none."""
    columns, values = reading.dialect.columns(table)
    return any(name == "part" for name, *_ in await reading.ask(columns, values))


def whole_stage(tables: Tables, kind: StageKind, owner: str | None, baseline: str | None) -> Stage:
    """A new stage that keeps positions. Who makes one of parts drives it, and nobody owns it until a commit does."""
    own, driver = (new_owner(), owner) if kind == "parts" or owner is None else (owner, None)
    return Stage(own, kind, tables.stage_of(own), own, now(), baseline, driver)
