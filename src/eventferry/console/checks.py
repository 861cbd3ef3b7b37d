"""Backups, and examinations: pages that show them, and forms that begin one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

import msgspec

from eventferry import Repository
from eventferry.backup.describing import Run
from eventferry.clock import now
from eventferry.console.examining import Work, checking, comparing, drilling
from eventferry.console.page import Form, House, PageAnswer, View, Visit, page
from eventferry.errors import EventferryError
from eventferry.http.handling import Query, tell
from eventferry.http.problems import RefusedError

REPOSITORY_SECONDS = 5.0
"""Seconds in which a repository is to answer; a page does not wait longer."""

ExaminationKind: TypeAlias = Literal["check", "verify", "drill"]


@dataclass(frozen=True, slots=True)
class ShownRepository:
    """A repository as a page shows it: its last runs, one of each chain, or why there are none."""

    place: str
    runs: list[Run]
    problem: str | None


@page("GET", "/checks", "read")
async def checks_page(visit: Visit[Query]) -> PageAnswer:
    """Backups, and the examinations that run and have ended."""
    examinations = visit.house.examinations
    backups = await asyncio.gather(*map(_looked_at, visit.house.repositories))
    values = {
        "backups": backups,
        "running": examinations.running,
        "ended": examinations.ended,
        "now": now(),
    }
    return View("checks.html", values)


async def _looked_at(repository: Repository) -> ShownRepository:
    try:
        async with asyncio.timeout(REPOSITORY_SECONDS):
            return ShownRepository(repository.place, await repository.runs(limit=1), None)
    except TimeoutError:
        return ShownRepository(
            repository.place, [], f"it does not answer within {REPOSITORY_SECONDS:g} seconds"
        )
    except EventferryError as error:
        tell(logging.WARNING, "console-checks", f"failed={type(error).__name__}: {error}", {})
        return ShownRepository(repository.place, [], "it cannot be read; see the log of the service")


class ExaminationQuery(Query, kw_only=True):
    """What is to be done, with which of the repositories."""

    does: ExaminationKind
    repository: Annotated[int, msgspec.Meta(ge=0)] = 0


class ExaminationForm(Form, kw_only=True):
    """The same in a form."""

    does: ExaminationKind
    repository: Annotated[int, msgspec.Meta(ge=0)] = 0


@page("GET", "/examine", "write")
async def ask_examine_page(visit: Visit[ExaminationQuery]) -> PageAnswer:
    """Ask whether to begin an examination."""
    given = visit.given
    name, _ = _work(visit.house, given.does, given.repository)
    return View("examine.html", {"given": given, "name": name})


@page("POST", "/examine", "write")
async def examine_page(visit: Visit[ExaminationForm]) -> PageAnswer:
    """Begin an examination."""
    assert visit.visitor is not None  # noqa: S101 -- the page has a scope
    name, work = _work(visit.house, visit.given.does, visit.given.repository)
    visit.house.examinations.begin(name, visit.visitor, work)
    return visit.to("/checks")


@page("POST", "/examine/cancel", "write")
async def cancel_examination_page(visit: Visit[Form]) -> PageAnswer:
    """End the examination that runs."""
    await visit.house.examinations.cancel()
    return visit.to("/checks")


def _work(house: House, does: ExaminationKind, number: int) -> tuple[str, Work]:
    """The name of an examination, and what it does. Raises RefusedError."""
    store = house.service.store
    if does == "check":
        return "Check of the store", checking(store)
    if number >= len(house.repositories):
        raise RefusedError(404, "no-such-repository", "there is no such repository")
    repository = house.repositories[number]
    if does == "verify":
        return f"Comparison with {repository.place}", comparing(store, repository)
    return f"Drill of {repository.place}", drilling(repository)
