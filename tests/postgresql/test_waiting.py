"""Waiting for the server costs this process nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from eventferry.databases.postgresql.connection import Connection
from tests.support import NewUrl


async def test_whoever_waits_for_an_answer_does_not_ask_all_the_time_whether_it_is_there(
    new_url: NewUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await Connection.open(new_url().partition("?")[0], "a server")
    loop = asyncio.get_running_loop()
    add_reader, looks = loop.add_reader, 0

    def counted(*args: Any) -> None:
        nonlocal looks
        looks += 1
        add_reader(*args)

    monkeypatch.setattr(loop, "add_reader", counted)
    try:
        await connection.ask("SELECT pg_sleep(1)")
    finally:
        await connection.close()
    assert 0 < looks < 20
