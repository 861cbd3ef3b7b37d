"""What the comments of tables say: a freeze, an open import, whose a stage is. Another store may be called as a marker
or a stage of this one, so names alone do not say it.
"""

from __future__ import annotations

import re

from eventferry.database import Freeze, Stage
from eventferry.databases.names import comment, fact, frozen_marker, import_id_of, moment_of, number
from eventferry.databases.postgresql.tables import Names
from eventferry.errors import UnsupportedStoreError

_FREEZE = re.compile(r"RESOLVE EVENT STORE .* FREEZE MARKER", re.DOTALL)
_MERGE_ID = re.compile(r"[0-9a-f]{16}")


def freeze_comment(names: Names, marker: Freeze) -> str:
    """The comment of a freeze marker, with reSolve's words and ours."""
    told = comment("FREEZE", owner=marker.owner, since=marker.since)
    return f"{frozen_marker(names.tables.events)} {told}"


def freeze_of(names: Names, told: str | None) -> Freeze | None:
    """The freeze that a marker's comment tells; None where there is no such table."""
    if told is None:
        return None
    if _FREEZE.search(told) is None:
        raise _in_the_way(names.tables.freeze)
    return Freeze(fact(told, "FREEZE", "owner"), number(told, "FREEZE", "since"))


def open_import_of(names: Names, told: str | None) -> list[Stage]:
    """The open import that the comment of its table tells; none where there is no such table."""
    if told is None:
        return []
    import_id = import_id_of(told)
    if import_id is None:
        raise _in_the_way(names.tables.open_import)
    return [Stage(import_id, "open", names.tables.open_import, None, moment_of(import_id))]


def replace_stage(names: Names, owner: str, since: int | None, baseline: str | None) -> Stage:
    """The stage of an owner's import."""
    return Stage(owner, "replace", names.tables.stage_of(owner), owner, since, baseline)


def replace_stage_of(names: Names, name: str, told: str) -> Stage | None:
    """The stage whose steps a table holds; None where it is none of this store's."""
    owner, since = names.tables.owner_of(name), number(told, "STAGE", "since")
    if owner is None or since is None:
        return None
    return replace_stage(names, owner, since, fact(told, "STAGE", "baseline"))


def merge_stage_of(names: Names, name: str, told: str) -> Stage | None:
    """The stage that a table is; None where it is none of this store's."""
    if _MERGE_ID.fullmatch(name, len(names.merge_prefix)) is None or fact(told, "MERGE", "since") is None:
        return None
    return Stage(name[-16:], "merge", name, fact(told, "MERGE", "owner"))


def _in_the_way(table: str) -> UnsupportedStoreError:
    return UnsupportedStoreError(
        f"{table!r} is the name of a marker of this store, but what has it is none, perhaps another store's table: "
        "one of the two needs other names"
    )
