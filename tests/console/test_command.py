"""The commands that serve the console."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import httpx
import pytest

from eventferry.cli.console import _page_to, _to
from tests.support import line, make_event
from tests.support.cli import COMMAND, PATIENCE, Ferry, environment, hear_signals, new_ferry
from tests.support.console import console, markup_of
from tests.support.service import serving

ferry = pytest.fixture(new_ferry)


@pytest.mark.slow
def test_the_console_of_a_store_is_for_whoever_has_its_address(ferry: Ferry) -> None:
    ferry.done("init", "a.db")
    log = ferry.directory / "console.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [*COMMAND, "console", "a.db", "--no-browser"],
            stdin=subprocess.DEVNULL,
            stderr=file,
            env=environment(),
            preexec_fn=hear_signals,
            cwd=ferry.directory,
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not (found := re.search(r"is at (\S+)#(\S+)\n", log.read_text())):
                assert time.monotonic() < deadline
                assert process.poll() is None, log.read_text()
                time.sleep(0.02)
            place, token = found.groups()
            with httpx.Client(timeout=PATIENCE) as client:
                assert client.get(place.replace("/sign-in", "")).status_code == 303
                page = client.get(place)
                key = re.search(r'name="formKey" value="(\w+)"', page.text)
                assert key is not None
                form = {"formKey": key[1], "token": token}
                overview = client.post(place, data=form, follow_redirects=True)
                assert "Events" in markup_of(overview).text
                assert client.get(place.replace("/sign-in", "/freeze")).status_code == 403
                api = place.replace("/console/sign-in", "/describe")
                assert client.get(api).status_code == 401
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
            process.wait()


async def test_the_console_begins_with_the_aggregate_that_is_asked_for(tmp_path: Path) -> None:
    asked = "aggregate 3&c=d/é"
    async with console(tmp_path, line(make_event(0, aggregateId=asked))) as (visitor, _, tokens):
        [(_, back)] = parse_qsl(_to(asked).removeprefix("?"))
        answer = await visitor.sign_in(tokens["read"], back=back)
        page = markup_of(await visitor.client.get(answer.headers["location"]))
        assert f"{asked} – eventferry" in page.text
    assert _to(None) == ""


def test_no_other_user_sees_the_token_that_a_browser_is_opened_with() -> None:
    with _page_to("http://127.0.0.1:1/console/sign-in#token") as url:
        page = Path(unquote(urlsplit(url).path))
        assert "#token" in page.read_text()
        assert not stat.S_IMODE(page.parent.stat().st_mode) & 0o077
    assert not page.exists()


@pytest.mark.slow
def test_serve_has_a_console_if_it_is_asked_for(ferry: Ferry) -> None:
    (ferry.directory / "one.jsonl").write_bytes(line(make_event(0)))
    ferry.done("init", "source.db")
    ferry.done("incremental-import", "one.jsonl", "source.db")
    ferry.done("sync", "source.db", "a.db")
    url, source = (f"sqlite:///{ferry.directory}/{name}.db" for name in ("a", "source"))
    assert "are for --console" in ferry.refused("serve", "a.db", "--source", "source.db", status=2)
    words = ("--console", "--source", source)
    with serving(url, ferry.directory, *words) as server, server.client() as client:
        assert "Overview" in markup_of(client.get("/console")).text
        assert "0 events" in markup_of(client.get("/console/operations")).text
        server.signal()
        assert server.ended() == 0


def test_a_console_of_what_is_no_store_says_so(ferry: Ferry) -> None:
    assert "there is no store" in ferry.refused("console", "nowhere.db")
    assert ferry.names() == set()
