"""The routes of reSolve's own client: with the real `module-admin`, and with whoever wants out of the folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from eventferry import EventStore, open_store
from tests.support import FAR_FUTURE, exported, import_lines, make_event, make_lines
from tests.support.interop.resolve import install
from tests.support.service import lines_of, new_event, service, serving

T = TypeVar("T")
PATIENCE = 60


def in_store(folder: Path, work: Callable[[EventStore], Awaitable[T]]) -> T:
    async def opened() -> T:
        async with open_store(f"sqlite:///{folder}/store.db") as store:
            if not await store.exists():
                await store.init()
            return await work(store)

    return asyncio.run(opened())


async def filled(store: EventStore) -> None:
    await import_lines(store, make_lines(299))
    await store.set_secret("anna", "key-of-anna")


@pytest.fixture(scope="session")
def admin() -> list[str]:
    """The command `module-admin`."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("the real module-admin needs node and npm, not found here")
    return ["node", str(install() / "node_modules" / "@resolve-js" / "module-admin" / "bin" / "index.js")]


def say(admin: list[str], url: str, *words: str) -> str:
    """What the real client prints; it ends with 0 whatever the server says."""
    ended = subprocess.run(
        [*admin, "--api-url", url, *words], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert ended.stderr == ""
    return ended.stdout.removesuffix("\n")


@pytest.mark.slow
@pytest.mark.interop
def test_the_real_client_exports_imports_and_freezes(tmp_path: Path, admin: list[str]) -> None:
    in_store(tmp_path, filled)
    folder = tmp_path / "exchange"
    folder.mkdir()
    before = in_store(tmp_path, exported)
    with serving(f"sqlite:///{tmp_path}/store.db", tmp_path, "--exchange-dir", str(folder)) as server:
        url = f"{server.url}/api"
        assert say(admin, url, "event-store", "export", "my backup") == "ok"
        assert (folder / "my backup" / "events.db").read_bytes() == before
        assert (
            folder / "my backup" / "secrets.db"
        ).read_bytes() == b'{"secret":"key-of-anna","id":"anna","idx":0}\n'
        assert stat.S_IMODE((folder / "my backup" / "secrets.db").stat().st_mode) == 0o600
        assert say(admin, url, "event-store", "freeze") == "EventStore is frozen"
        assert say(admin, url, "event-store", "freeze") == "EventStore is already frozen"
        frozen = say(admin, url, "event-store", "import", "my backup")
        assert frozen.startswith("Error: ")
        assert "frozen" in frozen
        assert say(admin, url, "event-store", "export", "frozen", "--maintenance-mode", "auto") == "ok"
        assert say(admin, url, "event-store", "unfreeze") == "EventStore is unfrozen"
        assert say(admin, url, "event-store", "unfreeze") == "EventStore is already unfrozen"
        in_store(tmp_path, lambda store: store.incremental_import([new_event(1)]))
        assert say(admin, url, "event-store", "import", "my backup") == "ok"  # it replaces without asking
        assert in_store(tmp_path, exported) == before
        assert say(admin, url, "event-store", "import", "nowhere").startswith(
            "Error: No such file or directory"
        )
        assert say(admin, url, "event-store", "export", "../outside").startswith("Error: ")


@pytest.mark.interop
@pytest.mark.slow
def test_the_real_client_imports_incrementally(tmp_path: Path, admin: list[str]) -> None:
    in_store(tmp_path, filled)
    folder = tmp_path / "exchange"
    folder.mkdir()
    (folder / "new events.jsonl").write_bytes(
        lines_of([new_event(number, timestamp=FAR_FUTURE + number) for number in range(10)])
    )
    with serving(f"sqlite:///{tmp_path}/store.db", tmp_path, "--exchange-dir", str(folder)) as server:
        url = f"{server.url}/api"
        for _ in range(2):
            assert say(admin, url, "event-store", "incremental-import", "new events.jsonl") == "ok"
            assert in_store(tmp_path, lambda store: store.describe()).event_count == 310
        (folder / "bad.jsonl").write_bytes(b'{"type":5}\n')
        told = say(admin, url, "event-store", "incremental-import", "bad.jsonl")
        assert told.startswith("Error: line 1")


@pytest.mark.interop
@pytest.mark.slow
def test_the_real_client_appends_in_manual_mode_also_to_a_frozen_store(
    tmp_path: Path, admin: list[str]
) -> None:
    in_store(tmp_path, filled)
    folder = tmp_path / "exchange"
    folder.mkdir()
    with serving(f"sqlite:///{tmp_path}/store.db", tmp_path, "--exchange-dir", str(folder)) as server:
        url = f"{server.url}/api"
        manual = ("--maintenance-mode", "manual")
        assert say(admin, url, "event-store", "export", "backup", *manual) == "ok"
        more = lines_of(
            [
                make_event(
                    number,
                    threadCounter=5 + number,
                    threadId=200,
                    aggregateId="more",
                    aggregateVersion=number + 1,
                )
                for number in range(10)
            ]
        )
        with (folder / "backup" / "events.db").open("ab") as file:
            file.write(more)
        with (folder / "backup" / "secrets.db").open("ab") as file:
            file.write(b'{"secret":"key-of-ben","id":"ben","idx":1}\n')
        assert say(admin, url, "event-store", "freeze") == "EventStore is frozen"
        assert say(admin, url, "event-store", "import", "backup", *manual) == "ok"
        told = in_store(tmp_path, lambda store: store.describe())
        assert told.is_frozen
        assert told.secret_count == 2
        assert len(in_store(tmp_path, exported).splitlines()) == 310


@pytest.mark.interop
@pytest.mark.slow
def test_the_real_client_sends_its_token_as_a_password(tmp_path: Path, admin: list[str]) -> None:
    from eventferry.http import SCOPES, TokenFile

    in_store(tmp_path, filled)
    tokens = TokenFile(tmp_path / "tokens.json")
    token, little = tokens.add("admin", SCOPES), tokens.add("reader", ["read"])
    store = f"sqlite:///{tmp_path}/store.db"
    with serving(store, tmp_path, "--exchange-dir", str(tmp_path), "--tokens", str(tokens.path)) as server:
        host = server.url.removeprefix("http://")
        assert "a token is required" in say(admin, f"http://{host}/api", "event-store", "freeze")
        assert "unknown" in say(admin, f"http://user:nonsense@{host}/api", "event-store", "freeze")
        assert "scope write" in say(admin, f"http://user:{little}@{host}/api", "event-store", "freeze")
        assert (
            say(admin, f"http://user:{token}@{host}/api", "event-store", "freeze") == "EventStore is frozen"
        )
        assert token not in server.log


@pytest.mark.interop
@pytest.mark.slow
def test_the_real_client_is_told_where_its_routes_are_off(tmp_path: Path, admin: list[str]) -> None:
    in_store(tmp_path, filled)
    with serving(f"sqlite:///{tmp_path}/store.db", tmp_path) as server:
        for words in (
            ["freeze"],
            ["unfreeze"],
            ["export", "x"],
            ["import", "x"],
            ["incremental-import", "x"],
        ):
            assert "exchange-dir" in say(admin, f"{server.url}/api", "event-store", *words)
    assert not in_store(tmp_path, lambda store: store.describe()).is_frozen
    assert not (tmp_path / "x").exists()


OUTSIDE = [
    "..",
    "../outside",
    "a/../../outside",
    "/etc",
    "/",
    ".",
    "",
    "link",
    "link/inner",
    "a/link",
    "..\\outside",
    "a\0b",
    "//etc",
    "x/" * 3000,
    "y" * 300,
]


@pytest.mark.parametrize("name", OUTSIDE)
async def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "exchange"
    for place in (outside, outside / "inner", folder, folder / "a"):
        place.mkdir()
    for place in (outside, outside / "inner"):
        (place / "events.db").write_bytes(make_lines(1))
        (place / "secrets.db").write_bytes(b"")
    (folder / "link").symlink_to(outside)
    (folder / "a" / "link").symlink_to(outside)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    async with service(tmp_path, 3, exchange_dir=folder) as (client, store):
        for method in ("export", "import"):
            for mode in ("auto", "manual"):
                response = await client.get(
                    f"/api/event-store/{method}", params={"directory": name, "maintenanceMode": mode}
                )
                assert response.status_code in (400, 404), response.text
                assert response.text.startswith("Error: ")
                assert str(tmp_path) not in response.text
        file = f"{name}/events.db"
        response = await client.get("/api/event-store/incremental-import", params={"path": file})
        assert response.status_code in (400, 404), response.text
        assert await exported(store) == make_lines(3)
        assert (outside / "events.db").read_bytes() == make_lines(1)
    after = {str(path) for path in tmp_path.rglob("*")} - {
        str(tmp_path / f"store.db{end}") for end in ("", "-wal", "-shm")
    }
    assert sorted(after) == before


async def test_no_file_in_the_folder_leads_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "exchange"
    (folder / "backup").mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for name in ("events.db", "secrets.db"):
        place = folder / "backup" / name
        place.symlink_to(victim)
        async with service(tmp_path, 3, exchange_dir=folder) as (client, _):
            for method in ("export", "import"):
                response = await client.get(f"/api/event-store/{method}?directory=backup")
                assert response.status_code in (400, 404)
        place.unlink()
        place.write_bytes(b"")
    assert victim.read_text() == "mine"


async def test_a_pipe_in_the_folder_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with service(tmp_path, exchange_dir=tmp_path) as (client, _):
        response = await asyncio.wait_for(client.get("/api/event-store/incremental-import?path=pipe"), 10)
        assert response.status_code == 404


async def test_a_bad_secret_changes_no_event(tmp_path: Path) -> None:
    (tmp_path / "backup").mkdir()
    (tmp_path / "backup" / "events.db").write_bytes(make_lines(5))
    (tmp_path / "backup" / "secrets.db").write_bytes(b'{"secret":"s","id":"a","idx":0}\nnonsense\n')
    async with service(tmp_path, 3, exchange_dir=tmp_path) as (client, store):
        response = await client.get("/api/event-store/import?directory=backup")
        assert response.status_code == 422
        assert await exported(store) == make_lines(3)


@pytest.mark.parametrize(
    "query", ["", "directory=a&maintenanceMode=perhaps", "directory=a&directory=b", "path=a"]
)
async def test_wrong_parameters_are_refused_in_plain_text(tmp_path: Path, query: str) -> None:
    async with service(tmp_path, exchange_dir=tmp_path) as (client, _):
        response = await client.get(f"/api/event-store/export?{query}")
        assert response.status_code == 400
        assert response.headers["content-type"].startswith("text/plain")


async def test_only_get_is_there_for_that_client(tmp_path: Path) -> None:
    async with service(tmp_path, exchange_dir=tmp_path) as (client, store):
        answers: list[Any] = [
            await client.request(method, "/api/event-store/freeze") for method in ("POST", "HEAD", "PUT")
        ]
        assert [answer.status_code for answer in answers] == [405] * 3
        assert not (await store.describe()).is_frozen
