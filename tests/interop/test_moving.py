"""The pages about moving from a product: their examples run on a store that the product itself has written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest

from tests.support.foreign import message_db, new_database
from tests.support.foreign.node import run
from tests.test_docs import ABOUT_PRODUCTS, ROOT, run_page

pytestmark = [pytest.mark.interop, pytest.mark.slow, pytest.mark.usefixtures("node")]


def write_by_message_db(url: str) -> None:
    message_db.install(url)
    with message_db.connect(url) as connection:
        write = message_db.write_message
        write(connection, "account-123", "Opened", {"customer": "Zoë"}, {"correlationStreamName": "web-1"})
        write(connection, "account-123", "Deposited", {"amount": 20.5})
        write(connection, "transfer-7", "Requested", {"amount": 5})


def write_by_emmett(place: str) -> None:
    added = {
        "type": "ProductItemAdded",
        "data": {"price": 20.5, "quantity": "3"},
        "metadata": {"user": "Zoë"},
    }
    first = [added, {"type": "ShoppingCartConfirmed", "data": {}}]
    second = [{"type": "ProductItemAdded", "data": {"price": 7, "quantity": "1"}}]
    streams = [
        {"stream": "shopping_cart-1", "events": first},
        {"stream": "shopping_cart-2", "events": second},
    ]
    run("emmett", "write", place, streams)


def write_by_castore(url: str) -> None:
    run("castore", "create", url, {})
    ids = {"aggregateId": str(UUID(int=25))}
    appeared = {"type": "APPEARED", "payload": {"name": "Pikachu", "level": 42}, "metadata": {"by": "Zoë"}}
    written = [
        {"store": "POKEMONS", "event": ids | appeared | {"version": 1}},
        {"store": "POKEMONS", "event": ids | {"type": "CAUGHT", "version": 2}},
        {
            "store": "TRAINERS",
            "event": ids | {"type": "REGISTERED", "payload": {"name": "Zoë"}, "version": 1},
        },
    ]
    run("castore", "write", url, written)


WRITERS: dict[str, Callable[[str], None]] = {
    "moving-from-castore.md": write_by_castore,
    "moving-from-emmett.md": write_by_emmett,
    "moving-from-message-db.md": write_by_message_db,
}


@pytest.mark.parametrize("page", sorted(ABOUT_PRODUCTS))
def test_the_examples_about_a_product_run_on_postgresql(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_database() as url:
        WRITERS[page](url)
        monkeypatch.setenv("SOURCE", url)
        run_page(ROOT / "docs" / page, tmp_path)


def test_the_examples_about_emmett_run_on_sqlite_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "emmett.sqlite"
    write_by_emmett(str(file))
    monkeypatch.setenv("SOURCE", str(file))
    (tmp_path / "page").mkdir()
    run_page(ROOT / "docs" / "moving-from-emmett.md", tmp_path / "page")
