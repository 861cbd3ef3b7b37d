"""Secrets: the keys of what events encrypt, kept apart so that deleting one makes that unreadable.

Setting and deleting a secret also stores an event, as reSolve does, whose payload names the secret's id and
never the secret.
"""

from __future__ import annotations

import secrets as randomness
import string
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from eventferry.clock import now
from eventferry.cursor import MAX_COUNTER
from eventferry.database import Database, ExclusiveWriting, Frozen, Reading, Writing
from eventferry.databases.dialect import Column, Condition
from eventferry.databases.names import left_out
from eventferry.errors import (
    InputError,
    SecretConflictError,
    SecretExistsError,
    SecretNotErasedError,
    StoreClosedError,
    UnsupportedStoreError,
)
from eventferry.importing.batch import PART
from eventferry.lines.blocks import DEFAULT_MAX_LINE_BYTES, LineSplitter
from eventferry.lines.event import Event, EventInput, NewRow, Row
from eventferry.lines.held_back import HeldBack
from eventferry.lines.limits import MAX_SAFE_INTEGER, check_limits, check_text, full_thread
from eventferry.lines.payload import encode_payload, plain_text
from eventferry.lines.spelling import LONE_SURROGATE, lone_surrogate
from eventferry.operation_log import Operation, counts_of
from eventferry.reading.arguments import check_integer
from eventferry.state import owners
from eventferry.state.small_tables import all_of, columns

SET_SECRET = "RESOLVE_SET_SECRET"  # noqa: S105 -- the type of an event
DELETE_SECRET = "RESOLVE_DELETE_SECRET"  # noqa: S105
PAGE = 200

MAX_ID_LENGTH = 660
"""So that the aggregateId of the event about a secret, which holds the secret's id, fits its column."""


