"""Checks in the console: begun by who may, shown while they run, ended with the service."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from unittest.mock import patch

from eventferry import Repository
from eventferry.backup.storage import open_storage
from eventferry.console import checks
from eventferry.console.examining import Examination, Examinations, Finding
from eventferry.console.sessions import EVERYBODY
from tests.support.console import Markup, Visitor, console
from tests.support.service import opened
from tests.support.small_backups import back_up


async def ended(visitor: Visitor) -> Markup:
    """The page once nothing runs any more."""
    async with asyncio.timeout(60):
        while "Running" in (page := await visitor.see("/checks")).text:
            await asyncio.sleep(0.02)
    return page


async def begun(visitor: Visitor, **query: Any) -> Markup:
    """The page of an examination that was begun, and has ended."""
    form = (await visitor.see("/examine", **query)).forms[-1]
    fields: dict[str, Any] = {key: form[key] for key in ("formKey", "does", "repository")}
    await visitor.send("/examine", **fields)
    return await ended(visitor)


async def test_a_store_is_checked_and_compared_with_its_backup_which_is_drilled(tmp_path: Path) -> None:
    async with opened(tmp_path, 30) as store:
        await back_up(store, open_storage(tmp_path / "backup"))
    async with console(tmp_path, repositories=[Repository(tmp_path / "backup")]) as (visitor, store, tokens):
        await visitor.sign_in(tokens["read"])
        page = await visitor.see("/checks")
        assert str(tmp_path / "backup") in page.text
        assert not [link for link in page.links if "examine" in link]
        await visitor.see("/examine", 403, does="check")
        await visitor.sign_in(tokens["all"])
        assert (
            "30 events of 10 aggregates in 30 threads; nothing is wrong"
            in (await begun(visitor, does="check")).text
        )
        assert "30 events are equal" in (await begun(visitor, does="verify", repository=0)).text
        page = await begun(visitor, does="drill", repository=0)
        assert "30 of 30 events restored" in page.text
        assert "all are equal" in page.text
        assert page.text.count("begun by all") == 3
        await visitor.see("/examine", 404, does="drill", repository=1)
        await visitor.see("/examine", 400, does="everything")


async def test_damage_is_shown_with_what_it_is(tmp_path: Path) -> None:
    async with opened(tmp_path, 30) as store:
        await back_up(store, open_storage(tmp_path / "backup"))
    part = next((tmp_path / "backup").rglob("*.jsonl.zst"))
    part.write_bytes(part.read_bytes()[:-1])
    async with console(tmp_path, repositories=[Repository(tmp_path / "backup")]) as (visitor, store, tokens):
        await visitor.sign_in(tokens["all"])
        assert "It failed" in (await begun(visitor, does="drill", repository=0)).text
        await store.append_events("aggregate-1", [{"type": "LATER", "payload": "<i>"}])
        assert "nothing is wrong" in (await begun(visitor, does="check")).text


async def test_a_repository_that_cannot_be_read_is_told_of_without_its_reason(tmp_path: Path) -> None:
    async with console(tmp_path, repositories=[Repository(tmp_path / "nowhere")]) as (visitor, _, tokens):
        await visitor.sign_in(tokens["read"])
        assert "it cannot be read; see the log" in (await visitor.see("/checks")).text


async def waits_for_ever(examination: Examination) -> Finding:
    await asyncio.Event().wait()
    return Finding(True, "")


async def test_one_examination_runs_at_a_time_until_it_is_cancelled(tmp_path: Path) -> None:
    async with console(tmp_path, 3) as (visitor, _, tokens):
        await visitor.sign_in(tokens["all"])
        waiting = patch.object(checks, "_work", lambda *_: ("<b>wait</b>", waits_for_ever))
        with waiting:
            await visitor.send(
                "/examine", does="check", formKey=(await visitor.see("/freeze")).forms[-1]["formKey"]
            )
        page = await visitor.see("/checks")
        assert "<b>wait</b>" in page.text
        key = page.forms[-1]["formKey"]
        await visitor.send("/examine", 409, formKey=key, does="check")
        await visitor.send("/examine/cancel", formKey=key)
        assert "It was cancelled" in (await visitor.see("/checks")).text
        await visitor.send("/examine/cancel", formKey=key)  # nothing runs any more
        assert "nothing is wrong" in (await begun(visitor, does="check")).text


async def test_an_examination_ends_with_the_service_and_may_be_cancelled_before_its_first_step() -> None:
    leaving = asyncio.Event()
    examinations = Examinations(leaving)
    examinations.begin("first", EVERYBODY, waits_for_ever)
    await asyncio.gather(examinations.cancel(), examinations.cancel())
    assert examinations.running is None
    examinations.begin("second", EVERYBODY, waits_for_ever)
    leaving.set()
    async with asyncio.timeout(20):
        while examinations.running is not None:
            await asyncio.sleep(0.01)
    assert [each.name for each in examinations.ended] == ["second", "first"]
