"""One operation of pyeventsourcing, measured with the words of `ours.py`, on its own recorders.

python -m benchmarks.pyeventsourcing_store OPERATION PLACE [ARGUMENT]

A recorder is its lowest level: it is given events as bytes, and gives them back so. What its applications do above that
is not measured. On SQLite its files are in WAL mode with `synchronous=FULL`, SQLite's default, as ours are.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, uuid5

from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore

from benchmarks.timing import Timer

Recorder: TypeAlias = SQLiteApplicationRecorder | PostgresApplicationRecorder

PAGE = 1000
TEN = 10


def _recorder(place: str) -> Recorder:
    if not place.startswith("postgresql:"):
        return SQLiteApplicationRecorder(SQLiteDatastore(place))
    url = urlsplit(place)
    datastore = PostgresDatastore(
        url.path.lstrip("/"),
        url.hostname or "",
        url.port or 0,
        url.username or "",
        url.password or "",
        schema="public",
    )
    return PostgresApplicationRecorder(datastore)


def _events(aggregate: str, first: int, count: int) -> list[StoredEvent]:
    originator = uuid5(NAMESPACE_URL, aggregate)
    return [
        StoredEvent(
            originator_id=originator,
            originator_version=version,
            topic="SAVED",
            state=b'{"version":%d}' % version,
        )
        for version in range(first, first + count)
    ]


def _of_lines(file: str) -> list[StoredEvent]:
    found = []
    with Path(file).open("rb") as lines:
        for line in lines:
            event = json.loads(line)
            found.append(
                StoredEvent(
                    originator_id=uuid5(NAMESPACE_URL, event["aggregateId"]),
                    originator_version=event["aggregateVersion"],
                    topic=event["type"],
                    state=line[line.index(b'"payload":') + 10 : -2],
                )
            )
    return found


def _in_turns(recorder: Recorder, events: Sequence[StoredEvent], at_once: int) -> Timer:
    recorder.max_notification_id()  # as ours it is connected when the time begins
    timer = Timer()
    for place in range(0, len(events), at_once):
        with timer.call():
            recorder.insert_events(events[place : place + at_once])
    return timer


def _pages(recorder: Recorder) -> tuple[int, Timer]:
    recorder.max_notification_id()
    timer = Timer()
    count, start = 0, 1
    while True:
        with timer.call():
            found = recorder.select_notifications(start, PAGE)
        if not found:
            return count, timer
        count += len(found)
        start = found[-1].id + 1


def _aggregate(recorder: Recorder, times: int) -> tuple[int, Timer]:
    events = _events("hundred", 1, 100)
    recorder.insert_events(events)
    timer = Timer()
    for _ in range(times):
        with timer.call():
            found = recorder.select_events(events[0].originator_id)
        assert len(found) == len(events)
    return times * len(events), timer


def main(operation: str, place: str, argument: str = "") -> None:
    """The command."""
    recorder = _recorder(place)
    timer = Timer()
    match operation:
        case "create":
            recorder.create_table()
            count = 0
        case "import":
            events = _of_lines(argument)
            count, timer = len(events), _in_turns(recorder, events, PAGE)
        case "saves":
            count = int(argument)
            timer = _in_turns(recorder, _events("saved", 1, count), 1)
        case "appends of 10":
            count = int(argument)
            timer = _in_turns(recorder, _events("saved", 1, count), TEN)
        case "pages":
            count, timer = _pages(recorder)
        case "aggregate of 100":
            count, timer = _aggregate(recorder, int(argument))
        case _:
            raise SystemExit(f"no operation {operation!r}")
    told = timer.told()
    recorder.datastore.close()  # a file is whole then, without a journal beside it
    print(json.dumps({"events": count} | told))


if __name__ == "__main__":
    main(*sys.argv[1:])
