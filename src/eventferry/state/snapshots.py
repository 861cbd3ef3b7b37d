"""Snapshots: strings under keys."""

from __future__ import annotations

from eventferry.database import Reading, Writing
from eventferry.state.small_tables import check_text, put


async def load(reading: Reading, key: str) -> str | None:
    """The snapshot under a key; None if there is none."""
    dialect = reading.dialect
    same = dialect.among(dialect.snapshot_key, [key])
    rows = await reading.ask(
        f"""SELECT {dialect.column(dialect.snapshot_content)} FROM {dialect.table(dialect.tables.snapshots)}
        WHERE {same.text}""",
        same.values,
    )
    content = rows[0][0] if rows else None
    return content.decode() if isinstance(content, bytes) else content


async def save(writing: Writing, key: str, content: str) -> None:
    """Insert or replace a snapshot."""
    dialect = writing.dialect
    check_text(dialect, "key", key)
    check_text(dialect, "content", content)
    await put(
        writing,
        dialect.tables.snapshots,
        {dialect.snapshot_key: key},
        {dialect.snapshot_content: content},
        f"a snapshot's key begins as {key[:40]!r}… does, and this table tells no more",
    )


async def drop(writing: Writing, key: str) -> None:
    """Remove the snapshot under exactly this key."""
    dialect = writing.dialect
    same = dialect.among(dialect.snapshot_key, [key])
    await writing.change(
        f"DELETE FROM {dialect.table(dialect.tables.snapshots)} WHERE {same.text}", same.values
    )
