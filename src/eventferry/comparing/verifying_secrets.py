"""Verify the secrets of two sources: are they equal?

A secret itself is read, and then forgotten: what is compared, and what waits in files, is a hash of it with a key that
lasts as long as the comparison.
"""

from __future__ import annotations

import hashlib
import secrets as randomness
from collections.abc import Hashable, Iterator
from typing import NamedTuple

import msgspec

from eventferry.comparing.side_by_side import (
    ALONE,
    SIDES,
    WAITING_BYTES,
    Comparison,
    Findings,
    Kind,
    Side,
    meet,
)
from eventferry.comparing.spill import Spill
from eventferry.lines.piping import Source
from eventferry.secrets import decode_line

_OVERHEAD = 300
"""About what a waiting row costs beside its id."""


class SecretDifference(msgspec.Struct, frozen=True, rename="camel"):
    """One difference; it holds no secret.

    Attributes:
        kind: "missing" (only the first source has the id), "extra" (only the second), "changed".
        id: of the secret.
        deleted: whether it is deleted in the first source; None if it is not there.
        other_deleted: likewise in the second.
        fields: of a changed one: "deleted" (in one of the two, and living in the other), "secret", "idx".
    """

    kind: Kind
    id: str
    deleted: bool | None
    other_deleted: bool | None
    fields: tuple[str, ...] = ()


class SecretsVerifyReport(msgspec.Struct, frozen=True, rename="camel"):
    """What `verify_secrets` returns.

    Attributes:
        equal: whether there is no difference.
        secrets: how many rows the first source has, deleted ones included.
        other_secrets: how many the second has.
        missing: ids that only the first has.
        extra: ids that only the second has.
        changed: ids that both have, but not alike.
        differences: the first of them, by their ids.
    """

    equal: bool
    secrets: int
    other_secrets: int
    missing: int
    extra: int
    changed: int
    differences: list[SecretDifference]


class _Row(NamedTuple):
    """A secret without the secret: `mark` is its hash, None if it is deleted."""

    id: str
    idx: int
    mark: bytes | None


async def verify_secrets(
    source: Source, other: Source, *, content: bool = False, waiting_bytes: int = WAITING_BYTES
) -> SecretsVerifyReport:
    """Compare two sources of lines of secrets.

    Args:
        source: as of a pipeline: `export_secrets(tombstones=True)` of a store, any iterator of blocks, a file or its
            path. Deleted secrets belong to the comparison, so an export without them lacks something.
        other: what should be equal to it.
        content: let `idx` differ, as it may after secrets of two stores were put together.
        waiting_bytes: how much of what has not met its equal yet may wait in memory; the rest waits in files
            of the temporary directory, hashed.

    Raises:
        InputError: a line is no secret.
    """
    key = randomness.token_bytes(32)

    def decode(text: bytes) -> _Row:
        line = decode_line(text)
        mark = None if line.secret is None else hashlib.blake2b(line.secret.encode(), key=key).digest()
        return _Row(line.id, 0 if content else line.idx, mark)

    findings = Findings(_place)
    with Spill(tuple[_Row, Side], key=_id_of) as spill:
        seen = await meet(source, other, decode, _ById(findings), spill, waiting_bytes)
    return SecretsVerifyReport(
        equal=findings.are_none,
        secrets=seen[0],
        other_secrets=seen[1],
        missing=findings.counts["missing"],
        extra=findings.counts["extra"],
        changed=findings.counts["changed"],
        differences=findings.first,
    )


def _id_of(record: tuple[_Row, Side]) -> Hashable:
    return record[0].id


def _place(difference: SecretDifference) -> tuple[str, str]:
    return difference.id, difference.kind


class _ById(Comparison[_Row]):
    """Two rows of one id belong together, and where they differ they are one that was changed."""

    def __init__(self, findings: Findings[SecretDifference]) -> None:
        self._findings = findings
        self._sides: tuple[dict[str, list[_Row]], dict[str, list[_Row]]] = ({}, {})

    def are_equal(self, row: _Row, other: _Row) -> bool:
        return row == other

    def add(self, row: _Row, side: Side) -> None:
        others = self._sides[1 - side]
        waiting = others.get(row.id)
        if waiting is None:
            self._sides[side].setdefault(row.id, []).append(row)
            self.waiting += _size(row)
            return
        other = waiting.pop(0)
        if not waiting:
            del others[row.id]
        self.waiting -= _size(other)
        first, second = (other, row) if side else (row, other)
        fields = []
        if (first.mark is None) != (second.mark is None):
            fields.append("deleted")
        elif first.mark != second.mark:
            fields.append("secret")
        if first.idx != second.idx:
            fields.append("idx")
        if fields:
            self._findings.note(
                SecretDifference("changed", row.id, first.mark is None, second.mark is None, tuple(fields))
            )

    def take(self) -> Iterator[tuple[_Row, Side]]:
        sides, self._sides, self.waiting = self._sides, ({}, {}), 0
        for side in SIDES:
            for rows in sides[side].values():
                for row in rows:
                    yield row, side

    def note_alone(self, row: _Row, side: Side) -> None:
        deleted = row.mark is None
        self._findings.note(
            SecretDifference(ALONE[side], row.id, None if side else deleted, deleted if side else None)
        )


def _size(row: _Row) -> int:
    return len(row.id) + _OVERHEAD
