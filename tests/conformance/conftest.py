"""The conformance suite runs once per database: what a test here says must hold on every one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventferry.databases.sqlite import library
from tests.support import NewUrl, Opened, open_new
from tests.support.places import DATABASES, Places

LONG = {
    "test_the_buffer_bounds_the_whole_export_and_not_a_block",
    "test_ten_thousand_random_blocks_go_through_unchanged",
    "test_a_page_of_large_events_may_end_early_but_the_cursor_goes_on",
    "test_a_large_store_with_falls_reads_the_same_at_every_page_size",
    "test_however_a_line_is_broken_it_is_refused_by_its_number",
    "test_what_nests_too_deeply_is_refused_by_its_number_however_near_the_limit",
    "test_any_two_blocks_that_a_byte_order_mark_or_a_line_is_cut_into_give_the_same",
    "test_another_source_is_refused_and_the_right_one_still_goes_on",
    "test_a_json_array_may_be_cut_anywhere",
    "test_bytes_that_are_not_utf8_are_named_by_line_and_offset",
    "test_blank_lines_crlf_and_a_byte_order_mark_are_tolerated",
    "test_what_no_database_can_hold_is_named_by_line_and_field",
    "test_what_no_database_can_hold_is_named_by_an_incremental_import_too",
    "test_versions_of_an_aggregate_are_in_order_within_a_timestamp",
    "test_from_a_cursor_that_is_no_state_of_the_order_they_are_the_export_from_there",
    "test_those_of_a_large_store_whose_threads_fall_are_the_export",
    "test_rare_events_among_many_are_found_at_every_page_size",
    "test_a_malformed_line_in_the_middle_is_named_by_number_offset_and_reason",
}
"""What takes long where every step is a round trip, and is mostly about lines or the order, which stand above the
boundary: on servers `pytest -m scale` runs it."""


NEWER = "newer-sqlite"
"""SQLite by the library that the command and the service use."""

EVERY_RUN = {"test_exports", "test_imports", "test_saves"}
"""What runs on that library too each time, without what is long; the rest with `pytest -m scale`."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        database = item.callspec.params.get("new_url")
        is_long = item.originalname in LONG and database in (*DATABASES, NEWER) and database != "sqlite"
        is_seldom = database == NEWER and item.module.__name__.rpartition(".")[2] not in EVERY_RUN
        if is_long or is_seldom:
            item.add_marker(pytest.mark.scale)


@pytest.fixture(params=(*DATABASES, NEWER))
def new_url(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[NewUrl]:
    """A factory of URLs, each of a fresh store that is not made yet."""
    database = request.param
    if database == NEWER:
        import apsw  # missing, it is an error here  # noqa: F401

        # No file that it opens is ever opened by Python's library in this process.
        monkeypatch.setattr(library, "_connect", library._connect)
        library.use_newer()
        database = "sqlite"
    with Places(database, tmp_path) as places:
        yield places.new_url


@pytest.fixture
def opened(new_url: NewUrl) -> Opened:
    """A factory: `async with opened() as store` is a fresh, initialised store."""
    return functools.partial(open_new, new_url)
