"""After what docs/erasing.md says to run, what is erased stands in no file of a PostgreSQL server but its log."""

from __future__ import annotations

import pytest

from eventferry import MANUAL, open_store
from tests.support import import_lines
from tests.support.persons import ERASE, left_in_files, noise, person, statements, text_of
from tests.support.postgresql import Own, rows

COUNT = 250
LOG = {"pg_wal"}


@pytest.mark.slow
async def test_an_erased_text_stands_in_no_file_but_the_log(server: Own) -> None:
    url, data = server.new_url(), server.server.folder / "data"
    lines = [person(i, 1, noise([0, 900, 7_000][i % 3])) for i in range(COUNT)]  # the last beside their rows
    async with open_store(url) as store:
        await store.init()
        await import_lines(store, b"".join(lines[: COUNT // 2]))
        await import_lines(store, b"".join(lines[COUNT // 2 :]), maintenance_mode=MANUAL)
        await store.save_snapshot("view", text_of(5))
        # The planner remembers the least payload and the greatest.
        rows(url, "ALTER TABLE events ALTER payload SET STATISTICS 1")
        rows(url, "ANALYZE events")
        [(known,)] = rows(
            url,
            "SELECT histogram_bounds::text FROM pg_stats WHERE schemaname = current_schema AND attname = 'payload'",
        )
        assert text_of(0) in known
        await store.erase(ERASE, aggregate_ids=["erased"])
        rows(url, "CHECKPOINT")
        assert left_in_files(data, range(COUNT), 5, LOG) != [], "an erasure alone leaves the old rows"
        for statement in statements("VACUUM"):
            rows(url, statement)
        rows(url, "CHECKPOINT")
        assert left_in_files(data, range(COUNT), 5, LOG) == []
