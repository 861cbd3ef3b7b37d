"""Looking whether the indexes of a store agree with its events."""

from __future__ import annotations

from eventferry.database import Inspection
from eventferry.databases.inspecting import unique_faults
from eventferry.databases.names import Tables
from eventferry.databases.sqlite.library import Sqlite


def inspect(sqlite: Sqlite, tables: Tables, limit: int) -> Inspection:
    """SQLite's own check of the whole file: pages, the order of every index, and every row's entry in each."""
    ask = sqlite.execute
    unique = [
        tuple(column for _, _, column in ask("SELECT * FROM pragma_index_info(?)", (name,)))
        for name, is_unique, is_partial in ask(
            'SELECT name, "unique", partial FROM pragma_index_list(?)', (tables.events,)
        ).fetchall()
        if is_unique and not is_partial
    ]
    found = [text for (text,) in ask(f"PRAGMA integrity_check({limit})")]
    faults = unique_faults(unique) + ([] if found == ["ok"] else found)
    return Inspection(faults[:limit], [])
