"""Events as Arrow batches, and the lines that batches become."""

from __future__ import annotations

import importlib
import sys

import pyarrow as pa
import pytest

from eventferry import InputError, MissingExtraError
from eventferry.tabular.arrow import SCHEMA, BatchLines, batches_of
from eventferry.tabular.columns import COLUMNS
from tests.support import make_lines


def cut(lines: bytes, size: int) -> list[bytes]:
    return [lines[at : at + size] for at in range(0, len(lines), size)]


@pytest.mark.parametrize("size", [7, 1000, 1_000_000])
def test_lines_that_come_in_any_pieces_are_the_same_lines_again(size: int) -> None:
    lines = make_lines(100)
    writer = BatchLines(COLUMNS)
    batches = list(batches_of(cut(lines, size)))
    assert {batch.schema for batch in batches} == {SCHEMA}
    assert b"".join(writer.lines(batch) for batch in batches) == lines


def test_a_wrong_row_is_told_by_its_number_in_all_batches() -> None:
    [batch] = batches_of([make_lines(10)])
    columns = [batch.column(name) for name in COLUMNS]
    payloads = pa.array(["{}"] * 9 + ["{"])
    wrong = pa.RecordBatch.from_arrays([*columns[:-1], payloads], names=list(COLUMNS))
    writer = BatchLines(COLUMNS)
    writer.lines(batch)
    with pytest.raises(InputError, match="row 20, field payload: is not valid JSON"):
        writer.lines(wrong)


@pytest.mark.parametrize("missing", ["pyspark", "pyarrow"])
def test_without_the_packages_for_spark_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    for name in [name for name in sys.modules if name.startswith("eventferry.spark")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'eventferry\[spark\]'"):
        importlib.import_module("eventferry.spark")
