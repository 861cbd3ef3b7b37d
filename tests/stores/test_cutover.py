"""A live application moves from one kind of database to another, by `sync --follow` and `cutover`."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from eventferry import StoreFrozenError, open_store, verify
from tests.support import all_pages
from tests.support.cli import COMMAND, environment, hear_signals, process
from tests.support.places import Places
from tests.test_docs import ROOT, blocks_of, run_python

pytestmark = pytest.mark.slow

PAUSE = 0.01
"""Seconds from one save to the next."""

EACH = 150
"""Saves before the application may move, and behind that."""

PATIENCE = 120
DOWNTIME = 10
"""Seconds; it is a tenth of one where nothing else runs."""


class Application:
    """Saves a hundred times a second. When its store is frozen for good, it connects to the new one.

    Attributes:
        acknowledged: aggregate, version and payload of each save that was answered.
        waited: the longest time between two answers, in seconds.
    """

    def __init__(self, old: str, new: str) -> None:
        self._urls = old, new
        self.acknowledged: list[tuple[str, int, int]] = []
        self.waited = 0.0

    async def run(self) -> None:
        """Save until there are enough behind the move."""
        loop, (old, new) = asyncio.get_running_loop(), self._urls
        store, has_moved, left = open_store(old), False, EACH
        due = answered = loop.time()
        try:
            while left:
                number = len(self.acknowledged)
                name, version = f"user-{number % 7}", number // 7 + 1
                event = {"type": "SAVED", "aggregateId": name, "aggregateVersion": version, "payload": number}
                try:
                    await store.save_event(event)
                except StoreFrozenError:
                    if (await store.describe()).frozen_by == "user":
                        await store.close()
                        store, has_moved = open_store(new), True
                    else:
                        await asyncio.sleep(PAUSE)
                    continue
                self.acknowledged.append((name, version, number))
                self.waited, answered = max(self.waited, loop.time() - answered), loop.time()
                left -= has_moved
                due += PAUSE
                await asyncio.sleep(max(0, due - loop.time()))
        finally:
            await store.close()


@pytest.fixture(params=[("sqlite", "postgresql"), ("mariadb", "sqlite")], ids="-".join)
def old_and_new(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    with ExitStack() as stack:
        old, new = (stack.enter_context(Places(database, tmp_path)).new_url() for database in request.param)
        yield old, new


async def test_a_live_application_moves_to_another_database(old_and_new: tuple[str, str]) -> None:
    old, new = old_and_new
    async with open_store(old) as source, open_store(new) as target:
        await source.init()
        application = Application(old, new)
        running = asyncio.create_task(application.run())
        words = [*COMMAND, "sync", old, new, "--follow", "--quiet"]
        following = subprocess.Popen(words, env=environment(), preexec_fn=hear_signals)
        try:
            async with asyncio.timeout(PATIENCE):
                while not (await target.exists() and (await target.describe()).event_count >= EACH):
                    assert following.poll() is None
                    assert not running.done() or running.result()
                    await asyncio.sleep(0.05)
                following.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(following.wait) == 128 + signal.SIGTERM
                moved = await asyncio.to_thread(process, "cutover", old, new, "--json")
                assert moved.status == 0, moved.err
                await running
        finally:
            following.kill()
            following.wait()
            running.cancel()
        report: dict[str, Any] = moved.json
        print(
            f"down for {report['downtimeSeconds']:.3f} s; {application.waited:.3f} s between two answers; "
            f"{len(application.acknowledged)} saves"
        )
        assert report["downtimeSeconds"] < DOWNTIME
        with pytest.raises(StoreFrozenError):
            await source.save_event({"type": "LATE", "aggregateId": "late", "aggregateVersion": 1})
        events = await all_pages(target, 1_000)
        found = [(event.aggregate_id, event.aggregate_version, event.payload) for event in events]
        assert sorted(found) == sorted(application.acknowledged)
        until = await target.bookmark(report["cursor"])
        whole = await verify(source.export_events(), target.export_events(until=until))
        assert (whole.equal, whole.events) == (True, len(found) - EACH)


def test_the_example_in_the_docs_moves_to_postgresql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "sync.md").read_text(encoding="utf-8")
    [example] = [block for block in blocks_of(page) if block.language == "python" and "cutover" in block.text]
    with Places("postgresql", tmp_path) as places:
        monkeypatch.setenv("NEW_STORE", places.new_url())
        printed = run_python(example, tmp_path)
    print(printed)
    assert re.search(r"downtime: \d+\.\d+ s\n", printed)
    assert "versions without a gap: True\n" in printed
    assert not (tmp_path / "new.db").exists()
