"""A backup beside an export of the same store to a .zst file, what a second backup costs, and a restore beside an
import of that file.

python -m benchmarks.backups [--events 1000000] [--new 1000] [--runs 3] [--kinds sqlite,postgresql,mariadb] [--s3]

Every run is a process of its own, and its time is that of the whole command. Exports and first backups take turns; the
best of each counts. With --s3 the repository is in moto's S3, else in a folder. Requests are
counted in a further run, of this process, with as many new events as in the second: each call of a storage is one.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from tests.support.cli import sent
from tests.support.object_storage import ENVIRONMENT, make_bucket, moto
from tests.support.repositories import Watched
from tests.support.servers import shared_url

from benchmarks.command_line import asked, servers
from benchmarks.make_events import make_events
from eventferry import back_up, open_store
from eventferry.backup import run
from eventferry.backup.storage import open_storage

LATER = 4_000_000_000_000
KINDS = "sqlite,postgresql,mariadb"


class Ended(NamedTuple):
    """A command that has ended: how long it took, how much memory it had at most, and what it printed."""

    seconds: float
    mebibytes: float
    out: str


def command(*words: str) -> Ended:
    """Run eventferry as a process of its own."""
    began = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "eventferry", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    out = sent(child.stdout).read().decode()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{words} ended with {child.returncode}")
    return Ended(time.perf_counter() - began, used.ru_maxrss / 1024, out)


async def add_events(url: str, count: int) -> None:
    """Add so many new events."""
    async with open_store(url) as store:
        await store.incremental_import(
            [
                {"type": "ADDED", "timestamp": LATER, "aggregateId": f"added-{secrets.token_hex(8)}"}
                for _ in range(count)
            ]
        )


async def requests(url: str, repository: str) -> str:
    """Back up once more, and say what that asked of the storage."""
    watched = Watched(open_storage(repository))
    with patch.object(run, "open_storage", lambda *_, **__: watched):
        async with open_store(url) as store:
            await back_up(store, repository)
    each = ", ".join(f"{count} {method}" for method, count in watched.calls.most_common())
    return f"{watched.calls.total()} requests ({each})"


def new_url(kind: str, folder: Path) -> str:
    """A fresh place."""
    name = f"backups_{secrets.token_hex(4)}"
    if kind == "sqlite":
        return f"sqlite:///{folder / name}.db"
    return shared_url(kind, f"postgres?database_name={name}" if kind == "postgresql" else name)


def measure(url: str, new_repository: Sequence[str], folder: Path, new: int) -> None:
    """Measure one store, and print it."""
    exports: list[Ended] = []
    firsts: list[Ended] = []
    for repository in new_repository:
        exports.append(command("export", url, str(folder / "all.jsonl.zst")))
        firsts.append(command("backup", url, repository, "--json"))
    export, first = min(exports), min(firsts)
    imports: list[Ended] = []
    restores: list[Ended] = []
    target = new_url(url.partition(":")[0].replace("mysql", "mariadb"), folder)
    for _ in new_repository:
        imports.append(command("import", str(folder / "all.jsonl.zst"), target, "--replace"))
        restores.append(command("restore", new_repository[-1], target, "--replace"))
    imported, restored = min(imports), min(restores)
    asyncio.run(add_events(url, new))
    second = command("backup", url, new_repository[-1], "--json")
    third = command("backup", url, new_repository[-1], "--json")
    asyncio.run(add_events(url, new))
    asked_of_storage = asyncio.run(requests(url, new_repository[-1]))
    report, added = json.loads(first.out), json.loads(second.out)
    print(
        f"  export to .zst    {export.seconds:6.2f} s, {export.mebibytes:4.0f} MiB of memory\n"
        f"  first backup      {first.seconds:6.2f} s, {first.mebibytes:4.0f} MiB of memory, {report['parts']} parts, "
        f"{report['storedBytes']:,} bytes: {export.seconds / first.seconds:.2f} of the export's speed\n"
        f"  {new:,} events later {second.seconds:6.2f} s, {added['storedBytes']:,} bytes, {asked_of_storage}\n"
        f"  nothing new       {third.seconds:6.2f} s\n"
        f"  import from .zst  {imported.seconds:6.2f} s, {imported.mebibytes:4.0f} MiB of memory\n"
        f"  restore           {restored.seconds:6.2f} s, {restored.mebibytes:4.0f} MiB of memory: "
        f"{imported.seconds / restored.seconds:.2f} of the import's speed",
        flush=True,
    )


def main() -> None:
    given = asked(__doc__, events=1_000_000, new=1000, runs=3, kinds=KINDS, s3=False)
    with servers(), tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        lines = folder / "lines.jsonl"
        with lines.open("wb") as file:  # one after another: a child's memory is at first as large as ours
            file.writelines(make_events(given.events))
        if given.s3:
            endpoint = stack.enter_context(moto())
            os.environ.update(ENVIRONMENT | {"AWS_ENDPOINT_URL": endpoint})
            make_bucket(endpoint, "backups")
        root = "s3://backups" if given.s3 else name
        for kind in given.kinds.split(","):
            url = new_url(kind, folder)
            command("import", str(lines), url)
            print(f"{kind}, {given.events:,} events", flush=True)
            places = [f"{root}/{kind}-{number}" for number in range(given.runs)]
            measure(url, places, folder, given.new)


if __name__ == "__main__":
    main()
