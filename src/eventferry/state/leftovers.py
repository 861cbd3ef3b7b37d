"""What imports left whose process died, and what goes with it."""

from __future__ import annotations

from eventferry.database import Database, Stage, StageKind
from eventferry.state import commits, owners


async def _counts(database: Database, stage: Stage) -> bool:
    """Whether a stage counts as there. An import in parts without a driver outlives every process."""
    if stage.kind == "parts" and stage.driver is None:
        return True
    lives = stage.driver if stage.kind == "parts" else stage.owner
    return lives is not None and await database.is_alive(lives)


async def drop_dead_stages(database: Database, *kinds: StageKind) -> None:
    """Remove what imports of these kinds left whose process died."""
    async with owners.writing(database) as transaction:
        left = [stage for kind in kinds for stage in await transaction.stages(kind)]
    dead = [stage for stage in left if not await _counts(database, stage)]
    if dead:
        async with owners.writing(database) as transaction:
            for stage in dead:
                if stage.kind == "parts":
                    await commits.forget(transaction, stage.id)
                await transaction.drop_stage(stage)
