"""After what docs/erasing.md says to run, what is erased stands in no file of the tables."""

from __future__ import annotations

import secrets

import pytest

from eventferry import MANUAL, open_store
from tests.support import import_lines
from tests.support.mysql import made_on
from tests.support.persons import ERASE, left_in_files, noise, person, statements, text_of, texts_in
from tests.support.servers import Server

COUNT = 250
WRITTEN = ("FLUSH TABLES events, snapshots FOR EXPORT", "UNLOCK TABLES")
"""What brings all that is in memory into the files."""


@pytest.mark.slow
async def test_an_erased_text_stands_in_no_file_of_the_tables(own_server: Server) -> None:
    database = made_on(own_server.url(f"test_{secrets.token_hex(6)}"))
    files = own_server.folder / "data" / database.name
    lines = [person(i, 1, noise([0, 900, 20_000][i % 3])) for i in range(COUNT)]  # the last beside their rows
    async with open_store(database.url) as store:
        await store.init()
        await import_lines(store, b"".join(lines[: COUNT // 2]))
        await import_lines(store, b"".join(lines[COUNT // 2 :]), maintenance_mode=MANUAL)
        await store.save_snapshot("view", text_of(5) + noise(20_000))
        database.run(*WRITTEN)
        assert texts_in(files) >= set(range(COUNT))
        await store.erase(ERASE, aggregate_ids=["erased"])
        database.run(*WRITTEN)
        assert left_in_files(files, range(COUNT), 5) != [], "an erasure alone leaves the old rows"
        database.run(*statements("OPTIMIZE"), *WRITTEN)
        assert left_in_files(files, range(COUNT), 5) == []
