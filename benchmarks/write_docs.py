"""Writes docs/benchmarks.md and its plot from the results of a run: python -m benchmarks.write_docs RESULTS.json…

Several files are runs of one version on one machine, of other databases or sizes, or the same once more: then all their
measurements count together, for a machine that others share has good hours and bad ones.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.measurement import (
    HEAD,
    LATENCY_HEAD,
    LATENCY_TEXTS,
    PARTS_HEAD,
    PARTS_TEXTS,
    STEPS_HEAD,
    STEPS_TEXTS,
    TEXTS,
    Measurement,
    cells,
    latency_cells,
    part_cells,
    step_cells,
)
from benchmarks.targets import PYEVENTSOURCING, TOOL, Rates, targets

DOCS = Path(__file__).parents[1] / "docs"

INTRODUCTION = """# Benchmarks

eventferry beside each database's own bulk tool (the `sqlite3` shell, `psql` with `\\copy`, `pg_dump | pg_restore`,
the `mariadb` client and `LOAD DATA`), and beside other event stores: pyeventsourcing 9.5.6 by its recorders,
message-db 1.3 by its functions, and the real reSolve (`@resolve-js/eventstore-lite` and `-postgresql` 0.34.3). The
same events of about 320 bytes, in turns, in one run. This page and its plot are written by the benchmark's own run;
nobody types its numbers. To repeat it:

    scripts/setup dev bench && scripts/servers
    .venv/bin/python -m benchmarks.run --json results.json && .venv/bin/python -m benchmarks.write_docs results.json

