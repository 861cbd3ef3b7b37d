"""What the console's pages show: events as they are, and never as markup."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from eventferry import Mask, Repository, open_store, with_metadata
from eventferry.backup.storage import open_storage
from eventferry.console import searching
from eventferry.console.page import ROOT
from eventferry.http import SCOPES, TokenFile, create_app
from eventferry.visible import visible
from tests.console.test_checks import begun
from tests.support import LONG_AGO, exported, line, make_event
from tests.support.console import Markup, Visitor, console, markup_of
from tests.support.service import URL, client_of, lines_of, opened, service
from tests.support.small_backups import back_up
from tests.support.sqlite import connect

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


async def test_whatever_the_path_of_a_store_or_a_backup_holds_stays_text_on_every_page(
    tmp_path: Path,
) -> None:
    folder = tmp_path.joinpath(*HOSTILE)
    folder.mkdir(parents=True)
    file = TokenFile(tmp_path / "tokens.json")
    token = file.add("all", SCOPES)
    async with open_store(str(folder / "a.db")) as store, open_store(str(folder / "source.db")) as source:
        await source.init()
        await source.incremental_import([make_event(0)])
        await store.init()
        await store.sync(source, mode="replica")
        await back_up(store, open_storage(folder / "backup"), source=HOSTILE[0])
        repository = Repository(folder / "backup")
        async with client_of(store, tokens=file, console=True, repositories=[repository]) as client:
            visitor = Visitor(client)
            await visitor.sign_in(token)
            await begun(visitor, does="verify")
            pages = await walked(visitor, ROOT)
    for path, file_name in (("", "a.db"), ("/checks", "backup"), ("/operations", "source.db")):
        assert visible(str(folder / file_name)) in pages[ROOT + path].text, path
    asked = [page for path, page in pages.items() if "does=verify" in path]
    assert visible(str(folder / "backup")) in asked[0].text


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


def positions_in(page: Markup) -> list[str]:
    """The positions of the events in a table."""
    queries = [
        dict(parse_qsl(urlsplit(link).query)) for link in page.links if link.startswith(f"{ROOT}/event?")
    ]
    return [f"{query['thread']}:{query['counter']}" for query in queries]


async def test_an_event_is_found_by_its_position(tmp_path: Path) -> None:
    async with console(tmp_path, 300) as (visitor, _, tokens):
        await visitor.sign_in(tokens["read"])
        [form] = [form for form in (await visitor.see("/events")).forms if "counter" in form]
        assert form == {"action": f"{ROOT}/event", "method": "get", "thread": "", "counter": ""}
        page = await visitor.client.get(form["action"], params={"thread": "3", "counter": "1"})
        assert "thread 3, counter 1" in markup_of(page).text


@pytest.mark.parametrize(("order", "pages"), [("oldest", [50, 50, 33]), ("newest", [50, 50, 35])])
async def test_pages_of_events_follow_one_another_and_keep_what_was_selected(
    tmp_path: Path, order: str, pages: list[int]
) -> None:
    """The older page of the newest begins with the time at which the one before ends."""
    async with service(tmp_path, 400, console=True) as (client, _):
        path, found = f"{ROOT}/events?type=TYPE_1&order={order}", []
        while path:
            shown = markup_of(await client.get(path))
            found.append(positions_in(shown))
            path = next((link for link in shown.links if "since=" in link or "finishTime=" in link), "")
            path = "" if path.startswith(f"{ROOT}/download") else path
        assert list(map(len, found)) == pages
        wanted = [f"{n % 256}:{n // 256}" for n in range(400) if n % 3 == 1]
        assert sorted({position for page in found for position in page}) == sorted(wanted)
        assert found[0][0] == (wanted[0] if order == "oldest" else wanted[-1])


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
        file = await client.get(f"{ROOT}/download", params={"startTime": "2020-09-13T12:26:40.1000001"})
        assert file.content == await exported(store, start_time=LONG_AGO + 101)
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


async def test_a_history_tells_what_differs_from_event_to_event(tmp_path: Path) -> None:
    payloads = [
        {"name": "Ada", "tags": ["a"]},
        {"name": "<b>Eve</b>", "tags": ["a", "b"]},
        {"name": "<b>Eve</b>"},
    ]
    events = [
        make_event(n, type="T", aggregateId="a", aggregateVersion=n + 1, payload=p)
        for n, p in enumerate(payloads)
    ]
    async with service(tmp_path, lines_of(events), console=True) as (client, _):
        response = await client.get(f"{ROOT}/aggregate?id=a")
        page = markup_of(response)
        assert "<td>/name</td><td><del><code>" not in response.text
        for piece in (
            "/name",
            '"Ada"',
            '"<b>Eve</b>"',
            "/tags/1",
            '"b"',
            "Differs from version 1",
            "Differs from version 2",
        ):
            assert piece in page.text
        assert page.tags.count("del") == 2
        assert page.tags.count("ins") == 2


async def test_types_and_aggregates_are_counted_and_lead_to_their_events(tmp_path: Path) -> None:
    async with service(tmp_path, 100, console=True) as (client, _):
        types = await Visitor(client).see("/types")
        assert "100 events of 3 types" in types.text
        assert f"{ROOT}/events?type=TYPE_2" in types.links
        aggregates = await Visitor(client).see("/aggregates")
        assert "10 aggregates" in aggregates.text
        assert f"{ROOT}/aggregate?id=aggregate-7" in aggregates.links
        few = await Visitor(client).see("/aggregates", prefix="aggregate-7")
        assert "1 aggregates" in few.text


async def test_the_chart_of_events_over_time_leads_into_a_span_of_it(tmp_path: Path) -> None:
    day = 86_400_000
    events = [make_event(n, timestamp=LONG_AGO - LONG_AGO % day + n // 3 * day) for n in range(300)]
    async with service(tmp_path, lines_of(events), console=True) as (client, _):
        visitor = Visitor(client)
        assert f"{ROOT}/chart" in (await visitor.see("")).links
        chart = await visitor.see("/chart")
        bars = [link for link in chart.links if link.startswith(f"{ROOT}?startTime=")]
        assert len(bars) == 100
        assert "2020-09-13: 3 events" in chart.text
        inside = markup_of(await client.get(bars[1].replace(f"{ROOT}?", f"{ROOT}/events?")))
        assert positions_in(inside) == ["5:0", "4:0", "3:0"]
        narrow = markup_of(await client.get(bars[1].replace(f"{ROOT}?", f"{ROOT}/chart?")))
        assert "3 events" in narrow.text
        assert (
            "There are no events in this time" in (await visitor.see("/chart", startTime="2030-01-01")).text
        )


async def test_the_overview_counts_few_events_and_estimates_many(tmp_path: Path) -> None:
    async with console(tmp_path, 3) as (visitor, store, tokens):
        await visitor.sign_in(tokens["read"])
        assert "estimate" not in (await visitor.see("")).text
        with connect(tmp_path / "store.db") as file, file:
            file.execute("UPDATE events SET rowid = 250000 WHERE rowid = 3")
        page = await visitor.see("")
        assert "about 250,000" in page.text
        assert "The number of events is an estimate" in page.text
        assert (await store.describe()).event_count == 3


async def test_a_chart_of_all_times_that_an_event_may_have_is_drawn(tmp_path: Path) -> None:
    events = [make_event(0, timestamp=-(2**53) + 1), make_event(1), make_event(2, timestamp=2**53 - 1)]
    async with service(tmp_path, lines_of(events), console=True) as (client, _):
        await walked(Visitor(client), ROOT)


async def test_a_search_finds_texts_and_values_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "_SCAN", 150)
    async with service(tmp_path, 400, console=True) as (client, _):
        visitor = Visitor(client)
        first = await visitor.see("/search", path="/number", value="237")
        assert "0 found among 150 events" in first.text
        [on] = [link for link in first.links if "cursor=" in link]
        second = markup_of(await client.get(on))
        assert positions_in(second) == ["237:0"]
        assert second.forms[0]["value"] == "237"
        text = await visitor.see("/search", text="AGGREGATE-7", type="TYPE_1", startTime=str(LONG_AGO + 60))
        assert positions_in(text)[:3] == ["67:0", "97:0", "127:0"]
        found = await visitor.see("/search", path="/number", value="67.0")
        assert positions_in(found) == ["67:0"]
        assert (await visitor.see("/search", 400, value="1")).text
        assert "too deep" in (await visitor.see("/search", 400, path="/number", value="[" * 3000)).text
        assert (await visitor.see("/search", 400, path="no pointer")).text
        assert (await visitor.see("/search", 400, text="a", cursor="nonsense")).text


async def test_no_page_shows_ids_of_metadata_that_are_masked(tmp_path: Path) -> None:
    mask = Mask(["/meta/metadata/correlationid", "/meta/metadata/causationid", "/meta/id"])
    async with service(tmp_path, console=True, mask=mask) as (client, store):
        event = with_metadata(
            {"type": "ASKED", "payload": 1}, id="ann-1", correlation_id="ann-2", causation_id="ann-3"
        )
        await store.append_events("a", [event])
        visitor = Visitor(client)
        [place] = positions_in(await visitor.see("/events"))
        thread, counter = place.split(":")
        for page in (
            await visitor.see("/event", thread=thread, counter=counter),
            await visitor.see("/trace", correlation="ann-2"),
        ):
            assert "ASKED" in page.text
            assert "ann-1" not in page.text
            assert "ann-3" not in page.text
            assert not any("correlation=ann" in link for link in page.links)


async def test_a_trace_puts_events_behind_their_causes(tmp_path: Path) -> None:
    async with service(tmp_path, console=True) as (client, store):
        cause = with_metadata({"type": "ASKED", "payload": 1}, id="asked", correlation_id="c-1")
        await store.append_events("a", [cause])
        effect = with_metadata({"type": "ANSWERED", "payload": 2}, correlation_id="c-1", causation_id="asked")
        await store.append_events("b", [effect])
        visitor = Visitor(client)
        [event] = positions_in(await visitor.see("/events", type="ANSWERED"))
        thread, counter = event.split(":")
        assert (
            f"{ROOT}/trace?correlation=c-1"
            in (await visitor.see("/event", thread=thread, counter=counter)).links
        )
        page = await visitor.see("/trace", correlation="c-1")
        assert page.text.index("ASKED") < page.text.index("→ ANSWERED")
        assert "0 found" in (await visitor.see("/trace", correlation="none")).text


async def test_secrets_and_what_the_operator_names_are_on_no_page(tmp_path: Path) -> None:
    payload = {"password": "hunter2", "customer": {"email": "ada@example.org", "city": "Paris"}}
    events = [
        make_event(
            n,
            aggregateId="a",
            aggregateVersion=n + 1,
            type="T",
            payload=payload | {"n": n, "apiKey": f"key-{n}"},
        )
        for n in range(3)
    ]
    async with service(tmp_path, lines_of(events), console=True, mask=Mask(["/customer/email"])) as (
        client,
        _,
    ):
        pages = await walked(Visitor(client), ROOT, f"{ROOT}/search?text=Paris")
        shown = "".join(page.text for page in pages.values())
        for hidden in ("hunter2", "ada@", "key-1"):
            assert hidden not in shown
        assert "Paris" in shown


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


@pytest.mark.parametrize("steps", ["incremental", "parts"])
async def test_operations_show_an_open_import_and_discard_the_one_that_was_confirmed(
    tmp_path: Path, steps: str
) -> None:
    async with console(tmp_path, 3) as (visitor, store, tokens):
        is_parts = steps == "parts"
        begin = store.begin_import if is_parts else store.begin_incremental_import
        first = await begin()
        await visitor.sign_in(tokens["all"])
        page = await visitor.see("/operations")
        assert first in page.text
        [ask] = [link for link in page.links if "rollback" in link]
        form = markup_of(await visitor.client.get(ask)).forms[-1]
        fields = {"formKey": form["formKey"], "steps": form["steps"]}
        await (store.rollback_import() if is_parts else store.rollback_incremental_import())
        second = await begin()
        await visitor.send("/rollback", 404, **fields, id=form["id"])
        await visitor.send("/rollback", 303, **fields, id=second)
        assert "None." in (await visitor.see("/operations")).text


async def test_operations_show_syncs_with_how_far_they_are_behind(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    async with (
        opened(tmp_path) as store,
        opened(tmp_path / "other", 5) as other,
        open_store(str(tmp_path / "nowhere.db")) as nowhere,
    ):
        await store.sync(other, mode="replica")
        await other.append_events("a", [{"type": "LATER"}, {"type": "LATER"}])
        async with client_of(store, console=True) as client:
            page = await Visitor(client).see("/operations")
            assert "replica" in page.text
            assert "no problem" in page.text
            assert "not known" in page.text
            assert "--source STORE" in page.text
        async with client_of(store, console=True, sources=[nowhere, other]) as client:
            page = await Visitor(client).see("/operations")
            assert re.search(r"2 events, \d+ s", page.text)
            assert "--source STORE" not in page.text
            assert "1 of the sources that were named could not be asked" in page.text
            await store.sync(other)
            assert "0 events" in (await Visitor(client).see("/operations")).text


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


async def test_a_payload_that_is_no_json_by_our_rules_is_shown_as_it_is(tmp_path: Path) -> None:
    async with service(tmp_path, 1, console=True) as (client, _store):
        [file] = tmp_path.glob("*.db")
        with connect(file) as written, written:
            written.execute(r"""UPDATE events SET payload = '{"a":"\ud800"}'""")
        visitor = Visitor(client)
        assert r"\ud800" in (await visitor.see("/event", thread=0, counter=0)).text
        assert r"\ud800" in (await visitor.see("/aggregate", id="aggregate-0")).text
