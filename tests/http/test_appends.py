"""Appends over HTTP: several events that belong together, and reading one aggregate."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support import as_dict
from tests.support.service import problem_of, service


def asked(*types: str, **changes: Any) -> dict[str, Any]:
    return {"aggregateId": "a", "events": [{"type": kind} for kind in types]} | changes


def refusal(answer: httpx.Response, status: int, name: str) -> dict[str, Any]:
    problem = problem_of(answer)
    assert (problem["status"], problem["type"]) == (status, f"urn:eventferry:{name}")
    return problem


async def test_an_append_answers_with_the_stored_events_and_their_cursor(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):
        answer = await client.post("/append", json=asked("T", "U", expectedVersion="none"))
        assert answer.status_code == 201
        told = answer.json()
        page = await store.load_events(limit=10, cursor=None)
        assert told["events"] == [as_dict(event) for event in page.events]
        assert (told["cursor"], told["isRepeated"]) == (page.cursor, False)
        assert [event["aggregateVersion"] for event in told["events"]] == [1, 2]


async def test_several_aggregates_are_appended_to_by_an_array(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):
        both = [asked("T"), asked("U", aggregateId="b")]
        assert (await client.post("/append", json=both)).status_code == 201
        conflict = [asked("T"), asked("U", aggregateId="b", expectedVersion=0)]
        assert (await client.post("/append", json=conflict)).status_code == 409
        assert (await store.describe()).event_count == 2


async def test_a_conflict_says_what_is_there(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        await client.post("/append", json=asked("T", "T", "T"))
        answer = await client.post("/append", json=asked("T", expectedVersion=2))
        problem = refusal(answer, 409, "concurrent")
        assert (problem["aggregateId"], problem["lastVersion"], problem["aggregateVersion"]) == ("a", 3, 3)


async def test_an_append_that_is_sent_again_under_its_key_is_stored_once(tmp_path: Path) -> None:
    headers = {"Idempotency-Key": "5c6e2b9e"}
    async with service(tmp_path) as (client, store):
        first = (await client.post("/append", json=asked("T"), headers=headers)).json()
        again = (await client.post("/append", json=asked("T"), headers=headers)).json()
        assert again["events"] == first["events"]
        assert again["isRepeated"]
        other = await client.post("/append", json=asked("U"), headers=headers)
        refusal(other, 422, "idempotency-key")
        assert (await store.describe()).event_count == 1


async def test_an_appended_payload_is_stored_and_read_as_it_was_spelled(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        spelled = '{"b":1.0,"a":12345678901234567890,"c":1.50e2,"d":1e400}'
        body = '{"aggregateId": "a", "events": [ {"type": "T", "payload": ' + spelled + " }]}"
        assert spelled in (await client.post("/append", content=body)).text
        assert spelled in (await client.get("/aggregate?id=a")).text


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("{}", "aggregateId"),
        ('{"aggregateId":"a"}', "events"),
        ('{"aggregateId":"a","events":[{"type":"T","aggregateId":"b"}]}', "aggregateId"),
        ('{"aggregateId":"a","events":[{"type":"T","aggregateVersion":3}]}', "aggregateVersion"),
        ('{"aggregateId":"a","events":[{"payload":3}]}', "type"),
        ('{"aggregateId":"a","events":[{"type":"T"}],"expectedVersion":-1}', "expectedVersion"),
        ('{"aggregateId":"a","events":[{"type":"T"}],"more":1}', "more"),
        ("[1]", None),
        ("{", None),
        ("[", None),
        ("", None),
    ],
)
async def test_a_body_that_is_no_append_is_refused_by_field(
    tmp_path: Path, body: str, field: str | None
) -> None:
    async with service(tmp_path) as (client, store):
        problem = refusal(await client.post("/append", content=body), 422, "input")
        assert problem.get("field") == field
        assert (await store.describe()).event_count == 0


@pytest.mark.parametrize("body", ["[]", '{"aggregateId":"a","events":[]}'])
async def test_an_append_of_nothing_is_refused(tmp_path: Path, body: str) -> None:
    async with service(tmp_path) as (client, _):
        refusal(await client.post("/append", content=body), 400, "usage")


async def test_an_aggregate_is_read_in_pages_by_its_versions(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):
        stored = await store.append_events("order/1 é", [{"type": "T", "payload": n} for n in range(25)])
        found: list[Any] = []
        version: int | None = 1
        while version is not None:
            params = {"id": "order/1 é", "fromVersion": str(version), "limit": "10"}
            page = (await client.get("/aggregate", params=params)).json()
            found += page["events"]
            version = page["nextVersion"]
        assert found == [as_dict(event) for event in stored.events]
        assert (await client.get("/aggregate?id=none")).json() == {"events": [], "nextVersion": None}
        assert (await client.get("/aggregate")).status_code == 400
        assert (await client.get("/aggregate?id=a&fromVersion=0")).status_code == 400


async def test_of_clients_who_append_at_the_same_version_one_is_stored(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        body = json.dumps(asked("T", "U", expectedVersion="none"))
        answers = await asyncio.gather(*(client.post("/append", content=body) for _ in range(20)))
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 19
