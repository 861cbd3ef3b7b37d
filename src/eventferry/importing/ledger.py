"""The ledger of an import in parts: a row for each push, beside the stage.

Each push has a number, its step, and the rows that it stages are numbered from its step on. So a push that did not come
to its end, or that a later one of the same part replaces, only need not be counted; its rows are found by their
numbers and go before the commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from secrets import token_hex
from typing import NamedTuple

from eventferry.database import Reading, Stage, Writing

LINES = 2**32
"""How many lines a part has at most: so many numbers each step has for its rows."""

_CHUNK = 100  # steps whose rows go with one statement


class Entered(NamedTuple):
    """A push that has begun. A number can be given once more when a push was dropped, a name cannot."""

    step: int
    name: str


class Push(NamedTuple):
    """A row of the ledger."""

    step: int
    part: bytes
    is_whole: bool  # whether it came to its end
    events: int
    digest: bytes  # of all bytes of the part


def place_of(number: int) -> tuple[int, int]:
    """The step that staged a row, and the row's line in its part."""
    return divmod(number, LINES)


def first_number(step: int) -> int:
    """What is added to the numbers of a part's lines."""
    return step * LINES


def _names(reading: Reading, stage: Stage) -> tuple[str, list[str]]:
    dialect = reading.dialect
    columns = ("step", "part", "isWhole", "events", "digest")
    return dialect.table(dialect.tables.progress_of(stage.owner or "")), list(map(dialect.column, columns))


async def enter(writing: Writing, stage: Stage, part: bytes) -> Entered:
    """Note that a push of a part begins."""
    table, (step, *others) = _names(writing, stage)
    push = writing.dialect.column("push")
    token = token_hex(16)
    await writing.change(
        f"INSERT INTO {table}({push}, {', '.join(others)}) VALUES (%s, %s, 0, 0, %s)", (token, part, b"")
    )
    [(number,)] = await writing.ask(f"SELECT {step} FROM {table} WHERE {push} = %s", (token,))
    return Entered(int(number), token)


async def stands(writing: Writing, stage: Stage, push: Entered) -> bool:
    """Whether a push was not dropped since it began."""
    table, (step, *_) = _names(writing, stage)
    name = writing.dialect.column("push")
    return bool(await writing.ask(f"SELECT {step} FROM {table} WHERE {name} = %s", (push.name,)))


async def read(reading: Reading, stage: Stage) -> list[Push]:
    """All pushes, in the order in which they began."""
    table, columns = _names(reading, stage)
    return await _found(reading, f"SELECT {', '.join(columns)} FROM {table} WHERE {columns[1]} IS NOT NULL")


async def of_part(reading: Reading, stage: Stage, part: bytes) -> list[Push]:
    """The pushes of one part."""
    table, columns = _names(reading, stage)
    return await _found(reading, f"SELECT {', '.join(columns)} FROM {table} WHERE {columns[1]} = %s", part)


async def _found(reading: Reading, statement: str, *values: bytes) -> list[Push]:
    rows = await reading.ask(statement, values)
    return sorted(
        Push(step, bytes(part), bool(whole), events, bytes(digest))
        for step, part, whole, events, digest in rows
    )


async def close(writing: Writing, stage: Stage, push: Entered, events: int, digest: bytes) -> None:
    """Note that a push, which stands, came to its end: from now on it counts."""
    table, (step, _, whole, count, sum_) = _names(writing, stage)
    await writing.change(
        f"UPDATE {table} SET {whole} = 1, {count} = %s, {sum_} = %s WHERE {step} = %s",
        (events, digest, push.step),
    )


async def drop(writing: Writing, stage: Stage, numbers: Iterable[int]) -> None:
    """Remove pushes with all rows that they staged."""
    left: Sequence[int] = sorted(numbers)
    table, (step, *_) = _names(writing, stage)
    rows, line = writing.dialect.table(stage.table), writing.dialect.column(writing.dialect.line)
    for at in range(0, len(left), _CHUNK):
        chunk = left[at : at + _CHUNK]
        spans = " OR ".join(
            f"{line} BETWEEN {first_number(one)} AND {first_number(one + 1) - 1}" for one in chunk
        )
        await writing.change(f"DELETE FROM {rows} WHERE {spans}")
        await writing.change(f"DELETE FROM {table} WHERE {step} IN ({', '.join(map(str, chunk))})")
