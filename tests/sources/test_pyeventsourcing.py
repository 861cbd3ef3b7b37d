"""The preset `pyeventsourcing`, on stores that pyeventsourcing itself writes: the application of its tutorial."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import Notification

from eventferry.errors import SourceRowError
from tests.support.foreign import new_database, pyeventsourcing, read
from tests.support.foreign.pyeventsourcing import CIPHER, CIPHER_KEY, ZLIB, Store


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store that is not made yet."""
    if request.param == "sqlite":
        yield pyeventsourcing.on_sqlite(tmp_path / "school.db")
    else:
        with new_database() as url:
            yield pyeventsourcing.on_postgresql(url)


def decrypt(state: bytes) -> bytes:
    """What a user of the library's AESCipher writes to read its states: a nonce, a tag, and what is encrypted."""
    key = AESGCM(base64.b64decode(CIPHER_KEY))
    return key.decrypt(state[:12], state[28:] + state[12:28], None)


def test_the_library_itself_finds_in_its_store_what_this_file_expects_there(store: Store) -> None:
    pyeventsourcing.write(store, dogs=4, tricks=2, writers=2)
    assert len(store.notifications()) == 1 + len(pyeventsourcing.NOTES) + 4 * 3
    assert sorted(dog["name"] for dog in store.dogs().values()) == [
        "Fido, born 東京",
        "dog 0-0",
        "dog 0-1",
        "dog 1-0",
        "dog 1-1",
    ]


async def test_every_event_of_pyeventsourcing_is_as_the_library_reads_it(store: Store) -> None:
    pyeventsourcing.write(store)
    events, report = await read(store.url, "pyeventsourcing", tables=store.tables)
    assert events == [expected(n, store, row, row.state) for n, row in enumerate(store.notifications())]
    assert (report.events, report.renumbered, report.skipped) == (len(events), 0, {})


async def test_a_file_that_extends_the_preset_reads_compressed_states(store: Store, tmp_path: Path) -> None:
    compressed = store.with_options(ZLIB)
    pyeventsourcing.write(compressed)
    mapping = extending(tmp_path, compressed, '["zlib"]')
    events, _ = await read(store.url, mapping)
    rows = compressed.notifications()
    assert events == [expected(n, store, row, zlib.decompress(row.state)) for n, row in enumerate(rows)]


async def test_a_function_of_the_users_decrypts_states(store: Store, tmp_path: Path) -> None:
    encrypted = store.with_options(ZLIB, CIPHER)
    pyeventsourcing.write(encrypted)
    mapping = extending(tmp_path, encrypted, f'["{__name__}:decrypt", "zlib"]')
    events, _ = await read(store.url, mapping)
    rows = encrypted.notifications()
    states = [zlib.decompress(decrypt(row.state)) for row in rows]
    assert events == [expected(n, store, row, states[n]) for n, row in enumerate(rows)]


async def test_a_state_that_needs_other_steps_is_refused_at_its_first_event(store: Store) -> None:
    pyeventsourcing.write(store.with_options(ZLIB), dogs=0, writers=1)
    with pytest.raises(SourceRowError, match="pyeventsourcing, position 1, column data: not JSON"):
        await read(store.url, "pyeventsourcing", tables=store.tables)


async def test_what_the_functions_of_the_database_wrote_is_read_alike() -> None:
    with new_database() as url:
        store = pyeventsourcing.on_postgresql(url).with_options({"POSTGRES_ENABLE_DB_FUNCTIONS": "yes"})
        pyeventsourcing.write(store)
        events, _ = await read(url, "pyeventsourcing", tables=store.tables)
        assert events == [expected(n, store, row, row.state) for n, row in enumerate(store.notifications())]


def extending(folder: Path, store: Store, steps: str) -> str:
    file = folder / "mine.toml"
    tables = "".join(f"[tables]\n{name} = {table!r}\n" for name, table in store.tables.items())
    file.write_text(f'extends = "pyeventsourcing"\n{tables}[data]\ndecode = {steps}\n')
    return str(file)


def expected(number: int, store: Store, row: Notification, state: bytes) -> dict[str, Any]:
    """The event of a notification of the library, given its state as JSON."""
    data = json.loads(state)
    time = data["timestamp"]["_data_"]
    is_sqlite = store.url.startswith("sqlite:")  # there the column has the 32 digits alone
    return {
        "threadCounter": number,
        "threadId": 0,
        "type": row.topic,
        "timestamp": milliseconds(time),
        "aggregateId": UUID(str(row.originator_id)).hex if is_sqlite else str(row.originator_id),
        "aggregateVersion": row.originator_version,
        "payload": {
            "data": data,
            "meta": {
                "id": None,
                "position": row.id,
                "version": row.originator_version,
                "time": time,
                "metadata": None,
            },
        },
    }


def milliseconds(time: str) -> int:
    return (datetime.fromisoformat(time) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
