"""What is seen from outside: logs, metrics, traces."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from eventferry import open_store
from eventferry.http import current_trace, streams
from tests.support import make_lines
from tests.support.service import lines_of, new_event, service

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def series(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return series(text).get((name, frozenset(labels.items())), 0.0)


async def test_metrics_count_events_bytes_skips_refusals_and_times(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        lines = make_lines(100)
        await client.post("/import", content=lines)
        await client.post("/import", content=lines)
        got = await client.get("/export")
        new = lines_of([new_event(1), new_event(2)])
        await client.post("/incremental-import", content=new)
        await client.post("/incremental-import", content=new + lines_of([new_event(1, timestamp=1)]))
        await client.get("/events?limit=7")
        await client.post("/events", content="nonsense")
        await client.post("/events", json={"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        response = await client.get("/metrics")
        assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
        text = response.text
        assert value(text, "eventferry_events_total", operation="import", direction="in") == 100
        assert value(text, "eventferry_events_total", operation="export", direction="out") == 100
        assert value(text, "eventferry_events_total", operation="events", direction="out") == 7
        assert value(text, "eventferry_events_total", operation="incremental-import", direction="in") == 2
        assert value(text, "eventferry_events_total", operation="save", direction="in") == 1
        assert value(text, "eventferry_skipped_events_total", reason="existing") == 2
        assert value(text, "eventferry_skipped_events_total", reason="older") == 1
        assert value(text, "eventferry_bytes_total", operation="import", direction="in") == len(lines)
        assert value(text, "eventferry_bytes_total", operation="export", direction="out") == len(got.content)
        assert value(text, "eventferry_refused_total", operation="import", problem="store-full") == 1
        assert value(text, "eventferry_refused_total", operation="save", problem="input") == 1
        assert value(text, "eventferry_operation_seconds_count", operation="import") == 2
        assert value(text, "eventferry_requests_total", method="POST", route="/import", status="409") == 1
        assert value(text, "eventferry_open_imports") == 0
        assert value(text, "eventferry_open_exports") == 0


async def test_metrics_tell_of_the_syncs_into_the_store(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store), open_store(str(tmp_path / "source.db")) as source:
        assert 'eventferry_sync_events{source="' not in (await client.get("/metrics")).text
        await source.init()
        await source.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
        await store.sync(source)
        [status] = await store.sync_status()
        text = (await client.get("/metrics")).text
        assert value(text, "eventferry_sync_events", source=status.source) == 1
        assert value(text, "eventferry_sync_last_batch_seconds", source=status.source) == status.at / 1000
        assert value(text, "eventferry_sync_failed", source=status.source) == 0


async def test_an_export_is_timed_to_its_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = streams.LinesResponse._give

    async def slow(*arguments: object) -> None:
        await asyncio.sleep(0.2)
        await real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(streams.LinesResponse, "_give", slow)
    async with service(tmp_path, 10) as (client, _):
        await client.get("/export")
        text = (await client.get("/metrics")).text
        assert value(text, "eventferry_operation_seconds_sum", operation="export") >= 0.2


async def test_strangers_cannot_make_new_series(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        counts = []
        for number in range(30):
            await client.get(f"/nowhere-{number}")
            await client.request(f"ODD{number}", "/events")
            await client.put(f"/incremental-imports/{number}/parts/{number}", json=[])
            await client.get(f"/events?x{number}=1")
            counts.append(len(series((await client.get("/metrics")).text)))
        assert counts[1] == counts[-1]


def access(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "eventferry.http.access"]


async def test_every_request_is_a_line_of_fields(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "eventferry.http")
    async with service(tmp_path, 3) as (client, _):
        await client.get("/events?type=PRIVATE&cursor=")
        await client.post("/incremental-import", content=lines_of([new_event(1)]))
        await client.get("/no%0Away%20forged")
    first, second, third = access(caplog)
    assert "PRIVATE" not in caplog.text
    assert (first.__dict__["route"], first.__dict__["status"]) == ("/events", 400)
    assert second.__dict__["operation"] == "incremental-import"
    assert second.__dict__["bytes_in"] == len(lines_of([new_event(1)]))
    assert second.__dict__["client"] == "127.0.0.1"
    assert re.search(
        r"method=POST path=/incremental-import .* status=200 .* seconds=[0-9.e-]+ ", second.getMessage()
    )
    assert "\n" not in third.getMessage()
    assert "path=/no%0Away%20forged" in third.getMessage()


async def test_what_the_service_logs_the_store_does_not_log_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "eventferry")
    async with service(tmp_path, 3) as (client, store):
        caplog.clear()
        for replace in ("true", "false"):
            await client.post(f"/import?replace={replace}", content=make_lines(5))
        assert (await client.get("/export")).content == make_lines(5)
        inside = [record for record in caplog.records if record.name == "eventferry.operations"]
        assert {record.__dict__["operation"] for record in inside} == {"import", "export"}
        assert {record.levelno for record in inside} == {logging.DEBUG}
        told = [record for record in caplog.records if record.name == "eventferry.http"]
        assert len(told) == 2
        await store.freeze()  # by whoever has the store beside the service
        assert caplog.records[-1].__dict__["operation"] == "freeze"
        assert caplog.records[-1].levelno == logging.INFO


async def test_a_trace_goes_into_logs_and_answers_and_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "eventferry.http")
    async with service(tmp_path, 3) as (client, store):
        met = []
        real = type(store).describe

        async def describe(*arguments: object, **options: object) -> object:
            met.append(current_trace())
            return await real(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(type(store), "describe", describe)
        response = await client.get("/describe", headers={"traceparent": PARENT, "tracestate": "a=1"})
        version, trace_id, span_id, flags = response.headers["traceparent"].split("-")
        assert (version, trace_id, flags) == ("00", PARENT.split("-")[1], "01")
        assert span_id != PARENT.split("-")[2]
        (trace,) = met
        assert trace is not None
        assert (trace.parent, trace.state) == (response.headers["traceparent"], "a=1")
        lines = make_lines(1)
        for query in ("", "?replace=true"):
            await client.post(f"/import{query}", content=lines, headers={"traceparent": PARENT})
        told = [record for record in caplog.records if record.name == "eventferry.http"]
        assert len(told) == 2  # one was refused, one was done
        for record in (*access(caplog), *told):
            assert record.__dict__["trace_id"] == trace_id
            assert trace_id in record.getMessage()


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "nonsense",
        PARENT[:-1],
        PARENT + "-more",
        PARENT.upper(),
        "ff" + PARENT[2:],
        PARENT.replace("4bf92f3577b34da6a3ce929d0e0e4736", "0" * 32),
        PARENT.replace("00f067aa0ba902b7", "0" * 16),
    ],
)
async def test_a_trace_that_is_none_begins_a_new_one(tmp_path: Path, parent: str) -> None:
    async with service(tmp_path) as (client, _):
        told = (await client.get("/healthz", headers={"traceparent": parent})).headers["traceparent"]
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", told)
        assert told.split("-")[1] != PARENT.split("-")[1]


async def test_a_later_version_of_trace_context_is_understood(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        parent = "01" + PARENT[2:] + "-more"
        told = (await client.get("/healthz", headers={"traceparent": parent})).headers["traceparent"]
        assert told.split("-")[1] == PARENT.split("-")[1]
