"""Pseudonyms are the same whatever database an event comes from, however that spells its payload."""

from __future__ import annotations

import json
from pathlib import Path

from eventferry import Changes
from tests.support import Opened, exported, import_lines, line, make_event

PAYLOAD = (
    b'{"plain":1.70e1,"name":"Zo\\u00eb","email":"zo\\u00eb@example.com","phone":"+33 612",'
    b'"whole":{"b":1.0,"a":2}}'
)


async def test_pseudonyms_are_the_same_on_every_database(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef")
    (tmp_path / "rules.toml").write_text("""
        pseudonyms = {key_file = "key"}
        [[rule]]
        pseudonym = ["/plain", "/name", "/whole"]
        pseudonym_email = ["/email"]
        pseudonym_digits = ["/phone"]
        pseudonym_aggregate = true
    """)
    async with opened() as store:
        text = line(make_event(0, aggregateId="17", payload=0)).replace(b":0}", b":" + PAYLOAD + b"}")
        await import_lines(store, text)
        event = json.loads(Changes(rules=tmp_path / "rules.toml").change(await exported(store)))
    assert event["aggregateId"] == event["payload"]["plain"] == "de3f2ab2130e33928866391a28b82da9"
    assert event["payload"] == {
        "plain": "de3f2ab2130e33928866391a28b82da9",
        "name": "39c7382f5a2c966478438b8c984b21a8",
        "email": "7bdf9639f34b1622f53e7bc00f302cfb@0fe855acc78c0311.invalid",
        "phone": "+34 948",
        "whole": "34add4a4f217264257f6e836bbc62354",
    }