class Secret(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of secrets: `secret` is None where it was deleted."""

    secret: str | None
    id: Annotated[str, msgspec.Meta(max_length=700)]
    idx: Annotated[int, msgspec.Meta(ge=0, le=MAX_SAFE_INTEGER)]

    def __repr__(self) -> str:
        return f"Secret(id={self.id!r}, idx={self.idx})"  # never the secret: representations end up in logs


class SecretsPage(msgspec.Struct, frozen=True):
    """A page of secrets.

    Attributes:
        secrets: in order of idx.
        idx: the next to ask for; None if none came.
    """

    secrets: list[Secret]
    idx: int | None


class GatheredSecrets(msgspec.Struct, frozen=True, rename="camel"):
    """What events say about secrets.

    Attributes:
        existing_secrets: rows of the secrets that were set, tombstones included.
        deleted_secrets: ids of those that were deleted.
    """

    existing_secrets: list[Secret]
    deleted_secrets: list[str]


class SecretsReport(msgspec.Struct, frozen=True, rename="camel"):
    """What an import of secrets returns.

    Attributes:
        imported: rows that came in, tombstones included.
        skipped_existing: rows that the store held already.
        skipped_deleted: secrets that the store has deleted; they stay deleted.
        deleted: secrets of the store that a tombstone of the input deleted.
    """

    imported: int = 0
    skipped_existing: int = 0
    skipped_deleted: int = 0
    deleted: int = 0


def _event_about(event_type: str, secret_id: str) -> NewRow:
    """reSolve's `makeSetSecretEvent` / `makeDeleteSecretEvent`: an aggregate of its own for each."""
    alphabet = string.ascii_letters + string.digits + "_-"
    salt = "".join(randomness.choice(alphabet) for _ in range(10))
    return NewRow(now(), f"{event_type}_{secret_id}_{salt}", event_type, encode_payload({"id": secret_id}))


async def _append(writing: ExclusiveWriting, event: NewRow) -> None:
    """Store the first event of an aggregate."""
    timestamp, aggregate_id, event_type, payload = event
    check_limits(await writing.limits(), aggregate_id, event_type, payload)
    heads = await writing.heads()
    [(_, thread)] = await writing.next_places([(aggregate_id, timestamp)])
    if heads[thread] > MAX_COUNTER:
        raise full_thread(thread)
    await writing.append([Row(thread, heads[thread], timestamp, aggregate_id, 1, event_type, payload)])


def _checked(secret_id: str, secret: str) -> tuple[str, str]:
    for field, value in (("id", secret_id), ("secret", secret)):
        if not isinstance(value, str):
            raise InputError(f"is a string, not {type(value).__name__}", field=field)
        check_text(field, value)
    if len(secret_id) > MAX_ID_LENGTH:
        raise InputError(f"is longer than {MAX_ID_LENGTH} characters", field="id")
    return plain_text(secret_id), plain_text(secret)


def _next(idx: int) -> int:
    """The idx behind the highest, if there can be one."""
    if idx > MAX_SAFE_INTEGER:
        raise UnsupportedStoreError(
            f"a secret has the idx {MAX_SAFE_INTEGER}, the highest there is: none can follow it. Nothing was stored"
        )
    return idx


async def set_secret(database: Database, secret_id: str, secret: str) -> None:
    """Add a secret and store the event that says so."""
    secret_id, secret = _checked(secret_id, secret)
    async with owners.writing(database, "exclusive", secrets=True) as writing:
        table = await _Table.of(writing)
        idx = _next(await table.free())
        present = await get(writing, secret_id)
        if present is not None:
            was = "was deleted" if present.secret is None else "is set"
            raise SecretExistsError(f"the secret {secret_id!r} {was}, and an id is used once")
        await table.insert([(None, Secret(secret, secret_id, idx))])
        await table.end_inserts()
        await _append(writing, _event_about(SET_SECRET, secret_id))


async def delete_secret(database: Database, secret_id: str) -> bool:
    """Make a secret a tombstone and store the event that says so; False, and no event, if there was none."""
    async with owners.writing(database, "exclusive", secrets=True) as writing:
        present = await get(writing, secret_id)
        if present is None:
            return False
        # Also where it was deleted before: the call that did it may have had to say that a copy was left.
        await (await _Table.of(writing)).erase([secret_id])
        if present.secret is not None:
            await _append(writing, _event_about(DELETE_SECRET, secret_id))
    return present.secret is not None


async def load(
    database: Database,
    *,
    limit: int,
    idx: int | None,
    skip: int | None,
    ids: Sequence[str] | None,
    include_deleted: bool,
) -> SecretsPage:
    """A page of secrets."""
    check_integer("limit", limit, 0)
    check_integer("idx", idx, 0, optional=True)
    check_integer("skip", skip, 0, optional=True)
    async with database.reading() as reading:
        rows = await _page(reading, idx or 0, limit, skip or 0, ids, include_deleted=include_deleted)
    return SecretsPage(rows, rows[-1].idx + 1 if rows else None)


async def gather(database: Database, events: Iterable[EventInput]) -> GatheredSecrets:
    """The secrets that events set, as they stand now, and the ids of those that they deleted."""
    named: list[str] = []
    deleted: list[str] = []
    for place, event in enumerate(events, 1):
        if not isinstance(event, Event | Mapping):
            raise InputError(
                f"an event is a dict or an Event, not {type(event).__name__}", line=place, unit="event"
            )
        event_type = event.type if isinstance(event, Event) else event.get("type")
        payload: Any = event.payload if isinstance(event, Event) else event.get("payload")
        if event_type not in (SET_SECRET, DELETE_SECRET):
            continue
        if not isinstance(payload, dict) or not isinstance(payload.get("id"), str):
            raise InputError(f"an event {event_type} names the id of a secret", field="payload")
        (named if event_type == SET_SECRET else deleted).append(payload["id"])
    async with database.reading() as reading:
        rows = await _page(reading, 0, len(named), 0, named, include_deleted=True)
    return GatheredSecrets(rows, deleted)


_COLUMNS = "secret, id, idx"


async def get(reading: Reading, secret_id: str) -> Secret | None:
    """A row of secrets; None if there is none."""
    rows = await _page(reading, 0, 1, 0, [secret_id], include_deleted=True)
    return rows[0] if rows else None


async def _page(
    reading: Reading,
    start: int,
    limit: int,
    skip: int,
    ids: Sequence[str] | None = None,
    *,
    include_deleted: bool,
) -> list[Secret]:
    """Rows from idx `start` on, in order of idx."""
    dialect = reading.dialect
    wanted = [Condition("idx >= %s", (start,))]
    if not include_deleted:
        wanted.append(Condition("secret IS NOT NULL"))
    if ids is not None:
        wanted.append(dialect.among("id", ids))
    where = all_of(*wanted)
    rows = await reading.ask(
        f"""SELECT {_COLUMNS} FROM {dialect.table(dialect.tables.secrets)} WHERE {where.text}
        ORDER BY idx LIMIT %s OFFSET %s""",
        (*where.values, limit, skip),
    )
    return [Secret(*row) for row in rows]


class _Table:
    """The table of secrets in a write transaction that holds it, and what its columns can hold."""

    def __init__(self, writing: Writing, known: Mapping[str, Column]) -> None:
        self._writing = writing
        self._name = writing.dialect.tables.secrets
        self._table = writing.dialect.table(self._name)
        self._id_length = known["id"].length
        self._keeps_tombstones = known["secret"].is_nullable

    @classmethod
    async def of(cls, writing: Writing) -> _Table:
        return cls(writing, await columns(writing, writing.dialect.tables.secrets))

    async def free(self) -> int:
        """The idx behind the highest."""
        [(free,)] = await self._writing.ask(f"SELECT coalesce(max(idx), -1) + 1 FROM {self._table}")
        return int(free)

    async def among(self, ids: Sequence[str], numbers: Sequence[int]) -> list[Secret]:
        """Rows that have one of these ids or one of these idx."""
        named = self._writing.dialect.among("id", ids)
        rows = await self._writing.ask(
            f"""SELECT {_COLUMNS} FROM {self._table} WHERE {named.text}
            UNION SELECT {_COLUMNS} FROM {self._table} WHERE idx IN ({", ".join(map(str, numbers))})""",
            named.values,
        )
        return [Secret(*row) for row in rows]

    async def insert(self, rows: Sequence[tuple[int | None, Secret]]) -> None:
        """Add rows whose ids and idx are free, each with the number of its line. Raises InputError."""
        for number, row in rows:
            if self._id_length is not None and len(row.id) > self._id_length:
                raise InputError("is longer than the store's column", line=number, field="id")
        if not self._keeps_tombstones and any(row.secret is None for _, row in rows):
            raise UnsupportedStoreError(
                f"the table {self._name!r} cannot say that a secret was deleted: reSolve made it so"
            )
        for some in _in_statements([row for _, row in rows]):
            marks = ", ".join(["(%s, %s, %s)"] * len(some))
            inserted = await self._writing.change(
                f"INSERT INTO {self._table}({_COLUMNS}) VALUES {marks}",
                [value for row in some for value in (row.secret, row.id, row.idx)],
            )
            if inserted != len(some):
                raise left_out(self._name)

    async def end_inserts(self) -> None:
        """What must follow when rows were inserted, once."""
        if (statement := self._writing.dialect.after_secrets) is not None:
            await self._writing.ask(statement)

    async def erase(self, ids: Sequence[str]) -> None:
        """Make rows tombstones; where the table cannot hold such, remove them. When the transaction has ended no copy
        is left."""
        named = self._writing.dialect.among("id", ids)
        erase = "UPDATE {} SET secret = NULL" if self._keeps_tombstones else "DELETE FROM {}"
        statement = f"{erase.format(self._table)} WHERE {named.text}"
        erased = await self._writing.change(statement, named.values, erases=True)
        if erased != len(ids):
            raise left_out(self._name)


def _in_statements(rows: Sequence[Secret]) -> Iterator[list[Secret]]:
    """Rows in pieces that fit in a statement, whatever a server takes for one; a long row alone."""
    some: list[Secret] = []
    size = 0
    for row in rows:
        more = len(row.secret or "") + len(row.id)
        if some and size + more > _STATEMENT:
            yield some
            some, size = [], 0
        some.append(row)
        size += more
    if some:
        yield some


_STATEMENT = 128 * 1024
"""Characters of a statement that inserts secrets, about."""


class SecretsExport:
    """An async iterator of blocks of lines `{"secret","id","idx"}`.

    Attributes:
        idx: the next to be read; an export from there goes on.
    """

    def __init__(self, database: Database, *, idx: int | None, tombstones: bool) -> None:
        self._database = database
        self._tombstones = tombstones
        self._operation = Operation("export-secrets", database)
        self._blocks = self._read()
        self.idx = idx or 0
        self.exported = 0

    def __aiter__(self) -> SecretsExport:
        return self

    async def __anext__(self) -> bytes:
        with self._database.life.running():
            return await anext(self._blocks)

    async def aclose(self) -> None:
        """End now."""
        await self._blocks.aclose()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        with self._operation as operation:
            held = HeldBack()
            while True:
                async with self._database.reading() as reading:
                    rows = await _page(reading, self.idx, PAGE, 0, include_deleted=self._tombstones)
                if not rows:
                    break
                self.idx = rows[-1].idx + 1
                self.exported += len(rows)
                operation.counts = {"secrets": self.exported}
                yield held.all_but_the_end(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
            if held.rest:
                yield held.rest


_LINES = msgspec.json.Decoder(Secret)


def decode_line(text: bytes) -> Secret:
    """A line of secrets. Raises an InputError without a place, and without anything of the secret."""
    if lone_surrogate(text) is not None:
        raise InputError(LONE_SURROGATE)
    try:
        line = _LINES.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        # Not the parser's words alone: they could quote the secret.
        raise InputError(f"is not a secret: {str(error).splitlines()[0]}") from None
    check_text("id", line.id)
    check_text("secret", line.secret or "")
    return line


class SecretsImport:
    """A sink for blocks of lines of secrets: all of them come in, or on an error none.

    They wait in memory until the end, not in a stage: a key is written down where it belongs and nowhere else.
    """

    def __init__(self, database: Database, *, frozen: Frozen = "refuse") -> None:
        self._database = database
        self._frozen: Frozen = frozen
        self._splitter = LineSplitter(DEFAULT_MAX_LINE_BYTES)
        self._lines: list[tuple[int | None, Secret]] = []
        self._state = "open"
        self._report = SecretsReport()
        self._operation = Operation("import-secrets", database)

    async def __aenter__(self) -> SecretsImport:
        return self

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            await self.close()
        else:
            await self.abort(error)

    async def write(self, block: bytes) -> None:
        """Take a block. Raises InputError for a line that is not a secret."""
        if self._state != "open":
            raise StoreClosedError("this import of secrets is over")
        try:
            self._operation.begin()
            self._lines.extend(self._splitter.feed(block).decoded(decode_line))
        except BaseException as error:
            await self.abort(error)
            raise

    async def close(self) -> SecretsReport:
        """Store them; the report. Twice is fine."""
        if self._state == "open":
            self._state = "aborted"
            with self._operation as operation:
                self._lines.extend(self._splitter.finish().decoded(decode_line))
                try:
                    async with owners.writing(self._database, frozen=self._frozen, secrets=True) as writing:
                        self._report = await store_lines(writing, self._lines)
                except SecretNotErasedError:
                    self._stored(operation)
                    raise
                self._stored(operation)
        elif self._state == "aborted":
            raise StoreClosedError("this import of secrets was aborted")
        return self._report

    def _stored(self, operation: Operation) -> None:
        self._lines = []
        self._state = "closed"
        operation.counts = counts_of(self._report)

    async def abort(self, error: BaseException | None = None) -> None:
        """End without storing; twice is fine."""
        if self._state == "open":
            self._state = "aborted"
            self._operation.fail(error)
        self._lines = []


async def store_lines(writing: Writing, lines: Sequence[tuple[int | None, Secret]]) -> SecretsReport:
    """Store rows of another store, each with the number of its line: what is there is skipped, and deleted secrets stay
    deleted. Raises SecretConflictError."""
    counts: Counter[str] = Counter()
    table = await _Table.of(writing)
    free = await table.free()
    for start in range(0, len(lines), PART):
        part = lines[start : start + PART]
        rows = await table.among([line.id for _, line in part], [line.idx for _, line in part])
        known = {row.id: row.secret for row in rows}
        taken = {row.idx for row in rows}
        new: list[tuple[int | None, Secret]] = []
        erased: list[str] = []
        for number, line in part:
            if line.id not in known:
                idx = _next(free) if line.idx in taken else line.idx
                free = max(free, idx + 1)
                taken.add(idx)
                known[line.id] = line.secret
                new.append((number, Secret(line.secret, line.id, idx)))
                counts["imported"] += 1
                continue
            present = known[line.id]
            if present == line.secret:
                counts["skipped_existing"] += 1
            elif present is None:
                counts["skipped_deleted"] += 1
            elif line.secret is None:
                known[line.id] = None
                erased.append(line.id)
                counts["deleted"] += 1
            else:
                place = "" if number is None else f"line {number}: "
                raise SecretConflictError(
                    f"{place}the store holds another secret with the id {line.id!r}; nothing was imported"
                )
        await table.insert(new)
        if erased:
            await table.erase(erased)
    if counts["imported"]:
        await table.end_inserts()
    return SecretsReport(**counts)
