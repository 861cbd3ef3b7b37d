"""What the comments of tables say: a freeze, an open import, whose a stage is. Another store may be called as a marker
or a stage of this one, so names alone do not say it.
"""

from __future__ import annotations

import re

from eventferry.database import Freeze, Stage, StageKind
from eventferry.databases.names import (
    STAGE_WORDS,
    comment,
    fact,
    frozen_marker,
    import_id_of,
    moment_of,
    number,
)
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


def stage_comment(stage: Stage) -> str:
    """What the table of an import's steps says."""
    named = stage.id if stage.kind == "parts" else None  # otherwise its owner is its name
    told = STAGE_WORDS[stage.kind]
    return comment(told, id=named, since=stage.since, driver=stage.driver, baseline=stage.baseline)


def stage_of(names: Names, kind: StageKind, name: str, told: str) -> Stage | None:
    """The stage whose steps a table holds; None where it is none of this kind, or none of this store's."""
    words = STAGE_WORDS[kind]
    owner, since = names.tables.owner_of(name), number(told, words, "since")
    if owner is None or since is None:
        return None
    stage_id = fact(told, words, "id") or owner
    baseline, driver = fact(told, words, "baseline"), fact(told, words, "driver")
    return Stage(stage_id, kind, names.tables.stage_of(owner), owner, since, baseline, driver)


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
