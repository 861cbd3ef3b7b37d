"""What the console's pages show: events as they are, and never as markup."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from eventferry.console.page import ROOT
from eventferry.http import create_app
from tests.support import LONG_AGO, exported, line, make_event
from tests.support.console import Markup, Visitor, console, markup_of
from tests.support.service import URL, lines_of, new_event, opened, service

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onfocus=alert(1) autofocus x='",
    "</title><svg onload=alert(1)>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "</pre><iframe src=//evil.example>",
    "a/b?c&d=e#f%2F+ g",
    "‮gnp.exe‬\u0007\u001b[31m",
    "日本語 é 🛫",
]
"""Types, aggregateIds and payloads that would like to be something else."""


async def walked(visitor: Visitor, *begin: str) -> dict[str, Markup]:
    """All pages that one comes to by links, forms not sent; none of them fails."""
    seen: dict[str, Markup] = {}
    waiting = list(begin)
    while waiting:
        path = waiting.pop()
        if path in seen or not path.startswith(ROOT):
            continue
        response = await visitor.client.get(path)
        assert response.status_code == 200, (path, response.status_code)
        if not response.headers["content-type"].startswith("text/html"):
            continue
        seen[path] = markup_of(response)
        waiting += [link for link in seen[path].links if not link.startswith("#")]
    return seen


async def test_whatever_an_event_holds_stays_text_on_every_page(tmp_path: Path) -> None:
    events = [
        make_event(
            number,
            type=text,
            aggregateId=f"{text}-{number}",
            aggregateVersion=1,
            payload={text: [text, None]},
        )
        for number, text in enumerate(HOSTILE)
    ]
    async with service(tmp_path, lines_of(events), console=True) as (client, _):
        pages = await walked(Visitor(client), ROOT)
        kinds = {urlsplit(path).path for path in pages}
        assert {ROOT, f"{ROOT}/events", f"{ROOT}/event", f"{ROOT}/aggregate", f"{ROOT}/operations"} <= kinds
        for text in HOSTILE[:6]:
            named = [
                path
                for path in pages
                if (dict(parse_qsl(urlsplit(path).query)).get("id") or "").startswith(text)
            ]
            assert named
            assert text in pages[named[0]].text
        shown = "".join(page.text for page in pages.values())
        assert "\u202e" not in shown
        assert "\u001b" not in shown
        assert "\\u202e" in shown


async def test_an_event_is_shown_with_its_payload_as_it_stands_in_the_store(tmp_path: Path) -> None:
    text = '{"b":1.0,"a":12345678901234567890,"n":1e400,"deep":[[],{}]}'
    event = line(make_event(7, payload="X")).replace(b'"X"', text.encode())
    async with service(tmp_path, event, console=True) as (client, _):
        page = await Visitor(client).see("/event", thread=7, counter=0)
        for piece in ("TYPE_1", "aggregate-7", "2020-09-13 12:26:40.007", "12345678901234567890", "1E+400"):
            assert piece in page.text
        assert page.text.index('"b"') < page.text.index('"a"')
        await Visitor(client).see("/event", 404, thread=7, counter=1)
        await Visitor(client).see("/event", 404, thread=8, counter=0)
        await Visitor(client).see("/event", 400, thread=256, counter=0)


async def test_pages_of_events_follow_one_another_and_keep_what_was_selected(tmp_path: Path) -> None:
    async with service(tmp_path, 400, console=True) as (client, _):
        path, positions, count = f"{ROOT}/events?type=TYPE_1", [], 0
        while path:
            page = markup_of(await client.get(path))
            positions += [link for link in page.links if link.startswith(f"{ROOT}/event?")]
            path = next((link for link in page.links if "since=" in link), "")
            count += 1
        assert count == 3
        assert len(positions) == len(set(positions)) == 133
        assert all(
            int(dict(parse_qsl(urlsplit(link).query))["thread"]) % 3 in (0, 1, 2) for link in positions
        )


async def test_the_history_of_an_aggregate_goes_on_page_after_page(tmp_path: Path) -> None:
    events = [make_event(n, aggregateId="a/b", aggregateVersion=n + 1) for n in range(120)]
    async with service(tmp_path, lines_of(events), console=True) as (client, _):
        visitor, path, shown = Visitor(client), f"{ROOT}/aggregate?id=a%2Fb", []
        while path:
            page = markup_of(await client.get(path))
            shown.append(page.text.count('"number"'))
            path = next((link for link in page.links if "version=" in link), "")
        assert shown == [50, 50, 20]
        await visitor.see("/aggregate", 404, id="nobody")
        await visitor.see("/aggregate", 400)


async def test_selected_events_are_downloaded_as_an_export_gives_them(tmp_path: Path) -> None:
    async with service(tmp_path, 300, console=True) as (client, store):
        file = await client.get(
            f"{ROOT}/download", params={"type": "TYPE_2", "startTime": "2020-09-13T12:26:40.100"}
        )
        assert file.headers["content-disposition"] == 'attachment; filename="events.jsonl"'
        assert file.content == await exported(store, event_types=["TYPE_2"], start_time=LONG_AGO + 100)
        whole = await client.get(f"{ROOT}/download")
        assert whole.content == await exported(store)
        assert (await client.get(f"{ROOT}/download", params={"startTime": "today"})).status_code == 400
        assert "eventferry_open_exports 0.0" in (await client.get("/metrics")).text


async def test_events_are_selected_by_time_however_it_is_written(tmp_path: Path) -> None:
    async with service(tmp_path, 300, console=True) as (client, _):
        for begin, end in (
            ("2020-09-13T12:26:40.100", "2020-09-13T12:26:40.102"),
            ("2020-09-13T14:26:40.100+02:00", "2020-09-13T12:26:40.102Z"),
            (str(LONG_AGO + 100), str(LONG_AGO + 102)),
        ):
            page = await Visitor(client).see("/events", startTime=begin, finishTime=end)
            assert [n for n in range(300) if f'{{"number":{n}}}' in page.text] == [100, 101, 102]
            assert page.forms[0]["startTime"] == "2020-09-13T12:26:40.100"
        for wrong in ("yesterday", "9" * 30, "2020-13-01", "0000-00-00T00:00"):
            assert "a time is written as" in (await Visitor(client).see("/events", 400, startTime=wrong)).text


async def test_operations_freeze_and_unfreeze_the_store_when_that_is_confirmed(tmp_path: Path) -> None:
    async with console(tmp_path, 3) as (visitor, store, tokens):
        await visitor.sign_in(tokens["read"])
        assert not [link for link in (await visitor.see("/operations")).links if "freeze" in link]
        await visitor.sign_in(tokens["all"])
        assert f"{ROOT}/freeze" in (await visitor.see("/operations")).links
        form = (await visitor.see("/freeze")).forms[-1]
        assert not (await store.describe()).is_frozen
        sent = await visitor.send("/freeze", formKey=form["formKey"])
        assert sent.headers["location"] == f"{ROOT}/operations"
        assert (await store.describe()).frozen_by == "user"
        assert "frozen" in (await visitor.see("")).text
        await visitor.send("/freeze", 409, formKey=form["formKey"])
        await visitor.send("/unfreeze", formKey=form["formKey"])
        assert not (await store.describe()).is_frozen


async def test_operations_show_an_open_import_and_discard_the_one_that_was_confirmed(tmp_path: Path) -> None:
    async with console(tmp_path, 3) as (visitor, store, tokens):
        first = await store.begin_incremental_import()
        await store.push_incremental_import([new_event(1)], first)
        await visitor.sign_in(tokens["all"])
        assert first in (await visitor.see("/operations")).text
        form = (await visitor.see("/rollback", id=first)).forms[-1]
        await store.rollback_incremental_import()
        second = await store.begin_incremental_import()
        await visitor.send("/rollback", 404, formKey=form["formKey"], id=form["id"])
        await visitor.send("/rollback", formKey=form["formKey"], id=second)
        assert (await store.describe()).open_import is None


async def test_operations_show_syncs_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with (
        service(tmp_path, console=True) as (client, store),
        service(tmp_path / "other", 5) as (_, other),
    ):
        await store.sync(other, mode="replica")
        page = await Visitor(client).see("/operations")
        assert "replica" in page.text
        assert "no problem" in page.text


async def test_what_the_pages_load_is_in_the_package_and_kept_by_browsers(tmp_path: Path) -> None:
    async with service(tmp_path, console=True) as (client, _):
        page = await client.get(ROOT)
        found = [part.split('"')[0].replace("&amp;", "&") for part in page.text.split(f'="{ROOT}/asset')[1:]]
        assert len(found) == 5
        for query in found:
            asset = await client.get(f"{ROOT}/asset{query}")
            assert asset.status_code == 200
            assert "immutable" in asset.headers["cache-control"]
        old = await client.get(f"{ROOT}/asset?name=console.css&v=old")
        assert old.headers["cache-control"] == "no-cache"
        for name in ("../app.py", "..", "", "/etc/passwd", "console.css\0"):
            assert (await client.get(f"{ROOT}/asset", params={"name": name})).status_code in (400, 404)


@pytest.mark.parametrize("path", ["/nowhere", "/events/1", "/%2e%2e/describe", "//"])
async def test_a_page_that_is_none_is_told_of_in_a_page(tmp_path: Path, path: str) -> None:
    async with service(tmp_path, console=True) as (client, _):
        assert "no such page" in markup_of(await client.get(ROOT + path)).text
        assert markup_of(await client.delete(f"{ROOT}/events")).text.count("Method Not Allowed")


async def test_the_pages_of_a_mounted_service_lead_to_one_another(tmp_path: Path) -> None:
    async with opened(tmp_path, 3) as store:
        app = Starlette(routes=[Mount("/a b", create_app(store, insecure=True, console=True))])
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as client:
            page = await client.get(f"/a%20b{ROOT}")
            assert f'href="/a%20b{ROOT}/events"' in page.text
            assert (await client.get(f"/a%20b{ROOT}/events")).status_code == 200
