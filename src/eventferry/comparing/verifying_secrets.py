"""Verify the secrets of two sources: are they equal?

Secrets are not kept. Comparisons and temporary files use keyed hashes of them; the key is discarded at the end.
"""

from __future__ import annotations

import hashlib
import secrets as randomness
from typing import NamedTuple

import msgspec

from eventferry.comparing.side_by_side import WAITING_BYTES, Comparison, DifferenceKind
from eventferry.lines.piping import Source
from eventferry.secrets import decode_line

_OVERHEAD = 300  # approximate size of a waiting row, beside its id


class SecretDifference(msgspec.Struct, frozen=True, rename="camel"):
    """One difference. It does not contain the secret.

    Attributes:
        kind: "missing" (only the first source has the id), "extra" (only the second), "changed".
        id: of the secret.
        deleted: whether it is deleted in the first source; None if that does not have it.
        other_deleted: whether it is deleted in the second source; None if that does not have it.
        fields: for a changed secret: "deleted" (in only one of the two), "secret", "idx".
    """

    kind: DifferenceKind
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
    comparison = _ById(content=content)
    secrets, other_secrets = await comparison.run(source, other, waiting_bytes)
    return SecretsVerifyReport(secrets=secrets, other_secrets=other_secrets, **comparison.outcome())


class _ById(Comparison[_Row, SecretDifference]):
    """Rows with the same id match; if they differ, the secret was changed."""

    def __init__(self, *, content: bool) -> None:
        super().__init__(_Row, self._row)
        self._content = content
        self._key = randomness.token_bytes(32)

    def _row(self, text: bytes) -> _Row:
        line = decode_line(text)
        key = self._key
        mark = None if line.secret is None else hashlib.blake2b(line.secret.encode(), key=key).digest()
        return _Row(line.id, 0 if self._content else line.idx, mark)

    def key(self, row: _Row) -> str:
        return row.id

    def size(self, row: _Row) -> int:
        return len(row.id) + _OVERHEAD

    def are_equal(self, row: _Row, other: _Row) -> bool:
        return row == other

    def difference(self, kind: DifferenceKind, row: _Row, other: _Row) -> SecretDifference:
        fields = {
            "deleted": (row.mark is None) != (other.mark is None),
            "secret": None not in (row.mark, other.mark) and row.mark != other.mark,
            "idx": row.idx != other.idx,
        }
        return SecretDifference(
            kind,
            row.id,
            None if kind == "extra" else row.mark is None,
            None if kind == "missing" else other.mark is None,
            tuple(field for field, differs in fields.items() if differs),
        )

    def place(self, difference: SecretDifference) -> tuple[str, str]:
        return difference.id, difference.kind
