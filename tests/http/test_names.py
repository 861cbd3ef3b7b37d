"""Names over HTTP: two are never taken for one, and what is no name is refused by the parameter it stands in."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from eventferry import EventStore
from eventferry.http import create_app
from tests.support.service import lines_of, new_event, opened, problem_of


async def asked(
    store: EventStore, method: str, target: bytes, body: bytes = b"", *, raw: bool = True
) -> httpx.Response:
    """The answer to a request whose target goes out as it is, decoded as servers decode it."""
    path, _, query = target.partition(b"?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path.decode("utf-8", "replace")),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        **({"raw_path": path} if raw else {}),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await create_app(store, insecure=True)(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in sent)
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=content)


def part_of(import_id: str, name: str) -> bytes:
    return f"/incremental-imports/{import_id}/parts/{name}".encode("latin-1")


NOT_UTF_8 = ("caf%E9", "caf%E8", "caf%FF", "%C3", "%ED%A0%80", "caf\xea", "%FF")


async def test_parts_whose_names_are_not_utf_8_do_not_replace_each_other(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        begun = (await asked(store, "POST", b"/incremental-imports")).json()["id"]
        for number, name in enumerate((*NOT_UTF_8, "caf%EF%BF%BD", "%EF%BF%BD")):
            body = lines_of([new_event(number, aggregateId=f"a{number}")])
            for _ in range(2):  # sent again it is the same part
                assert (await asked(store, "PUT", part_of(begun, name), body)).status_code == 200, name
        assert (await store.commit_incremental_import(begun)).imported == len(NOT_UTF_8) + 2


async def test_where_a_server_tells_no_raw_path_such_a_name_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        begun = (await asked(store, "POST", b"/incremental-imports")).json()["id"]
        for name in NOT_UTF_8:
            response = await asked(store, "PUT", part_of(begun, name), lines_of([new_event(1)]), raw=False)
            assert response.status_code == 400, name
            assert "'part'" in problem_of(response)["detail"]
        whole = await asked(store, "PUT", part_of(begun, "caf%C3%A9"), lines_of([new_event(1)]), raw=False)
        assert whole.status_code == 200
        assert (await store.commit_incremental_import(begun)).imported == 1


async def test_every_name_that_is_utf_8_is_a_part_of_its_own(tmp_path: Path) -> None:
    names = [
        *("caf%C3%A9", "caf%C3%A8", "%EF%BF%BD", "a%20b", "a+b", "a%2Bb%0A", "a", "A", "%25zz", "..%3F"),
        *("%5C", "%25C3", "a%0A", "a%0a%0A", "%F0%9F%9A%80", "a;b", "1", "01"),
    ]
    async with opened(tmp_path) as store:
        begun = (await asked(store, "POST", b"/incremental-imports")).json()["id"]
        for number, name in enumerate(names):
            body = lines_of([new_event(number, aggregateId=f"a{number}")])
            assert (await asked(store, "PUT", part_of(begun, name), body)).status_code == 200, name
        assert (await store.commit_incremental_import(begun)).imported == len(names)


@pytest.mark.parametrize("name", ["x%2F", "%2Fx", "a%2fb", "x/%0A", "x%", "x%zz", "x%4", "%u0041", "x%00"])
async def test_a_path_that_could_be_read_as_another_is_refused(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path) as store:
        begun = (await asked(store, "POST", b"/incremental-imports")).json()["id"]
        response = await asked(store, "PUT", part_of(begun, name), lines_of([new_event(1)]))
        assert response.status_code in (400, 404), name
        assert (await store.commit_incremental_import(begun)).imported == 0


async def test_the_id_of_an_import_is_decoded_as_strictly(tmp_path: Path) -> None:
    async with opened(tmp_path) as store:
        begun = (await asked(store, "POST", b"/incremental-imports")).json()["id"]
        response = await asked(store, "DELETE", f"/incremental-imports/{begun}%FF".encode())
        assert response.status_code == 400
        assert "'id'" in problem_of(response)["detail"]
        assert (await asked(store, "POST", b"/freeze%0A")).status_code == 400
        assert not (await store.describe()).is_frozen


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (b"type=caf%E9", ["'type'", "UTF-8"]),
        (b"aggregateId=a&aggregateId=%ED%A0%80", ["'aggregateId'", "UTF-8"]),
        (b"type=caf\xe9", ["'type'", "UTF-8"]),
        (b"limit=%00", ["'limit'", "U+0000"]),
        (b"type=100%", ["'type'", "%25"]),
        (b"type=%zz", ["'type'", "%25"]),
        (b"%ff=1", ["name", "UTF-8"]),
        (b"=1", ["unknown parameter"]),
        (b"limit=1&limit=1", ["'limit'", "twice"]),
        (b"limit=1&l%69mit=1", ["'limit'", "twice"]),
        (b"&".join([b"type=a"] * 10_001), ["10000"]),
    ],
)
async def test_a_query_is_decoded_exactly_or_refused_by_parameter(
    tmp_path: Path, query: bytes, words: list[str]
) -> None:
    async with opened(tmp_path, 3) as store:
        response = await asked(store, "GET", b"/events?" + query)
        assert response.status_code == 400
        for word in words:
            assert word in problem_of(response)["detail"]


@pytest.mark.parametrize("type_", ["é", "\ufffd", "100%", "a+b c", "%zz", "a&b=c"])
async def test_any_text_can_be_asked_for(tmp_path: Path, type_: str) -> None:
    async with opened(tmp_path, 3) as store:
        await store.incremental_import([new_event(1, type=type_)])
        asking = httpx.QueryParams({"type": type_})
        response = await asked(store, "GET", f"/events?{asking}".encode())
        assert [event["type"] for event in response.json()["events"]] == [type_]
        if type_ == "é":
            response = await asked(store, "GET", "/events?type=é".encode())
            assert len(response.json()["events"]) == 1
