"""Whatever is asked for and sent in a form: no error of the service, and nothing that a browser would run."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from urllib.parse import quote_from_bytes, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventferry.console.app import PAGES
from eventferry.console.page import ROOT
from tests.console.test_pages import HOSTILE
from tests.support import examples, make_event
from tests.support.console import console, markup_of
from tests.support.service import lines_of

NAMES = sorted({name for page in PAGES for name in page.shape.__struct_encode_fields__})
TEXTS = st.one_of(
    st.sampled_from(
        [*HOSTILE, "", "0", "1", "-1", "9007199254740991", "9007199254740992", "1e3", "now", "true"]
    ),
    st.text(max_size=40),
)
QUERIES = st.one_of(
    st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=8), TEXTS), max_size=4).map(
        lambda pairs: urlencode(pairs, errors="replace")
    ),
    st.binary(max_size=60).map(lambda given: quote_from_bytes(given, safe="=&%+;")),
)
PATHS = st.one_of(
    st.sampled_from([page.path for page in PAGES]),
    st.binary(max_size=30).map(lambda given: "/" + quote_from_bytes(given, safe="/%")),
)
REQUEST = st.tuples(st.sampled_from(["GET", "POST", "HEAD", "PUT"]), PATHS, QUERIES, QUERIES, st.booleans())


@pytest.mark.slow
@given(requests=st.lists(REQUEST, min_size=40, max_size=40))
@settings(max_examples=examples(2))
def test_no_request_makes_an_error_of_the_service_or_a_script(
    requests: list[tuple[str, str, str, str, bool]],
) -> None:
    async def sent() -> None:
        events = [make_event(number, type=text, aggregateId=text) for number, text in enumerate(HOSTILE)]
        with tempfile.TemporaryDirectory() as folder:
            async with console(Path(folder), lines_of(events)) as (visitor, _, tokens):
                client, key = visitor.client, ""
                for asked, path, query, form, has_key in requests:
                    if not client.cookies:  # at the beginning, and when a form has signed out
                        await visitor.sign_in(tokens["all"])
                        key = (await visitor.see("/freeze")).forms[-1]["formKey"]
                    # A stream would not end.
                    method = "HEAD" if path == "/follow/rows" else asked
                    response = await client.request(
                        method,
                        f"{ROOT}{path}?{query}",
                        content=f"formKey={key}&{form}" if has_key else form,
                        headers={"Content-Type": "application/x-www-form-urlencoded"},
                    )
                    assert response.status_code < 500, (method, path, query, form, response.text)
                    if response.headers.get("content-type", "").startswith("text/html") and response.text:
                        markup_of(response)

    asyncio.run(sent())
