"""Agents: the official client asks, and gets short answers without secrets; nothing can be changed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from eventferry import Mask, open_store, with_metadata
from tests.support import import_lines, make_event

if TYPE_CHECKING:
    from mcp import Client

pytestmark = pytest.mark.slow  # its libraries alone take seconds to load, so they are loaded by the tests


async def asked(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool answers."""
    from mcp.types import TextContent

    from eventferry.looking.agents import ANSWER_BYTES

    result = await client.call_tool(tool, arguments)
    [content] = result.content
    assert isinstance(content, TextContent)
    assert not result.is_error, content
    assert len(content.text) < 2 * ANSWER_BYTES
    return json.loads(content.text)


async def test_an_agent_looks_into_a_store(tmp_path: Path) -> None:
    from mcp import Client, StdioServerParameters

    from eventferry.looking.agents import MOST_EVENTS

    url = f"sqlite:///{tmp_path}/a.db"
    async with open_store(url) as store:
        await store.init()
        await import_lines(
            store, [make_event(i, payload={"number": i, "password": "p4ss"}) for i in range(100)]
        )
        await store.append_events(
            "z", [with_metadata({"type": "T", "payload": 1}, id="1", correlation_id="c")]
        )

    command = StdioServerParameters(
        command=sys.executable, args=["-m", "eventferry", "mcp", url, "--mask", "/number"]
    )
    async with Client(command) as client:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == {
            "describe",
            "stats",
            "tail",
            "history",
            "event",
            "search",
            "trace",
        }
        assert all(tool.annotations is not None and tool.annotations.read_only_hint for tool in tools)
        assert (await asked(client, "describe"))["eventCount"] == 101
        assert (await asked(client, "stats", top=1))["types"]["count"] == 4
        tail = await asked(client, "tail", count=2)
        assert tail["events"][0]["payload"] == {"number": "***", "password": "***"}
        page = await asked(client, "history", aggregate_id="aggregate-3", limit=4)
        assert [event["aggregateVersion"] for event in page["events"]] == [1, 2, 3, 4]
        assert page["next_version"] == 5
        [event] = (await asked(client, "event", thread_id=7, thread_counter=0))["events"]
        assert event["aggregateId"] == "aggregate-7"
        first = await asked(client, "search", path="/number", limit=60)
        assert len(first["events"]) == MOST_EVENTS
        rest = await asked(client, "search", path="/number", cursor=first["cursor"], limit=60)
        assert (len(rest["events"]), rest["is_end"]) == (50, False)
        assert len((await asked(client, "trace", correlation_id="c"))["events"]) == 1
        refused = await client.call_tool("search", {"path": "number"})
        assert refused.is_error
        assert "JSON Pointer" in str(refused.content)


async def test_answers_are_bounded_whatever_events_hold(tmp_path: Path) -> None:
    from mcp import Client

    from eventferry.looking.agents import server_of

    async with open_store(f"sqlite:///{tmp_path}/a.db") as store:
        await store.init()
        large = [{str(member): ["x" * 10] * 100 for member in range(100)}, "y" * 10**5, ["z" * 900] * 30]
        await import_lines(store, [make_event(i, payload=large[i % 3]) for i in range(30)])
        async with Client(server_of(store, Mask())) as client:
            [event] = (await asked(client, "event", thread_id=0, thread_counter=0))["events"]
            assert event["payload"].endswith("bytes)")
            [event] = (await asked(client, "event", thread_id=1, thread_counter=0))["events"]
            assert event["payload"] == "y" * 1000 + "… (99,000 more characters)"
            page = await asked(client, "tail", count=30)
            assert page["events"][-1]["threadId"] == 29
            assert "for fewer" in page["left_out"]
