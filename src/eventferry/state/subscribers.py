"""Subscribers: reSolve's registry of read models."""

from __future__ import annotations

from collections.abc import Mapping

from eventferry.database import Reading, Writing
from eventferry.databases.dialect import Column, Condition, Dialect
from eventferry.errors import InputError
from eventferry.lines.payload import decode_payload
from eventferry.results import Subscriber
from eventferry.state.small_tables import all_of, check_text, columns, put


async def load(
    reading: Reading, application_name: str | None, event_subscriber: str | None
) -> list[Subscriber]:
    """The registry, or the part of it that matches, in order of the names."""
    dialect = reading.dialect
    same = _same(dialect, application_name, event_subscriber)
    rows = await reading.ask(
        f"""SELECT {dialect.column("applicationName")}, {dialect.column("eventSubscriber")},
          {dialect.json("destination")}, {dialect.json("status")}
        FROM {dialect.table(dialect.tables.subscribers)} WHERE {same.text}""",
        same.values,
    )
    return [
        Subscriber(application, subscriber, decode_payload(destination), decode_payload(status))
        for application, subscriber, destination, status in sorted(rows, key=lambda row: row[:2])
    ]


async def save(
    writing: Writing, application_name: str, event_subscriber: str, destination: bytes | None, status: bytes
) -> bool:
    """Insert or replace a row, whose destination and status are JSON texts. Without a destination only the status of
    an existing row changes; False where there is none."""
    dialect = writing.dialect
    table = dialect.tables.subscribers
    known = await columns(writing, table)
    if destination is None:
        same = _same(dialect, application_name, event_subscriber)
        if not await writing.ask(f"SELECT 1 FROM {dialect.table(table)} WHERE {same.text}", same.values):
            return False
        await writing.change(
            f"UPDATE {dialect.table(table)} SET {dialect.column('status')} = %s WHERE {same.text}",
            (_json(dialect, known, "status", status), *same.values),
        )
        return True
    key = {"applicationName": application_name, "eventSubscriber": event_subscriber}
    for field, name in key.items():
        check_text(dialect, field, name)
        length = known[field].length if field in known else None
        if length is not None and len(name) > length:
            raise InputError(f"is longer than {length} characters", field=field)
    content = {"destination": destination, "status": status}
    await put(
        writing,
        table,
        key,
        {field: _json(dialect, known, field, payload) for field, payload in content.items()},
        f"the table of subscribers takes the names of {event_subscriber!r} and of another for the same",
    )
    return True


async def drop(writing: Writing, application_name: str, event_subscriber: str) -> None:
    """Remove a row."""
    dialect = writing.dialect
    same = _same(dialect, application_name, event_subscriber)
    await writing.change(
        f"DELETE FROM {dialect.table(dialect.tables.subscribers)} WHERE {same.text}", same.values
    )


def _json(dialect: Dialect, known: Mapping[str, Column], field: str, payload: bytes) -> str:
    if field in known and (reason := dialect.refuse_json(payload, known[field])) is not None:
        raise InputError(reason, field=field)
    return payload.decode()


def _same(dialect: Dialect, application_name: str | None, event_subscriber: str | None) -> Condition:
    given = {"applicationName": application_name, "eventSubscriber": event_subscriber}
    return all_of(*(dialect.among(column, [value]) for column, value in given.items() if value is not None))
