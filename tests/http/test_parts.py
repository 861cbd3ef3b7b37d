"""Imports in parts over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx

from eventferry.http import create_app
from tests.support import exported, make_lines
from tests.support.service import opened, problem_of

LINES = make_lines(40).splitlines(keepends=True)


async def test_an_import_in_parts_replaces_at_its_commit(tmp_path: Path) -> None:
    async with opened(tmp_path, 3) as store:
        transport = httpx.ASGITransport(create_app(store, insecure=True))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            assert problem_of(await client.post("/imports"))["type"].endswith("store-full")
            begun = await client.post("/imports?replace=true")
            assert begun.status_code == 201
            place = f"/imports/{begun.json()['id']}"
            parts = [b"".join(LINES[start : start + 10]) for start in range(0, 40, 10)]
            sent = await asyncio.gather(
                *(client.put(f"{place}/parts/{number}", content=part) for number, part in enumerate(parts))
            )
            told = [{"events": 10, "byteOffset": len(part), "isRepeated": False} for part in parts]
            assert [each.json() for each in sent] == told
            again = await client.put(f"{place}/parts/3", content=parts[3])
            assert again.json() == told[3] | {"isRepeated": True}
            refused = await client.put(f"{place}/parts/late", content=b"no line")
            assert problem_of(refused)["line"] == 1
            missed = await client.post(f"{place}/commit")
            assert missed.status_code == 409
            assert "'late'" in problem_of(missed)["detail"]
            assert await exported(store) == make_lines(3)
            await client.put(f"{place}/parts/late", content=b"")
            for _ in range(2):
                report = await client.post(f"{place}/commit")
                assert report.json() == {"imported": 40, "skippedExisting": 0, "skippedOlder": 0}
            assert (await client.delete(place)).status_code == 404
            assert await exported(store) == b"".join(LINES)
            other = (await client.post("/imports?replace=true")).json()["id"]
            assert (await client.delete(f"/imports/{other}")).status_code == 204
