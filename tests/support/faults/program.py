"""The storm as a program: `python -m tests.support.faults`. Exits 1 at the first promise that is broken."""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, cast

from tests.support.faults.operations import OPERATIONS, BrokenPromiseError
from tests.support.faults.storm import Tally, storm
from tests.support.places import DATABASES
from tests.support.servers import keep_servers

TOLD_EVERY = 10.0
"""Seconds from one word about how far it is to the next."""


def main(words: Sequence[str] | None = None) -> int:
    """Run the storm; the exit code."""
    given = _parser().parse_args(words)
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    databases = list(DATABASES) if given.database == "all" else [given.database]
    operations = list(OPERATIONS) if given.operation == "all" else [given.operation]
    with ExitStack() as stack:
        log = stack.enter_context(Path(given.log).open("w", encoding="utf-8", buffering=1))
        keeper = keep_servers()
        if keeper.stdin is not None:
            stack.callback(keeper.stdin.close)
        _write(log, {"seed": seed, "kills": given.kills, "databases": databases, "operations": operations})
        print(f"seed {seed}, log in {given.log}", flush=True)
        return _together(databases, operations, given.kills, seed, given.round, log)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.support.faults", description=__doc__)
    parser.add_argument("--database", choices=[*DATABASES, "all"], default="all")
    parser.add_argument("--operation", choices=[*OPERATIONS, "all"], default="all")
    parser.add_argument("--kills", type=int, default=20, help="of each operation on each database (20)")
    parser.add_argument(
        "--seed", type=int, help="all chance follows from it; printed, and chosen if not given"
    )
    parser.add_argument("--round", type=int, help="only the round of this number, as the log tells it")
    parser.add_argument("--log", default="storm.jsonl", help="one JSON object for each round (storm.jsonl)")
    return parser


def _together(
    databases: list[str], operations: list[str], kills: int, seed: int, only: int | None, log: IO[str]
) -> int:
    """Storm the databases, each from a process of its own, and tell what becomes of it."""
    context = multiprocessing.get_context("spawn")
    processes, ears = [], []
    for database in databases:
        ear, mouth = context.Pipe(duplex=False)
        process = context.Process(target=_one, args=(database, operations, kills, seed, only, mouth))
        process.start()
        mouth.close()
        processes.append(process)
        ears.append(ear)
    tallies: dict[str, dict[str, Tally]] = {}
    broken: str | None = None
    begun = told = time.monotonic()
    count = 0
    while ears and broken is None:
        for ready in wait(ears, timeout=TOLD_EVERY):
            ear = cast("Connection", ready)
            try:
                kind, said = ear.recv()
            except EOFError:
                ears.remove(ear)
                continue
            if kind == "round":
                count += 1
                _write(log, said)
            elif kind == "tally":
                tallies |= said
            else:
                broken = said
        if time.monotonic() - told >= TOLD_EVERY:
            told = time.monotonic()
            print(f"{count} rounds in {told - begun:.0f} s", flush=True)
    for process in processes:
        if broken is not None:
            process.terminate()
        process.join()
        if broken is None and process.exitcode:
            broken = f"a storm ended with {process.exitcode}"
    if broken is not None:
        print(f"\nBROKEN: {broken}", file=sys.stderr)
        return 1
    print(f"{count} rounds in {time.monotonic() - begun:.0f} s\n\n{table(tallies)}")
    return 0


def _one(
    database: str, operations: list[str], kills: int, seed: int, only: int | None, mouth: Connection
) -> None:
    last: dict[str, Any] = {}

    def log(record: dict[str, Any]) -> None:
        last.clear()
        last.update(record)
        mouth.send(("round", record))

    try:
        tallies = asyncio.run(storm(database, operations, kills, seed, log, only))
    except Exception as error:
        again = (
            f"python -m tests.support.faults --database {database} --operation {last.get('operation', operations[0])} "
            f"--seed {seed} --kills {kills}"
        )
        what = str(error) if isinstance(error, BrokenPromiseError) else f"{type(error).__name__}: {error}"
        mouth.send(("broken", f"{what}\nthe round: {json.dumps(last)}\nagain: {again}"))
        raise
    mouth.send(("tally", {database: tallies}))


def table(tallies: dict[str, dict[str, Tally]]) -> str:
    """What was survived, as a table. It is made only where nothing was lost and nothing doubled."""
    rows = [
        "| database | operation | kills | of the server | other faults | old | new | in part | lost | doubled |"
        " servers that did not come back |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for database in DATABASES:
        for operation, tally in tallies.get(database, {}).items():
            kills = tally.kills + tally.server_kills
            left = " | ".join(str(tally.outcomes[outcome]) for outcome in ("old", "new", "partial"))
            rows.append(
                f"| {database} | {operation} | {kills} | {tally.server_kills} | {tally.others} | {left} | 0 | 0 "
                f"| {tally.servers_lost or ''} |"
            )
    return "\n".join(rows)


def _write(log: IO[str], record: dict[str, Any]) -> None:
    log.write(json.dumps(record, separators=(",", ":")) + "\n")
