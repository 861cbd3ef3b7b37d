"""Memory: filling another product's table takes no more for more events, also where each has its own aggregate."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.test_memory import MEGABYTE, peak
from tests.support.foreign import message_db
from tests.support.foreign import pyeventsourcing as school

pytestmark = pytest.mark.slow

FILL = """
from eventferry import open_target

async def loners(count):
    text = b"x" * 180
    for start in range(0, count, 2000):
        yield b"".join(
            b'{"threadCounter":%d,"threadId":0,"type":"T","timestamp":1600000000000,"aggregateId":"a-%d",'
            b'"aggregateVersion":1,"payload":{"number":%d,"text":"%s"}}\\n' % (i, i, i, text)
            for i in range(start, start + 2000)
        )

async def main(url, product, count):
    async with open_target(url, product) as target:
        report = await pipeline(loners(int(count)), target.import_events())
    assert report.streams == int(count)

asyncio.run(main(*sys.argv[1:]))
say_peak()
"""


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
@pytest.mark.parametrize("events", [100_000, pytest.param(1_000_000, marks=pytest.mark.scale)])
def test_a_table_is_filled_in_less_than_100_megabytes(tmp_path: Path, database: str, events: int) -> None:
    if database == "sqlite":
        store = school.on_sqlite(tmp_path / "school.sqlite")
        with store.school():
            pass
        took = peak(FILL, f"{store.url}?originator_id_type=text", "pyeventsourcing", str(events))
    else:
        with message_db.new_store() as url:
            took = peak(FILL, url, "message-db", str(events))
            assert message_db.version(url, f"a-{events - 1}") == 0
    print(f"{took / MEGABYTE:.0f} MB resident")
    assert took < 100 * MEGABYTE
