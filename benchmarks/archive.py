"""What an archive saves in the database, and how long it and a recall take.

python -m benchmarks.archive [--events 300000] [--padding 1000] [--kinds sqlite,postgresql,mariadb]

All events are archived but the last. Their lines have about 320 bytes, and so many of padding. The table of the events
is measured with its indexes: before, after, and when the database has been asked to give free room back (VACUUM, VACUUM
FULL, OPTIMIZE TABLE). Then all is recalled. A backup is made first, so that its time is not part of the archive's.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import psycopg
from tests.support import mysql, raw

from benchmarks.backups import KINDS, command, new_url
from benchmarks.command_line import asked, servers
from benchmarks.make_events import make_events
from eventferry import open_store


async def last_time(url: str) -> int:
    """The timestamp of the last event."""
    async with open_store(url) as store:
        return (await store.describe()).last_event_timestamp


def padded(lines: Iterable[bytes], size: int) -> Iterator[bytes]:
    """The lines with so many bytes more in their payloads, which cannot be packed."""
    for line in lines:
        yield line[:-3] + b',"padding":"%b"}}\n' % os.urandom(size // 2).hex().encode() if size else line


def size_of(url: str) -> int:
    """Bytes of the events and their indexes; of a file, of all that is in it."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        with sqlite3.connect(path) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        file.close()
        return os.path.getsize(path)
    if url.startswith("postgresql"):
        server, _, schema = url.partition("?database_name=")
        with psycopg.connect(server) as connection:
            [found] = connection.execute(
                "SELECT pg_total_relation_size(format('%%I.%%I', %s::text, 'events')::regclass)", (schema,)
            ).fetchall()
        return int(found[0])
    with mysql.connect(url) as wire, wire.cursor() as cursor:
        cursor.execute(
            "SELECT FILE_SIZE FROM information_schema.INNODB_SYS_TABLESPACES WHERE NAME = %s",
            (f"{url.rpartition('/')[2]}/events",),
        )
        [(size,)] = cursor.fetchall()
    return int(size)


def free_in(url: str) -> int | None:
    """Bytes of a file that new events will use again; None where the database does not tell."""
    if not url.startswith("sqlite"):
        return None
    with sqlite3.connect(url.removeprefix("sqlite:///")) as file:
        [(pages,)], [(size,)] = file.execute("PRAGMA freelist_count"), file.execute("PRAGMA page_size")
    file.close()
    return int(pages * size)


def give_back(url: str) -> None:
    """Let the database write the table anew."""
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None) as file:
            file.execute("VACUUM")
        file.close()
    elif url.startswith("postgresql"):
        server, _, schema = url.partition("?database_name=")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f'VACUUM FULL "{schema}"."events"')
    else:
        raw.run(url, "OPTIMIZE TABLE events")


def measure(url: str, repository: str) -> None:
    """Measure one store, and print it."""
    until = str(asyncio.run(last_time(url)))
    command("backup", url, repository)
    give_back(url)
    before = size_of(url)
    archived = command("archive", url, repository, "--until", until, "--json")
    after, free = size_of(url), free_in(url)
    give_back(url)
    packed = size_of(url)
    recalled = command("archive", "recall", url, repository, "--json")
    told = "" if free is None else f", {free / 2**20:,.0f} MiB of them free"
    print(
        f"  before    {before / 2**20:8,.0f} MiB\n"
        f"  archived  {after / 2**20:8,.0f} MiB{told}\n"
        f"  packed    {packed / 2**20:8,.0f} MiB: {packed / before:.2f} of before\n"
        f"  archive   {archived.seconds:8.1f} s, {archived.mebibytes:4.0f} MiB of memory: {archived.out.strip()}\n"
        f"  recall    {recalled.seconds:8.1f} s, {recalled.mebibytes:4.0f} MiB of memory",
        flush=True,
    )


def main() -> None:
    given = asked(__doc__, events=300_000, padding=0, kinds=KINDS)
    with servers(), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = folder / "lines.jsonl"
        with lines.open("wb") as file:  # one after another: a child's memory is at first as large as ours
            file.writelines(padded(make_events(given.events), given.padding))
        for kind in given.kinds.split(","):
            url = new_url(kind, folder)
            command("import", str(lines), url)
            print(f"{kind}, {given.events:,} events", flush=True)
            measure(url, f"{name}/{kind}")


if __name__ == "__main__":
    main()