What is measured, and how: [benchmarks/README.md](../benchmarks/README.md). Compare the ratios; the seconds are those of
one machine, which others may share: where several runs are named at the end, the medians are those of all of them. Our
side parses and checks every line and writes JSON; the tools do not. On SQLite it is `eventferry`
in a process of its own, as the command and the service are, and `as library` in somebody else's:
[SQLite](sqlite.md#files-locks-journal). `without await` is `eventferry.sync` in somebody else's process.

Every side keeps what it has acknowledged through a loss of power: SQLite in WAL mode with `synchronous=FULL` (reSolve:
`journal_mode=DELETE`, `synchronous=EXTRA`), servers as their packages set them up.

`bare Python` is the least that the same takes in Python, by the drivers that ours uses: for an import, rows that are
in memory before the clock starts; for reading, the tool's statement, and events of its lines; for a save, INSERT and
COMMIT. Nothing is parsed, checked or compared there, and one thing is done after the other: only what reads ahead or
takes no thread can be above it. A target that it misses too is out of reach in Python otherwise.

![Rates by those of the bulk tool and of pyeventsourcing](benchmarks.svg)
"""

PEERS = """## Beside other event stores

What each does for its answer differs, and explains the figures:

- **A save** of ours looks whether the store is frozen, whether the version is free, which thread it belongs in, so
  that readers by cursor miss nothing and bulk tools can work beside it, and answers with the event's position.
  pyeventsourcing inserts a row and relies on a unique index; on PostgreSQL it locks the table, so that its writers
  wait for one another. message-db runs a function in the server under a lock on the category.
- **An append of ten** is one transaction on each side.
- **An import** of ours parses and checks every line, and replaces the store all at once. pyeventsourcing is given
  events ready-made, 1,000 in a transaction; what came stays when it is cut off.
- **Pages** of ours are events with decoded payloads, in the order of their timestamps. A recorder of
  pyeventsourcing gives rows in the order of insertion, with payloads as bytes, which its application decodes later;
  message-db gives them as text.
- **Many clients** share our transactions; see `saves of 100 clients`.
"""

LATENCY = """## How long one call takes

The median of all calls of a run, and the 99th percentile; of several runs the median of each. For a page of 1,000
events, an append of ten, an aggregate of 100, one save, or for `import` a transaction of 1,000.
"""

WHERE_TIME_GOES = """## Where our time goes

Seconds of CPU in each operation of ours, beside the seconds that it took.
"""

STEPS = """The steps of an operation on 100,000 events, in one more run: each call of [the boundary](boundary.md),
and what Python does (also in the database's thread). Those of less than a fiftieth are left out. Steps overlap, and
some lie within another, so they do not add up: where two things are done at a time, both have their seconds here, and
those of `stage_rows` are also those in which it waits for the next rows.
"""

WHY_NOT_MORE = """What that says about the targets that are missed, and what would be needed:

- **Exports keep the database busy**: it works on the next page while one comes, by the same expression as for the
  tool. What is left beside it is the begin and end of a reading for two dozen pages, and the start. More would need
  several pages at once on cores of their own (`--jobs`). On MariaDB lines come row by row, and Python takes each row
  apart on the second core, for which other programs have to leave it free; a client in C needs next to nothing.
- **Imports** parse while the database takes rows. The main thread parses, checks and, for PostgreSQL, writes the rows
  out for COPY, and is busy as long as that takes; the server has a little left. On SQLite and MariaDB another thread
  puts rows in, and to bind or to spell them it needs Python's lock as the parser does: there their times add up. The
  indexes come last, when nothing is left to parse; on MariaDB that is one pass which copies the table. More would need
  an interpreter without that lock, or parsing and binding in an extension of our own.
- **Pages** are compared with exports, which only join lines. To make an event an object takes about as long as SQLite
  takes for its line, and to give it up half of that again; and each page is a transaction of its own, asks whether
  the store has grown, and looks up the next event of those few threads that have none among the events behind it.
- **An incremental import into PostgreSQL or MariaDB waits for the server**: it stages all, finds what is known, works
  out threads, counters and versions, and inserts, one after the other on one core, for it is one transaction; a bare
  insert is given all that. More would need a server that inserts with several workers.
- **A save of one client** waits for the disk as the tool does: the COMMIT among the steps of SQLite takes about as
  long as the whole of the tool's save. Beside the insert the database looks at freeze, version and order, and on
  PostgreSQL moves the thread's counter, which is a second row to write. On SQLite it is made in the loop's own thread
  where that has no other task. `without await` there is the way to the thread of the loop and back, which wakes a
  sleeping core twice. Saves of many clients share all of it. On PostgreSQL each transaction begins with eight settings,
  so that none of a role's or a pooler's changes what it does: they take about 70 us of the server's CPU and 50 of
  ours. All in one SELECT of `set_config` took the server as long and us 20 us less, which is not taken.
- **One aggregate** of 100 events is one statement on each side. A bare SELECT gives rows; ours are a transaction, lines
  that the database builds, and events with their payloads decoded.
- **What lies between ours and `bare Python`**: for imports, parsing and checking each line, beside a driver that needs
  Python's lock too; in a second process, or compiled, that was no faster
  ([what was tried](benchmarks-notes.md#lines-parsed-in-a-second-process)). For pages, a transaction for each, and a
  look whether something is hidden behind it. On SQLite a save of ours is faster, since it takes no thread.
- **MariaDB at 1,000,000**: rows and keys are more than the 128 MB that its buffer pool has as the package sets it
  up, so that it reads them again; the tool's own operations grow likewise.
"""


def _table(head: Sequence[str], texts: Sequence[int], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' if place in texts else '---:' for place in range(len(head)))} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"


def _targets(found: Sequence[Measurement]) -> Iterator[str]:
    yield "| wanted of | at least or at most | measured | | bare Python |"
    yield "| --- | ---: | ---: | --- | ---: |"
    for target in targets(found):
        sign = "≥" if target.at_least else "≤"
        met = "met" if target.is_met else "**missed**"
        bare = "" if target.bare is None else f"{target.bare:.2f}"
        yield f"| {target.words} | {sign} {target.wanted:g} | {target.measured:.2f} | {met} | {bare} |"


def _where(about: dict[str, Any]) -> str:
    return (
        f"Measured {about['at'][:10]} at commit {about['commit'][:9]} on {about['cores']} cores: "
        f"Python {about['python']}, SQLite {about['sqlite']} (the command's: {about['apsw']}), "
        f"{about['postgresql']}, {about['mariadb'].split(',')[0]}, "
        f"Node {about['node']}; load before it began: {about['load_before']:.1f}."
    )


def plot(found: Sequence[Measurement], rates: Rates, to: Path) -> None:
    """Ours by the others', for the largest size that both have."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "eventferry"
    from matplotlib import pyplot

    bars: list[tuple[str, str, float]] = []
    for side in (TOOL, PYEVENTSOURCING):
        pairs = dict.fromkeys((each.database, each.operation) for each in found if each.side == side)
        for database, operation in pairs:
            sizes = [size for size in rates.sizes if rates.ratio(database, operation, size, side) is not None]
            if sizes:
                ratio = rates.ratio(database, operation, sizes[-1], side) or 0.0
                bars.append((side, f"{database}, {operation}, {sizes[-1]:,}", ratio))
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 6.5), layout="constrained")
    for side, axis in zip((TOOL, PYEVENTSOURCING), axes, strict=True):
        chosen = [(label, ratio) for found_side, label, ratio in bars if found_side == side][::-1]
        drawn = axis.barh([label for label, _ in chosen], [ratio for _, ratio in chosen], color="#4477aa")
        axis.bar_label(drawn, fmt="%.2f", padding=3, fontsize=8)
        axis.axvline(1, color="#888888", linewidth=1)
        axis.set_title(f"eventferry's rate by that of the {side}" if side == TOOL else f"… by that of {side}")
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.savefig(to, metadata={"Date": None})


def main(files: Sequence[str]) -> None:
    """The command."""
    runs = [json.loads(Path(file).read_text()) for file in files]
    by_key: dict[tuple[str, str, str, int], Measurement] = {}
    for run in runs:
        for each in run["measurements"]:
            del each["events_per_second"]
            measured = Measurement(**each)
            key = measured.database, measured.operation, measured.side, measured.stored
            by_key[key] = by_key[key].with_more(measured) if key in by_key else measured
    found = list(by_key.values())
    rates = Rates(found)
    page = [
        INTRODUCTION,
        *_targets(found),
        "",
        *_table(HEAD, TEXTS, (cells(each, rates) for each in found)),
        "",
        PEERS,
        LATENCY,
        *_table(LATENCY_HEAD, LATENCY_TEXTS, (latency_cells(each) for each in found if each.latencies)),
        "",
        WHERE_TIME_GOES,
        *_table(PARTS_HEAD, PARTS_TEXTS, map(part_cells, (each for each in found if each.parts))),
        "",
        STEPS,
        *_table(
            STEPS_HEAD, STEPS_TEXTS, chain.from_iterable(step_cells(each) for each in found if each.steps)
        ),
        "",
        WHY_NOT_MORE,
        *map(_where, (run["about"] for run in runs)),
        "",
    ]
    (DOCS / "benchmarks.md").write_text("\n".join(page))
    plot(found, rates, DOCS / "benchmarks.svg")


if __name__ == "__main__":
    main(sys.argv[1:])
