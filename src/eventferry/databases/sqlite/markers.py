"""What the definitions of tables say: a freeze, an open import, whose a stage is."""

from __future__ import annotations

from eventferry.database import Freeze, Stage, StageKind
from eventferry.databases.names import STAGE_WORDS, Tables, fact, import_id_of, number
from eventferry.databases.sqlite.library import Sqlite


def freeze_of(sql: str | None) -> Freeze | None:
    """The freeze that a marker's definition tells; None where there is none, or the table is a neighbour's."""
    if sql is None or "FREEZE MARKER" not in sql:
        return None
    return Freeze(fact(sql, "FREEZE", "owner"), number(sql, "FREEZE", "since"))


def stages(sqlite: Sqlite, tables: Tables, kind: StageKind) -> list[Stage]:
    """The stages of a kind that outlive their process: those of merges are temporary tables."""
    if kind == "merge":
        return []
    if kind == "open":
        rows = sqlite.execute(
            "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (tables.open_import,)
        )
        return [
            Stage(import_id, "open", tables.open_import, None, number(sql, "IMPORT", "since"))
            for (sql,) in rows
            if (import_id := import_id_of(sql)) is not None  # otherwise the table is a neighbour's
        ]
    words = STAGE_WORDS[kind]
    progress = sqlite.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND sql LIKE ?", (f"%EVENTFERRY {words}%",)
    )
    return [
        Stage(
            stage_id,
            kind,
            tables.stage_of(owner),
            owner,
            number(sql, words, "since"),
            fact(sql, words, "baseline"),
            fact(sql, words, "driver"),
        )
        for name, sql in progress.fetchall()
        if (owner := tables.owner_of(name)) is not None and (stage_id := fact(sql, words, "id")) is not None
    ]
