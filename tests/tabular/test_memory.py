"""Memory: a conversion takes no more of it for many events than for few, whatever the size of a payload."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stores.test_memory import MEGABYTE, peak

pytestmark = pytest.mark.slow

CONVERT = """
from eventferry import FolderSink, from_cloudevents, from_csv, read_parquet, to_cloudevents, to_csv, to_parquet

async def large(count):
    text = b"x" * 1_000_000
    for i in range(count):
        yield (
            b'{"threadCounter":%d,"threadId":0,"type":"T%d","timestamp":%d,"aggregateId":"a","aggregateVersion":%d,'
            b'"payload":"%d%s"}\\n' % (i, i % 3, 86_400_000 * i, i + 1, i, text)
        )

async def main(way, size, count, folder):
    source = large(int(count)) if size == "large" else many(int(count))
    folder = Path(folder)
    if way == "csv":
        await pipeline(source, to_csv(), folder / "a.csv")
        await pipeline(folder / "a.csv", from_csv(), Counting())
    elif way == "cloudevents":
        await pipeline(source, to_cloudevents("/shop"), folder / "a.jsonl")
        await pipeline(folder / "a.jsonl", from_cloudevents(), Counting())
    elif way == "parquet":
        await pipeline(source, to_parquet(), folder / "a.parquet")
        await pipeline(read_parquet(folder / "a.parquet"), Counting())
    else:
        sink = FolderSink(folder / "split", split_by=way, conversion=to_parquet(), ending=".parquet")
        await pipeline(source, sink)
asyncio.run(main(*sys.argv[1:]))
say_peak()
"""


@pytest.mark.parametrize("way", ["csv", "cloudevents", "parquet", "day", "type"])
@pytest.mark.parametrize(
    ("size", "few", "many"),
    [
        pytest.param("large", 100, 200, id="of a megabyte"),
        pytest.param("usual", 300_000, 3_000_000, id="of 300 bytes", marks=pytest.mark.scale),
    ],
)
def test_many_events_take_as_much_memory_as_few(
    tmp_path: Path, way: str, size: str, few: int, many: int
) -> None:
    peaks = []
    for count in (few, many):
        folder = tmp_path / str(count)
        folder.mkdir()
        peaks.append(peak(CONVERT, way, size, str(count), str(folder)))
    print(f"{way}, {size}: {[round(each / MEGABYTE) for each in peaks]} MB resident")
    assert max(peaks) < 300 * MEGABYTE
    assert peaks[1] < peaks[0] + 40 * MEGABYTE
