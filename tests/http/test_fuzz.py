"""A fuzzer that reads the OpenAPI description: it finds no 500, and no answer that is not described."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from eventferry import open_store
from eventferry.http import create_app
from eventferry.http.routes import ROUTES
from tests.support import examples, import_lines, make_lines
from tests.support.places import Places
from tests.support.service import lines_of, new_event

CHECKS: list[Any] = [
    checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
]


@contextmanager
def served(store_url: str, folder: Path) -> Iterator[str]:
    """A service in a thread of its own, in this process: so that coverage and errors are seen here."""
    listener = socket.create_server(("127.0.0.1", 0))
    started = threading.Event()
    ends: list[Any] = []

    async def run() -> None:
        async with open_store(store_url, busy_timeout=5) as store:
            await store.init()
            await import_lines(store, make_lines(50))
            app = create_app(store, insecure=True, exchange_dir=folder)
            server = uvicorn.Server(uvicorn.Config(app, lifespan="off", ws="none", log_level="critical"))
            ends.append(lambda: setattr(server, "should_exit", True))
            started.set()
            await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        started.wait(20)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        for end in ends:
            end()
        thread.join(30)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("fuzzed")
    with Places(request.param, folder) as places, served(places.new_url(), folder) as place:
        yield place


BODIES = st.one_of(
    st.binary(max_size=200),
    st.lists(st.integers(0, 5), max_size=3).map(lambda numbers: lines_of(map(new_event, numbers))),
    st.integers(0, 5).map(make_lines),
    st.sampled_from(
        [
            b"[]",
            b"{}",
            b"null",
            b'{"type":"T","aggregateId":"a","aggregateVersion":1}',
            b'{"secret":"s","id":"a","idx":0}',
            b'{"secret":null,"id":"b","idx":1e400}',
            '{"a":"\ud83d"}'.encode("utf-16", "surrogatepass"),
        ]
    ),
)
CONTENT_TYPES = st.sampled_from(
    [
        *("", "application/json", "application/x-ndjson", "text/plain; charset=utf-16"),
        *("application/json; charset=zlib", "image/png", ";;;", "application/json; charset*=utf-8''x"),
    ]
)
ENCODINGS = st.sampled_from(["identity", "identity", "gzip", "zstd", "br"])


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
@pytest.mark.slow
def test_a_fuzzer_finds_no_500_and_no_undescribed_answer(url: str, route: Any) -> None:
    schema: Any = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operation = schema[route.path][route.method]
    seen: set[int] = set()
    httpx.post(f"{url}/unfreeze")  # what another route's turn may have left

    def call(case: Any, body: bytes, content_type: str, encoding: str) -> None:
        headers = {}
        if route.path == "/follow":  # neither a stream, which has no end, nor a long wait
            headers = {"Accept": "application/json"}
            if isinstance(case.query.get("wait", 20), int | float):
                case.query["wait"] = 0
        if route.body is not None and content_type:
            case.body = body
            headers = {"Content-Type": content_type, "Content-Encoding": encoding}
        response = case.call(headers=headers)
        seen.add(response.status_code)
        case.validate_response(response, checks=CHECKS, headers=headers)

    quiet = settings(
        max_examples=examples(6),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        cases = operation.as_strategy(generation_mode=mode)
        with contextlib.suppress(Unsatisfiable):  # a route without parameters has none that are wrong
            quiet(given(cases, BODIES, CONTENT_TYPES, ENCODINGS)(call))()
    assert seen
    assert not any(status >= 500 for status in seen)
