"""Option files, as the server's own client reads them; and TLS, which a server on another machine must have."""

from __future__ import annotations

import secrets
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventferry import StoreUnreachableError, UsageError, open_store
from eventferry.databases.mysql import _is_here
from eventferry.databases.mysql.optionfile import read_options
from tests.support import import_lines, make_certificate, make_lines
from tests.support.mysql import Database

FILES = {
    "an option twice": "[client]\nuser=somebody\n{}",
    "a section twice": "[client]\nuser=somebody\n[client]\n{}",
    "a comment behind a value": "[client]\n{}\nssl-key= # none\n; more\n# more",
    "includedir before a section": "!includedir {folder}\n[client]\n{}",
    "include": "!include included.cnf",
    "other sections": "[mysqld]\nport=1\n{}\n[client]\n{}\n[mysql]\nuser=nobody",
    "quotes": "[client]\n{}\nsocket=''",
}


@pytest.mark.parametrize("name", FILES)
async def test_an_option_file_gives_what_the_address_does_not(
    name: str, database: Database, tmp_path: Path
) -> None:
    parts = urlsplit(database.url)
    user = f"opt_{secrets.token_hex(6)}"
    database.run(f"CREATE USER {user}@'127.0.0.1' IDENTIFIED BY 'a # \\\\''b'")
    database.run(f"GRANT ALL ON `{database.name}`.* TO {user}@'127.0.0.1'")
    values = f'host = {parts.hostname}\nport={parts.port}\nuser={user} # me\npassword="a # \\\\\'b"'
    (tmp_path / "included.cnf").write_text(f"[client]\n{values}\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "x.cnf").write_text("[client]\nuser=somebody\n")
    file = tmp_path / "my.cnf"
    file.write_text(FILES[name].replace("{folder}", str(tmp_path / "conf.d")).replace("{}", values))
    async with open_store(f"mysql:///{database.name}?read_default_file={file}") as store:
        await store.init()
        await import_lines(store, make_lines(3))
        assert (await store.describe()).event_count == 3


def test_a_file_that_cannot_be_read_is_named_and_what_is_in_it_is_not(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.cnf cannot be read"):
        open_store(f"mysql:///x?read_default_file={tmp_path}/missing.cnf")
    (tmp_path / "bad.cnf").write_text("[client\npassword=hunter2\n")
    with pytest.raises(UsageError, match=r"bad\.cnf, line 1") as refused:
        open_store(f"mysql:///x?read_default_file={tmp_path}/bad.cnf")
    assert "hunter2" not in str(refused.value)
    (tmp_path / "loop.cnf").write_text("!include loop.cnf\n")
    with pytest.raises(UsageError, match="deeply"):
        read_options(str(tmp_path / "loop.cnf"))


def test_which_host_is_this_machine() -> None:
    assert [host for host in (None, "localhost", "127.0.0.1", "127.9.9.9", "::1") if not _is_here(host)] == []
    assert [host for host in ("db", "10.0.0.1", "localhost.example.org", "::2") if _is_here(host)] == []


class Rogue:
    """A server that offers no TLS, and asks whoever comes for the password in clear."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        capabilities = 0x1 | 0x8 | 0x200 | 0x2000 | 0x8000 | 0x10000 | 0x20000 | 0x80000
        greeting = (
            b"\x0a5.5.5-10.11.19-MariaDB\0"
            + struct.pack("<I", 7)
            + b"abcdefgh\0"
            + struct.pack("<HBHH", capabilities & 0xFFFF, 0x2D, 2, capabilities >> 16)
            + b"\x15"
            + b"\0" * 10
            + b"ijklmnopqrst\0mysql_native_password\0"
        )
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with closing(connection):
                connection.settimeout(5)
                connection.sendall(struct.pack("<I", len(greeting)) + greeting)
                try:
                    first = connection.recv(4096)
                    self.got.append(first)
                    if first:
                        ask = b"\xfemysql_clear_password\0"
                        connection.sendall(struct.pack("<I", len(ask))[:3] + bytes([first[3] + 1]) + ask)
                        self.got.append(connection.recv(4096))
                except OSError:
                    continue

    def close(self) -> None:
        self._listening.close()


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    with closing(Rogue()) as server:
        yield server


@pytest.mark.parametrize("options", ["ssl_verify=identity", "ssl_verify=ca", "ssl_verify=none"])
async def test_where_tls_is_asked_for_a_server_without_it_hears_nothing(rogue: Rogue, options: str) -> None:
    async with open_store(f"mysql://user:hunter2@127.0.0.1:{rogue.port}/db?{options}") as store:
        with pytest.raises(StoreUnreachableError, match="offers no TLS"):
            await store.describe()
    assert b"".join(rogue.got) == b""


async def test_a_certificate_is_that_of_the_folder_in_which_the_store_was_opened(
    rogue: Rogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_certificate(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    async with open_store(f"mysql://127.0.0.1:{rogue.port}/db?ssl_ca=cert.pem") as store:
        monkeypatch.chdir("elsewhere")
        with pytest.raises(StoreUnreachableError, match="offers no TLS"):  # the file was found
            await store.describe()


async def test_a_server_on_another_machine_without_tls_hears_nothing(
    rogue: Rogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name of this machine that is not known to be one.
    monkeypatch.setattr(
        socket,
        "create_connection",
        lambda _, *rest, real=socket.create_connection: real(("127.0.0.1", rogue.port), *rest),
    )
    async with open_store(f"mysql://user:hunter2@db.example.org:{rogue.port}/db") as store:
        with pytest.raises(StoreUnreachableError, match="ssl_verify=off"):
            await store.describe()
    assert b"".join(rogue.got) == b""


async def test_a_password_is_never_sent_in_clear_without_tls(rogue: Rogue) -> None:
    for options in ("", "?ssl_verify=off"):
        async with open_store(f"mysql://user:hunter2@127.0.0.1:{rogue.port}/db{options}") as store:
            with pytest.raises(StoreUnreachableError, match="in clear"):
                await store.describe()
    assert b"hunter2" not in b"".join(rogue.got)
