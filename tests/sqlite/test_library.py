"""Which SQLite library opens a file: in a caller's process Python's own and no other, in the command's a newer one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from eventferry import open_store
from tests.sqlite.test_locks import SAVE_MANY
from tests.support import exported, make_lines
from tests.support.sqlite import check_no_gaps, make_store, url_of

TOLD = """
import json, sys
opened = []
sys.addaudithook(lambda event, _: opened.append(event) if event == "sqlite3.connect" else None)
try:
    exec(sys.argv.pop(1))
finally:
    print(json.dumps({"by python": len(opened), "apsw": "apsw" in sys.modules}), file=sys.stderr)
"""

THE_COMMAND = "from eventferry.__main__ import run; run()"

THE_LIBRARY = """
import asyncio
from eventferry import open_store, pipeline

async def main():
    async with open_store(sys.argv[2]) as store:
        await pipeline(store.export_events(), sys.argv[3])

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("program", "by_python", "has_apsw"),
    [(THE_COMMAND, False, True), (THE_LIBRARY, True, False)],
    ids=["the command", "the library"],
)
async def test_one_library_alone_opens_files_in_a_process(
    tmp_path: Path, program: str, by_python: bool, has_apsw: bool
) -> None:
    path, out = tmp_path / "a.db", tmp_path / "out.jsonl"
    await make_store(path, 100)
    child = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", TOLD, program, "export", url_of(path), str(out)],
        check=True,
        capture_output=True,
    )
    told = json.loads(child.stderr.splitlines()[-1])
    assert (told["by python"] > 0, told["apsw"]) == (by_python, has_apsw)
    async with open_store(url_of(path)) as store:
        assert out.read_bytes() == await exported(store) == make_lines(100)


@pytest.mark.slow
async def test_processes_with_either_library_write_one_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    await make_store(path)
    newer = f"from eventferry.processes import own\nown.make_ours()\n{SAVE_MANY}"
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, url_of(path), str(number), "40")
        for number, program in enumerate([SAVE_MANY, newer, SAVE_MANY, newer])
    ]
    assert [await child.wait() for child in children] == [0, 0, 0, 0]
    async with open_store(url_of(path)) as store:
        lines = await exported(store)
    check_no_gaps(lines)
    assert lines.count(b"\n") == 4 * 80
