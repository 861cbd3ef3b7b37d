"""Imports in steps: what those that merge (`incremental.py`) and those that replace (`parts.py`) have in common.

Such an import is a stage that outlives its process. Of each kind one is open at a time, known by its id.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from eventferry.clock import moment
from eventferry.database import Reading, Stage
from eventferry.errors import ImportNotFoundError, ImportOpenError
from eventferry.state import owners

Kind: TypeAlias = Literal["open", "parts"]

_NAMES = {"open": "incremental import", "parts": "import in parts"}


def told(stage: Stage) -> str:
    """That this import is open, and since when."""
    return f"an {_NAMES[stage.kind]} is open" + (f" since {moment(stage.since)}" if stage.since else "")


async def refuse_open(reading: Reading, kind: Kind) -> None:
    """Refuse to begin another import of this kind. Raises ImportOpenError, or StoreBusyError for one that a running
    process drives."""
    for left in await reading.stages(kind):
        if left.driver is not None:  # that commits it, or it goes when that has died
            raise owners.running(left)
        raise ImportOpenError(f"{told(left)}: commit {left.id} or roll it back before another begins")


async def opened(reading: Reading, kind: Kind, import_id: str) -> Stage:
    """The open import with this id. Raises ImportNotFoundError."""
    for stage in await reading.stages(kind):
        if stage.id == import_id:
            return stage
    raise ImportNotFoundError(f"no {_NAMES[kind]} with the id {import_id} is open")
