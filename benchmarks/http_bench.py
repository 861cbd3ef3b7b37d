"""Export and import over loopback beside the same operations in the library, in one run.

python -m benchmarks.http_bench [EVENTS] [DATABASE_URL_PREFIX]

Each is measured in a process of its own, three times, and the best counts. A service and its client share what the
machine has; so do the library and the file that it reads or writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.make_events import make_events
from eventferry import open_store, pipeline, read_blocks

RUNS = 3
BLOCK = 1024 * 1024


async def _library(operation: str, url: str, file: Path) -> float:
    async with open_store(url) as store:
        start = time.perf_counter()
        if operation == "export":
            await pipeline(store.export_events(), file)
        elif operation == "import":
            await pipeline(file, store.import_events())
        else:
            await store.incremental_import(read_blocks(file))
        return time.perf_counter() - start


@contextlib.contextmanager
def _served(url: str, folder: Path) -> Iterator[str]:
    log = folder / "serve.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "eventferry", "serve", url, "--port", "0", "--quiet"], stderr=output
        )
    try:
        while not (found := re.search(r" on (http://\S+)", log.read_text())):
            time.sleep(0.05)
        time.sleep(0.5)
        yield found[1]
    finally:
        server.terminate()
        server.wait()


def _over_http(operation: str, place: str, file: Path) -> float:
    """The client is as bare as one can be: what is measured is the service."""
    address = urlsplit(place)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=600, blocksize=BLOCK
    )
    start = time.perf_counter()
    if operation == "export":
        connection.request("GET", "/export")
        response = connection.getresponse()
        with file.open("wb") as output:
            while block := response.read1(BLOCK):
                output.write(block)
    else:
        path = "/import?replace=true" if operation == "import" else "/incremental-import"
        with file.open("rb") as body:
            length = {"Content-Length": str(file.stat().st_size)}
            connection.request("POST", path, body=body, headers=length)
            response = connection.getresponse()
            response.read()
    seconds = time.perf_counter() - start
    if response.status != 200:
        raise SystemExit(f"{operation}: {response.status}")
    return seconds


async def _new(url: str) -> None:
    async with open_store(url) as store:
        if await store.exists():
            await store.drop()
        await store.init()


def _measure(operation: str, url: str, events: int, lines: Path, folder: Path) -> None:
    library, service = [], []
    for _ in range(RUNS):
        if operation != "export":
            asyncio.run(_new(url))
        library.append(
            asyncio.run(_library(operation, url, folder / "out" if operation == "export" else lines))
        )
        if operation != "export":
            asyncio.run(_new(url))
        with _served(url, folder) as place:
            service.append(_over_http(operation, place, folder / "out" if operation == "export" else lines))
    best, over = min(library), min(service)
    print(
        f"{operation}: library {events / best:,.0f}/s, over HTTP {events / over:,.0f}/s, ratio {best / over:.2f}",
        flush=True,
    )


def main(events: int, prefix: str | None = None) -> None:
    """Measure export, import and incremental import."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        lines = folder / "events.jsonl"
        with lines.open("wb") as output:
            output.writelines(make_events(events))
        url = prefix or f"sqlite:///{folder}/a.db"
        for operation in ("import", "export", "incremental"):
            if operation == "export":
                asyncio.run(_new(url))
                asyncio.run(_library("import", url, lines))
            _measure(operation, url, events, lines, folder)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000, *sys.argv[2:])
