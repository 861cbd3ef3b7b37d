"""What each route does, and what it answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventferry import ImportStream, open_store
from eventferry.http import TokenFile
from eventferry.http.events import PAGE_BYTES
from tests.support import as_dict, exported, import_lines, make_event, make_lines
from tests.support.service import client_of, lines_of, new_event, opened, problem_of, service


async def test_describe_says_what_the_store_holds(tmp_path: Path) -> None:
    async with service(tmp_path, 3) as (client, store):
        told = (await client.get("/describe")).json()
        assert told["eventCount"] == 3
        assert told["isFrozen"] is False
        assert "cursor" not in told
        asked = (await client.get("/describe", params={"cursor": "true"})).json()
        assert asked["cursor"] == (await store.describe(calculate_cursor=True)).cursor


async def test_pages_bring_all_events_in_order_and_a_cursor_each(tmp_path: Path) -> None:
    async with service(tmp_path, 25) as (client, _):
        cursor, events = None, []
        while True:
            params = {"limit": "10"} if cursor is None else {"limit": "10", "cursor": cursor}
            page = (await client.get("/events", params=params)).json()
            if not page["events"]:
                break
            assert len(page["events"]) <= 10
            events += page["events"]
            cursor = page["cursor"]
        assert events == [make_event(i) for i in range(25)]


async def test_a_page_has_a_thousand_events_unless_asked_otherwise_and_ten_thousand_at_most(
    tmp_path: Path,
) -> None:
    async with service(tmp_path, 10_001) as (client, _):
        assert len((await client.get("/events")).json()["events"]) == 1000
        assert len((await client.get("/events?limit=10000")).json()["events"]) == 10_000
        assert (await client.get("/events?limit=10001")).status_code == 400


async def test_a_page_takes_the_filters_of_the_library(tmp_path: Path) -> None:
    async with service(tmp_path, 30) as (client, store):
        page = (await client.get("/events?type=TYPE_0&type=TYPE_1&aggregateId=aggregate-3")).json()
        expected = await store.load_events(
            limit=1000, cursor=None, event_types=["TYPE_0", "TYPE_1"], aggregate_ids=["aggregate-3"]
        )
        assert page["events"] == [as_dict(event) for event in expected.events]
        assert page["cursor"] == expected.cursor
        page = (await client.get("/events?excludeType=TYPE_0&aggregatePrefix=aggregate-3")).json()
        assert page["events"] == [make_event(n) for n in range(30) if n % 3 != 0 and n % 10 == 3]


async def test_a_page_by_time_includes_both_ends_and_the_last_has_no_cursor(tmp_path: Path) -> None:
    async with service(tmp_path, 30) as (client, _):
        start = make_event(10)["timestamp"]
        page = (await client.get(f"/events?startTime={start}&finishTime={start + 2}")).json()
        assert page["events"] == [make_event(10), make_event(11), make_event(12)]
        assert (page["cursor"], page["bookmark"]) == (None, None)


async def pages_of(client: httpx.AsyncClient, **selection: Any) -> list[list[dict[str, Any]]]:
    """Page after page, until one has no cursor."""
    pages, cursor = [], None
    while True:
        parameters = selection | ({} if cursor is None else {"cursor": cursor})
        page = (await client.get("/events", params=parameters)).json()
        pages.append(page["events"])
        if (cursor := page["cursor"]) is None:
            return pages


@pytest.mark.slow
@pytest.mark.parametrize("disorder", [False, True])
async def test_a_span_of_time_comes_in_pages_each_event_once(tmp_path: Path, disorder: bool) -> None:
    events = [make_event(number) for number in range(200)]
    if disorder:  # timestamps that fall within their threads
        for event, moment in zip(events, reversed([event["timestamp"] for event in events]), strict=True):
            event["timestamp"] = moment
    start, finish = make_event(20)["timestamp"], make_event(170)["timestamp"]
    async with service(tmp_path, lines_of(events)) as (client, _):
        wanted = [event for event in events if start <= event["timestamp"] <= finish]
        for limit in (1, 7, 1000):
            pages = await pages_of(client, startTime=start, finishTime=finish, limit=limit)
            assert all(len(page) <= limit for page in pages)
            came = [event for page in pages for event in page]
            assert sorted(map(json.dumps, came)) == sorted(map(json.dumps, wanted))
        open_end = [event for page in await pages_of(client, startTime=start, limit=50) for event in page]
        assert len(open_end) == len([event for event in events if event["timestamp"] >= start])
        some = await pages_of(client, startTime=start, type=["TYPE_0", "TYPE_1"], limit=3)
        assert {event["type"] for page in some for event in page} == {"TYPE_0", "TYPE_1"}


@pytest.mark.slow
async def test_a_page_by_time_ends_at_so_many_bytes_and_goes_on(tmp_path: Path) -> None:
    large = [make_event(number) | {"payload": "x" * 1_000_000} for number in range(40)]
    async with service(tmp_path, lines_of(large)) as (client, _):
        first = await client.get("/events?startTime=0")
        assert len(first.content) <= PAGE_BYTES + 4096
        pages = await pages_of(client, startTime=0)
        assert [event for page in pages for event in page] == large
        assert len(pages) >= 3


async def test_payloads_go_out_as_they_are_spelled(tmp_path: Path) -> None:
    spelled = '{"b":1.0,"a":12345678901234567890,"c":1.50e2,"d":1e400,"é":"\\u0041"}'
    text = make_lines(1).replace(b'{"number":0}', spelled.encode())
    async with service(tmp_path, text) as (client, _):
        assert spelled in (await client.get("/events")).text
        assert spelled in (await client.get("/events?startTime=0")).text
        assert (await client.get("/export")).content == text


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("limit=0", "limit"),
        ("limit=many", "limit"),
        ("limit=1&limit=2", "twice"),
        ("limt=1", "limt"),
        ("cursor=nonsense", "cursor"),
        ("cursor=", "cursor"),
        ("startTime=yesterday", "startTime"),
        ("startTime=1e400", "startTime"),
        ("startTime=99999999999999999999", "startTime"),
        ("startTime=2&finishTime=1", "later"),
        ("type=%00", "U+0000"),
        ("type=%ff", "UTF-8"),
    ],
)
async def test_a_parameter_that_is_wrong_is_refused_by_name(tmp_path: Path, query: str, word: str) -> None:
    async with service(tmp_path) as (client, _):
        response = await client.get(f"/events?{query}")
        assert response.status_code == 400
        assert word in problem_of(response)["detail"]


async def test_a_save_answers_with_the_stored_event_and_its_cursor(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):
        event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1, "payload": {"x": [1, None, "é"]}}
        response = await client.post("/events", json=event)
        assert response.status_code == 201
        told = response.json()
        page = await store.load_events(limit=10, cursor=None)
        assert [told["event"]] == [as_dict(stored) for stored in page.events]
        assert told["cursor"] == page.cursor
        assert {key: told["event"][key] for key in event} == event


async def test_a_save_that_would_leave_a_gap_is_refused_unless_the_query_allows_gaps(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):
        event = {"type": "T", "aggregateId": "a", "aggregateVersion": 3}
        response = await client.post("/events", json=event)
        assert response.status_code == 409
        assert "the next version is 1" in problem_of(response)["detail"]
        assert (await store.describe()).event_count == 0
        assert (await client.post("/events?allowGaps=true", json=event)).status_code == 201


async def test_a_bookmark_is_made_of_the_cursor_of_a_save_or_of_an_append(tmp_path: Path) -> None:
    async with service(tmp_path, 300) as (client, store):
        event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1}
        saved = (await client.post("/events", json=event)).json()["cursor"]
        append = {"aggregateId": "a", "events": [{"type": "LATER"}]}
        appended = (await client.post("/append", json=append)).json()["cursor"]
        for cursor, later in ((saved, ["LATER"]), (appended, [])):
            answer = await client.get("/bookmark", params={"cursor": cursor})
            assert answer.json() == {"bookmark": await store.bookmark(cursor)}
            page = (await client.get("/events", params={"since": answer.json()["bookmark"]})).json()
            assert [each["type"] for each in page["events"]] == later
        assert (await client.get("/bookmark")).json() == {"bookmark": await store.bookmark()}
        await import_lines(store, make_lines(3))
        refused = problem_of(await client.get("/bookmark", params={"cursor": appended}))
        assert (refused["type"], refused["status"]) == ("urn:eventferry:cursor-ahead", 409)
        assert problem_of(await client.get("/bookmark", params={"cursor": "AAAA"}))["status"] == 400


async def test_a_saved_payload_is_stored_as_exactly_as_it_was_spelled(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):
        payload = (
            '{"a":1.50,"b":12345678901234567890,"c":1e400,"d":0.1,"e":-0.0,"f":[1,1.0],"g":'
            + "9" * 5000
            + "}"
        )
        spread = payload.replace(",", " ,\n")
        body = '{"type":"T","aggregateId":"a","aggregateVersion":1,"payload":' + spread + "}"
        response = await client.post("/events", content=body)
        assert response.status_code == 201
        assert payload in response.text
        assert payload in (await exported(store)).decode()


async def test_a_version_that_is_taken_is_a_conflict_that_names_it(tmp_path: Path) -> None:
    async with service(tmp_path, 1) as (client, _):
        event = {"type": "T", "aggregateId": "aggregate-0", "aggregateVersion": 1}
        response = await client.post("/events", json=event)
        assert response.status_code == 409
        told = problem_of(response)
        assert (told["aggregateId"], told["aggregateVersion"]) == ("aggregate-0", 1)


@pytest.mark.parametrize("wrong", [b"\xff", b"\xed\xa0\x80", b"caf\xe9", b"\xc0\x80"])
@pytest.mark.parametrize("key", ["type", "aggregateId", "payload", "threadId"])
async def test_a_saved_event_that_is_not_utf_8_is_refused(tmp_path: Path, key: str, wrong: bytes) -> None:
    event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1} | {key: "WRONG"}
    async with service(tmp_path) as (client, store):
        for text in (json.dumps(event), json.dumps(event | {"payload": {"WRONG": "x" * 300_000}})):
            response = await client.post("/events", content=text.encode().replace(b"WRONG", wrong))
            assert response.status_code == 422
            assert "UTF-8" in problem_of(response)["detail"]
        assert (await store.describe()).event_count == 0


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", None),
        ("[]", None),
        ('[["type","T"],["aggregateId","a"],["aggregateVersion",1]]', None),
        ("{", None),
        ("nonsense", None),
        ('{"type":"T","aggregateId":"a"}', "aggregateVersion"),
        ('{"type":"T","aggregateId":"a","aggregateVersion":0}', "aggregateVersion"),
        ('{"type":"T","aggregateId":"a","aggregateVersion":1,"more":2}', "more"),
        ('{"type":"T","type":"U","aggregateId":"a","aggregateVersion":1}', "type"),
        ('{"type":"T","aggregateId":"a","aggregateVersion":1,"payload":NaN}', "payload"),
        ('{"type":"T","aggregateId":"a","aggregateVersion":1,"payload":"\\ud800"}', "payload"),
        ('{"type":"T","aggregateId":"a\\u0000","aggregateVersion":1}', "aggregateId"),
        ('{"type":"T","aggregateId":"a","aggregateVersion":1,"payload":' + "[" * 100_000, None),
        (
            '{"type":"T","aggregateId":"a","aggregateVersion":1,"payload":' + "[" * 501 + "]" * 501 + "}",
            "payload",
        ),
    ],
)
async def test_what_is_no_event_is_refused_by_field(tmp_path: Path, body: str, field: str | None) -> None:
    async with service(tmp_path) as (client, store):
        response = await client.post("/events", content=body)
        assert response.status_code == 422
        assert problem_of(response).get("field") == field
        assert (await store.describe()).event_count == 0


async def test_export_gives_every_line_and_says_its_cut(tmp_path: Path) -> None:
    async with service(tmp_path, 500) as (client, store):
        response = await client.get("/export")
        assert response.headers["content-type"] == "application/x-ndjson"
        assert response.content == await exported(store)
        cut = response.headers["eventferry-cursor"]
        assert cut == (await store.describe(calculate_cursor=True)).cursor
        await client.post("/incremental-import", json=[new_event(1)])
        later = await client.get("/export", params={"cursor": cut})
        assert [json.loads(text)["type"] for text in later.text.splitlines()] == ["ADDED"]
        assert (await client.get("/export", params={"cursor": "no"})).status_code == 400


async def test_import_takes_what_export_gave(tmp_path: Path) -> None:
    lines = make_lines(1000)
    async with service(tmp_path) as (client, store):
        response = await client.post("/import", content=lines)
        assert (response.status_code, response.json()) == (200, {"imported": 1000, "byteOffset": len(lines)})
        assert await exported(store) == lines


async def test_import_replaces_a_full_store_only_if_that_was_asked_for(tmp_path: Path) -> None:
    async with service(tmp_path, 5) as (client, store):
        refused = await client.post("/import", content=make_lines(2))
        assert refused.status_code == 409
        assert problem_of(refused)["type"] == "urn:eventferry:store-full"
        assert (await store.describe()).event_count == 5
        assert (await client.post("/import?replace=true", content=make_lines(2))).status_code == 200
        assert await exported(store) == make_lines(2)


async def test_an_import_that_is_refused_touches_nothing_not_even_what_another_import_holds(
    tmp_path: Path,
) -> None:
    async with service(tmp_path, 5) as (client, store):
        running = store.import_events()
        await running.begin()
        assert (await client.post("/import?freeze=true", content=make_lines(2))).status_code == 409
        assert (await client.post("/import?replace=true", content=make_lines(2))).status_code == 503
        await running.abort()
        assert await exported(store) == make_lines(5)


async def test_an_event_saved_while_an_import_is_on_its_way_is_not_lost(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):

        async def body() -> Any:
            yield make_lines(2)[:50]
            await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
            yield make_lines(2)[50:]

        response = await client.post("/import", content=body())
        assert response.status_code == 409
        assert (await store.describe()).event_count == 1


async def test_an_event_saved_just_before_an_import_begins_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with service(tmp_path) as (client, store):
        begin = ImportStream.begin

        async def late(stream: ImportStream) -> None:
            if not (await store.describe()).event_count:
                await store.save_event({"type": "T", "aggregateId": "a", "aggregateVersion": 1})
            await begin(stream)

        monkeypatch.setattr(ImportStream, "begin", late)
        response = await client.post("/import", content=make_lines(2))
        assert response.status_code == 409
        assert (await store.describe()).event_count == 1


async def test_an_import_of_nothing_empties_a_store_only_if_that_was_asked_for(tmp_path: Path) -> None:
    async with service(tmp_path, 5) as (client, store):
        assert (await client.post("/import?replace=true", content=b"")).status_code == 409
        assert (await client.post("/import?replace=true&allowEmpty=true", content=b"")).status_code == 200
        assert (await store.describe()).event_count == 0


async def test_a_bad_line_is_told_with_its_place_and_changes_nothing(tmp_path: Path) -> None:
    lines = make_lines(10).splitlines(keepends=True)
    lines[6] = lines[6].replace(b'"threadId":6', b'"threadId":256')
    async with service(tmp_path, 3) as (client, store):
        response = await client.post("/import?replace=true", content=b"".join(lines))
        assert response.status_code == 422
        told = problem_of(response)
        assert (told["line"], told["field"]) == (7, "threadId")
        assert told["byteOffset"] == sum(map(len, lines[:6]))
        assert await exported(store) == make_lines(3)


async def test_an_unknown_key_is_refused_unless_that_was_asked_for(tmp_path: Path) -> None:
    lines = lines_of([make_event(0, extra=1)])
    async with service(tmp_path) as (client, _):
        assert problem_of(await client.post("/import", content=lines))["field"] == "extra"
        assert (await client.post("/import?ignoreUnknownKeys=true", content=lines)).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("POST", "/import", b"", "use replace=true to replace them"),
        ("POST", "/import?replace=true", b"", "use allowEmpty=true"),
        (
            "POST",
            "/import?replace=true",
            make_lines(1).replace(b"{", b'{"start_time":1,', 1),
            "(ignoreUnknownKeys=true drops unknown keys)",
        ),
        (
            "POST",
            "/events",
            b'{"type":"T","aggregateId":"a","aggregateVersion":1,"extra":1}',
            "unknown key; known keys: threadCounter, threadId, type, timestamp, aggregateId, aggregateVersion, payload",
        ),
        ("GET", "/events?startTime=5&finishTime=1", b"", "startTime is later than finishTime"),
        ("GET", "/events?start_time=5", b"", "unknown parameter 'start_time'"),
    ],
)
async def test_a_refusal_spells_parameters_as_a_query_does(
    tmp_path: Path, method: str, path: str, body: bytes, words: str
) -> None:
    async with service(tmp_path, 3) as (client, _):
        assert words in problem_of(await client.request(method, path, content=body))["detail"]


@pytest.mark.parametrize("path", ["/events", "/export"])
async def test_a_cursor_and_a_bookmark_do_not_go_together(tmp_path: Path, path: str) -> None:
    async with service(tmp_path, 3) as (client, store):
        cursor = (await store.describe(calculate_cursor=True)).cursor
        for since in ("start", await store.bookmark()):
            told = await client.get(path, params={"since": since, "cursor": cursor})
            assert problem_of(told)["status"] == 400


@pytest.mark.parametrize("as_lines", [True, False])
async def test_an_incremental_import_brings_what_is_missing_and_counts_the_rest(
    tmp_path: Path, as_lines: bool
) -> None:
    events = [new_event(number) for number in range(10)]
    body = lines_of(events) if as_lines else json.dumps(events).encode()
    async with service(tmp_path, 3) as (client, _):
        first = await client.post("/incremental-import", content=body)
        again = await client.post("/incremental-import", content=body)
        assert first.json() == {"imported": 10, "skippedExisting": 0, "skippedOlder": 0}
        assert again.json() == {"imported": 0, "skippedExisting": 10, "skippedOlder": 0}


async def test_older_events_are_skipped_refused_or_accepted_as_asked(tmp_path: Path) -> None:
    async with service(tmp_path, 3) as (client, _):
        old = [new_event(0, timestamp=1)]
        assert (await client.post("/incremental-import", json=old)).json()["skippedOlder"] == 1
        assert (await client.post("/incremental-import?older=reject", json=old)).status_code == 409
        assert (await client.post("/incremental-import?older=perhaps", json=old)).status_code == 400
        dry = await client.post("/incremental-import?older=accept&dryRun=true", json=old)
        wet = await client.post("/incremental-import?older=accept", json=old)
        assert dry.json() == wet.json() == {"imported": 1, "skippedExisting": 0, "skippedOlder": 0}


async def test_an_import_in_parts_doubles_nothing_when_a_part_is_sent_again(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):
        begun = await client.post("/incremental-imports")
        assert begun.status_code == 201
        base = f"/incremental-imports/{begun.json()['id']}"
        for part in ("1", "2", "1"):
            events = [new_event(int(part) * 10 + number) for number in range(5)]
            assert (await client.put(f"{base}/parts/{part}", json=events)).json() == {"events": 5}
        assert (await client.post(f"{base}/commit")).json() == {
            "imported": 10,
            "skippedExisting": 0,
            "skippedOlder": 0,
        }
        assert (await store.describe()).event_count == 10


async def test_an_open_import_is_one_and_is_ended_by_its_id_only(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):
        begun = (await client.post("/incremental-imports")).json()["id"]
        assert (await client.post("/incremental-imports")).status_code == 409
        for refused in (
            await client.put("/incremental-imports/stranger/parts/1", json=[]),
            await client.post("/incremental-imports/stranger/commit"),
            await client.delete("/incremental-imports/stranger"),
        ):
            assert refused.status_code == 404
            problem_of(refused)
        left = (await store.describe()).open_import
        assert left is not None
        assert left.id == begun
        assert (await client.delete(f"/incremental-imports/{begun}")).status_code == 204
        assert (await client.delete(f"/incremental-imports/{begun}")).status_code == 404
        assert (await store.describe()).open_import is None


async def test_a_frozen_store_is_told_until_it_is_not(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        event = {"type": "T", "aggregateId": "a", "aggregateVersion": 1}
        assert (await client.post("/freeze")).status_code == 204
        assert (await client.post("/freeze")).status_code == 409
        for refused in (
            await client.post("/events", json=event),
            await client.post("/import", content=make_lines(1)),
            await client.post("/incremental-import", json=[new_event(0)]),
            await client.post("/incremental-imports"),
            await client.post("/secrets", content='{"secret":"s","id":"a","idx":0}'),
        ):
            assert refused.status_code == 423
            problem_of(refused)
            assert str(tmp_path) not in refused.text
        assert (await client.post("/unfreeze")).status_code == 204
        assert (await client.post("/unfreeze")).status_code == 409
        assert (await client.post("/events", json=event)).status_code == 201


async def test_secrets_go_out_and_come_in_as_lines(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, store):
        await store.set_secret("anna", "key-of-anna")
        await store.set_secret("ben", "key-of-ben")
        await store.delete_secret("ben")
        lines = '{"secret":"key-of-anna","id":"anna","idx":0}\n'
        assert (await client.get("/secrets")).text == lines
        assert '{"secret":null,"id":"ben","idx":1}' in (await client.get("/secrets?tombstones=true")).text
        assert (await client.get("/secrets?idx=1")).text == ""
        report = (await client.post("/secrets", content=lines)).json()
        assert report == {"imported": 0, "skippedExisting": 1, "skippedDeleted": 0, "deleted": 0}
        conflict = await client.post("/secrets", content=lines.replace("key-of-anna", "another"))
        assert conflict.status_code == 409
        bad = await client.post("/secrets", content='{"secret":5,"id":"x","idx":9}')
        assert problem_of(bad)["line"] == 1


async def test_health_is_told_without_the_store_s_inside(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        assert (await client.get("/healthz")).json() == {"status": "ok"}
    async with open_store(f"sqlite:///{tmp_path}/nowhere.db") as missing, client_of(missing) as client:
        response = await client.get("/healthz")
        assert response.status_code == 503
        assert response.headers["retry-after"]
        assert "nowhere" not in response.text


@pytest.mark.parametrize("host", ["[::", "]", "a b", "é", "x" * 5000, "@", "%"])
async def test_a_host_that_is_none_is_no_error_of_the_service(tmp_path: Path, host: str) -> None:
    async with service(tmp_path) as (client, _):
        for path, statuses in (("/healthz", {200}), ("/describe", {403}), ("/nowhere", {404})):
            response = await client.get(path, headers={b"Host": host.encode()})
            assert response.status_code in statuses


async def test_a_busy_store_is_told_with_when_to_come_again(tmp_path: Path) -> None:
    async with (
        opened(tmp_path) as holder,
        opened(tmp_path, busy_timeout=0.1) as store,
        client_of(store) as client,
    ):
        async with holder._database.writing("exclusive"):
            response = await client.post(
                "/events", json={"type": "T", "aggregateId": "a", "aggregateVersion": 1}
            )
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert str(tmp_path) not in response.text
        assert problem_of(response)["type"] == "urn:eventferry:store-busy"


async def test_of_two_imports_at_once_one_is_told_that_the_other_runs(tmp_path: Path) -> None:
    async with service(tmp_path, 3) as (client, store):
        for _ in range(5):
            answers = await asyncio.gather(
                *(client.post("/import?replace=true", content=make_lines(2000)) for _ in range(4))
            )
            statuses = sorted(answer.status_code for answer in answers)
            assert statuses[0] == 200
            assert set(statuses) <= {200, 503}
            assert await exported(store) == make_lines(2000)


async def test_a_page_ends_where_it_would_become_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventferry.http.events.PAGE_BYTES", len(make_lines(10)))
    async with service(tmp_path, 25) as (client, _):
        first = (await client.get("/events")).json()
        second = (await client.get("/events", params={"cursor": first["cursor"]})).json()
        assert first["events"] == [make_event(i) for i in range(10)]
        assert second["events"][0] == make_event(10)


async def test_a_key_that_stands_twice_behind_very_many_is_refused_in_time(tmp_path: Path) -> None:
    """Each compared with all before it, they took hours."""
    keys = ",".join(f'"key {i}":0' for i in range(100_000))
    event = f'"type":"T","aggregateId":"a","aggregateVersion":1,"payload":{{{keys},"key 99999":1}}'
    async with service(tmp_path) as (client, _), asyncio.timeout(60):
        refused = await client.post("/events", content=f'{{{event},"type":"U"}}')
        assert problem_of(refused)["field"] == "type"
        saved = await client.post("/events", content=f"{{{event}}}")
        assert saved.json()["event"]["payload"]["key 99999"] == 1


async def test_what_is_no_route_or_no_method_is_a_problem_too(tmp_path: Path) -> None:
    async with service(tmp_path) as (client, _):
        nowhere = await client.get("/nowhere")
        assert nowhere.status_code == 404
        problem_of(nowhere)
        wrong = await client.patch("/events")
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")
        problem_of(wrong)
        options = await client.options("/freeze")
        assert (options.status_code, options.headers["allow"]) == (204, "OPTIONS, POST")


async def test_head_tells_what_get_would_without_a_body(tmp_path: Path) -> None:
    async with service(tmp_path, 10) as (client, store):
        for path in ("/export", "/events", "/describe", "/healthz"):
            told, asked = await client.get(path), await client.head(path)
            assert (asked.status_code, asked.content) == (200, b"")
            for name in ("eventferry-cursor", "content-type"):
                assert asked.headers.get(name) == told.headers.get(name)
        assert (await client.head("/api/event-store/freeze")).status_code == 405
        assert not (await store.describe()).is_frozen


async def test_an_error_of_the_service_says_nothing_of_its_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with service(tmp_path) as (client, store):

        async def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError("the password is 1234")

        monkeypatch.setattr(type(store), "describe", broken)
        response = await client.get("/describe")
        assert response.status_code == 500
        assert "1234" not in response.text
        assert "RuntimeError" not in response.text
        problem_of(response)
        assert "the password is 1234" in caplog.text


async def test_an_error_over_secrets_tells_where_it_was_and_not_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "-".join(("hidden", "one"))  # not as a word of its own: the source's line is in the log
    async with service(tmp_path) as (client, store):

        async def broken(*_: Any, **__: Any) -> None:
            raise RuntimeError(secret)

        monkeypatch.setattr(type(store), "load_secrets", broken)
        response = await client.get("/secrets")
        assert response.status_code == 500
        assert secret not in response.text + caplog.text
        assert "RuntimeError" in caplog.text
        assert "broken" in caplog.text


@pytest.mark.parametrize("exchange", [True, False])
async def test_the_description_is_open_api_with_every_route_that_is_on_and_a_page_for_people(
    tmp_path: Path, exchange: bool
) -> None:
    from eventferry.http.routes import ROUTES

    on = [route for route in ROUTES if exchange or not route.path.startswith("/api/event-store/")]
    async with service(tmp_path, exchange_dir=tmp_path if exchange else None) as (client, _):
        told = (await client.get("/openapi.json")).json()
        assert told["openapi"] == "3.1.0"
        described = {(method.upper(), path) for path, methods in told["paths"].items() for method in methods}
        assert described == {(route.method, route.path) for route in on}
        page = (await client.get("/docs")).text
        assert {
            f"{route.method} {route.path}" for route in ROUTES if f"{route.method} {route.path}<" in page
        } == {f"{route.method} {route.path}" for route in on}
        assert "<script" not in page
        assert "http" not in page.replace("text/html", "")


async def test_the_description_is_read_without_a_token_and_says_how_to_send_one(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.json")
    tokens.add("someone", ["read"])
    async with service(tmp_path, 3, tokens=tokens) as (client, _):
        page = await client.get("/docs", headers={"Accept": "text/html"})
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert "Authorization: Bearer" in page.text
        assert "someone" not in page.text
        told = (await client.get("/openapi.json")).json()
        assert told["paths"]["/describe"]["get"]["security"] == [{"bearer": ["read"]}]
        assert told["paths"]["/docs"]["get"]["security"] == []
        assert (await client.get("/describe")).status_code == 401
    async with service(tmp_path) as (client, _):
        assert "Authorization" not in (await client.get("/docs")).text
