"""The application of docs/appending.md beside the same one on pyeventsourcing: lines of code, requests per second, and
what a request costs the application's process of CPU, which tells more where the machine has other work to do.

python -m benchmarks.applications [DATABASE …] [--seconds 4] [--turns 3]

Each runs in a process of its own, under uvicorn with one worker; the requests come from this one, over connections that
stay open. They take turns, and the median of each counts.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import secrets
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.servers import shared_url

from benchmarks.command_line import asked, servers
from benchmarks.sync_lag import cpu_of
from eventferry import open_store

ROOT = Path(__file__).parents[1]
OURS, THEIRS = "eventferry", "pyeventsourcing"
CLIENTS = (1, 32)
REQUESTS = {
    "deposit": ("POST", "/deposit?amount=10"),
    "withdraw": ("POST", "/withdraw?amount=1&fee=1"),
    "show": ("GET", ""),
}


def our_application() -> str:
    """The one of the documentation, without the clients that try it there."""
    page = (ROOT / "docs" / "appending.md").read_text()
    block: str
    [block] = [text for text in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "FastAPI" in text]
    return block.partition("\n\nasync def main():")[0]


def lines_of_code(text: str) -> int:
    """Lines that are neither blank, nor comments, nor docstrings."""
    tree = ast.parse(text)
    told: set[int] = set()
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            told.update(range(node.lineno, (node.end_lineno or 0) + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in told
        for number, line in lines
    )


async def prepare(side: str, database: str, folder: Path) -> dict[str, str]:
    """A fresh store, and the module `accounts` that runs on it; the environment that it needs."""
    name = f"accounts_{secrets.token_hex(4)}"
    if side == OURS:
        url = f"sqlite:///{folder / name}.db"
        if database == "postgresql":
            url = shared_url("postgresql", f"postgres?database_name={name}")
        async with open_store(url) as store:
            await store.init()
        (folder / "accounts.py").write_text(our_application().replace('"accounts.db"', repr(url)))
        return {}
    (folder / "accounts.py").write_text((ROOT / "benchmarks" / "pyeventsourcing_accounts.py").read_text())
    if database == "sqlite":
        return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / f"{name}.db")}
    server = urlsplit(shared_url("postgresql", "postgres"))
    subprocess.run(
        ["psql", "-qc", f"CREATE SCHEMA {name}", server.geturl()], check=True, stdout=subprocess.DEVNULL
    )
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": "postgres",
        "POSTGRES_HOST": server.hostname or "",
        "POSTGRES_PORT": str(server.port),
        "POSTGRES_USER": server.username or "",
        "POSTGRES_PASSWORD": server.password or "",
        "POSTGRES_SCHEMA": name,
        "POSTGRES_POOL_SIZE": "8",
        "POSTGRES_MAX_OVERFLOW": "40",  # as many as the threads that may ask
    }


@contextmanager
def served(folder: Path, environment: dict[str, str]) -> Iterator[tuple[int, int]]:
    """The application under uvicorn; its port and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "accounts:app", "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen([*command, "--no-access-log"], cwd=folder, env=os.environ | environment)
    try:
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if server.poll() is not None:
                raise RuntimeError("the application did not start")
            time.sleep(0.1)
        yield port, server.pid
    finally:
        server.terminate()
        server.wait()


async def requests(port: int, what: str, clients: int, seconds: float) -> tuple[int, float]:
    """How many requests were answered, and in what time; each client has an account of its own."""
    method, path = REQUESTS[what]
    until = time.monotonic() + seconds

    async def client(number: int) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)

        async def ask(method: str, path: str) -> None:
            writer.write(
                f"{method} /accounts/a{number}{path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode()
            )
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            body = await reader.readexactly(int(length[1]) if length else 0)
            if b" 200 " not in head.partition(b"\r\n")[0]:
                raise RuntimeError(f"{path}: {body!r}")

        await ask("POST", "/deposit?amount=1000000")
        done = 0
        while time.monotonic() < until:
            await ask(method, path)
            done += 1
        writer.close()
        return done

    began = time.monotonic()
    return sum(await asyncio.gather(*map(client, range(clients)))), time.monotonic() - began


async def main() -> None:
    """Measure, and print a table."""
    given = asked(__doc__, ("sqlite", "postgresql"), seconds=4.0, turns=3)
    theirs = (ROOT / "benchmarks" / "pyeventsourcing_accounts.py").read_text()
    print(f"lines of code: {OURS} {lines_of_code(our_application())}, {THEIRS} {lines_of_code(theirs)}")
    for database in given.databases:
        for clients in CLIENTS:
            found: dict[tuple[str, str], list[tuple[float, float]]] = {}
            for _ in range(given.turns):
                for side in (OURS, THEIRS):
                    with tempfile.TemporaryDirectory() as name:
                        environment = await prepare(side, database, Path(name))
                        with served(Path(name), environment) as (port, process):
                            for what in REQUESTS:
                                before = cpu_of(process)
                                count, seconds = await requests(port, what, clients, given.seconds)
                                figures = count / seconds, (cpu_of(process) - before) / count
                                found.setdefault((side, what), []).append(figures)
            for what in REQUESTS:
                told = [
                    f"{side} {statistics.median(rates):,.0f}/s, {statistics.median(costs) * 1000:.1f} ms of CPU each"
                    for side in (OURS, THEIRS)
                    for rates, costs in [zip(*found[side, what], strict=True)]
                ]
                print(f"{database}, {clients} clients, {what}: {'; '.join(told)}", flush=True)


if __name__ == "__main__":
    with servers():
        asyncio.run(main())
