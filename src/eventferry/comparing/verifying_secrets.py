"""Verify the secrets of two sources: are they equal?

Secrets are not kept. Comparisons and temporary files use keyed hashes of them; the key is discarded at the end.
"""

from __future__ import annotations

import hashlib
import secrets as randomness
from collections.abc import Hashable
from operator import itemgetter
from typing import NamedTuple

import msgspec

from eventferry.comparing.side_by_side import (
    ALONE,
    WAITING_BYTES,
    ByKey,
    Findings,
    Kind,
    Side,
    compare,
)
from eventferry.comparing.spill import Spill
from eventferry.lines.piping import Source
from eventferry.secrets import decode_line

_OVERHEAD = 300
"""Approximate size of a waiting row, beside its id."""


class SecretDifference(msgspec.Struct, frozen=True, rename="camel"):
    """One difference. It does not contain the secret.

    Attributes:
        kind: "missing" (only the first source has the id), "extra" (only the second), "changed".
        id: of the secret.
        deleted: whether it is deleted in the first source; None if that does not have it.
        other_deleted: whether it is deleted in the second source; None if that does not have it.
        fields: for a changed secret: "deleted" (in only one of the two), "secret", "idx".
    """

    kind: Kind
    id: str
    deleted: bool | None
    other_deleted: bool | None
    fields: tuple[str, ...] = ()


class SecretsVerifyReport(msgspec.Struct, frozen=True, rename="camel"):
    """What `verify_secrets` returns.

    Attributes:
        equal: True if there are no differences.
        secrets: number of rows of the first source, including deleted secrets.
        other_secrets: number of rows of the second source.
        missing: ids that only the first source has.
        extra: ids that only the second source has.
        changed: ids whose rows differ.
        differences: the first differences, sorted by id.
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
        source: as for `pipeline`: `export_secrets(tombstones=True)` of a store, an iterator of blocks, a file or its
            path. Deleted secrets are compared too, so export them with tombstones.
        other: the source to compare it with.
        content: ignore `idx`, which may differ after secrets of several stores were imported into one.
        waiting_bytes: memory for secrets that have not been matched yet; more are written to temporary files, hashed.

    Raises:
        InputError: a line is not a secret.
    """
    key = randomness.token_bytes(32)

    def decode(text: bytes) -> _Row:
        line = decode_line(text)
        mark = None if line.secret is None else hashlib.blake2b(line.secret.encode(), key=key).digest()
        return _Row(line.id, 0 if content else line.idx, mark)

    findings = Findings(_place)
    with Spill(tuple[_Row, Side], key=_id_of) as spill:
        seen = await compare(source, other, decode, _ById(findings), spill, waiting_bytes)
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


class _ById(ByKey[_Row]):
    """Rows with the same id match; if they differ, the secret was changed."""

    def __init__(self, findings: Findings[SecretDifference]) -> None:
        super().__init__(itemgetter(0), lambda row: len(row.id) + _OVERHEAD)
        self._findings = findings

    def are_equal(self, row: _Row, other: _Row) -> bool:
        return row == other

    def note_changed(self, row: _Row, other: _Row) -> None:
        fields = []
        if (row.mark is None) != (other.mark is None):
            fields.append("deleted")
        elif row.mark != other.mark:
            fields.append("secret")
        if row.idx != other.idx:
            fields.append("idx")
        if fields:
            self._findings.note(
                SecretDifference("changed", row.id, row.mark is None, other.mark is None, tuple(fields))
            )

    def note_alone(self, row: _Row, side: Side) -> None:
        deleted = row.mark is None
        self._findings.note(
            SecretDifference(ALONE[side], row.id, None if side else deleted, deleted if side else None)
        )
