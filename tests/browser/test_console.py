"""The console in a browser: every page for eyes, for screen readers, for the keyboard, on a phone, without scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from eventferry.sync import open_store
from tests.browser.conftest import MIDNIGHT, Place, screenshot, sign_in

pytestmark = pytest.mark.browser

PAGES = (
    "",
    "/chart",
    "/events",
    "/events?type=ORDER_SHIPPED&order=oldest",
    "/event?thread=0&counter=0",
    "/types",
    "/aggregates",
    "/aggregate?id=order-002",
    "/search?text=Oslo",
    "/trace?correlation=none",
    "/trace?correlation=c-1",
    "/follow",
    "/follow?stopped=true",
    "/operations",
    "/freeze",
    "/unfreeze",
    "/rollback?steps=parts&id=1",
    "/checks",
    "/examine?does=check",
    "/examine?does=verify",
    "/examine?does=drill",
    "/nowhere",
)

NewPage = Callable[..., Any]


def violations(page: Any) -> list[str]:
    """What axe finds wrong with a page, of what is serious by its own judgement."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(
        page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    )
    return [
        f"{each['id']}: {each['help']}: {[node['html'] for node in each['nodes']][:3]}"
        for each in found.response["violations"]
        if each["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 375])
def test_every_page_can_be_read_by_everybody(
    place: Place, new_page: NewPage, scheme: str, width: int
) -> None:
    page = new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    for path in PAGES:
        page.goto(place.url + path)
        page.wait_for_load_state()
        if path == "":
            page.locator("svg.chart").wait_for()
        if path == "/trace?correlation=c-1":
            assert page.get_by_text("→ MAIL_SENT").is_visible()
        assert not violations(page), path
        is_wide = page.evaluate(
            "document.scrollingElement.scrollWidth > document.documentElement.clientWidth"
        )
        assert not is_wide, path
        assert page.locator("h1").count() == 1, path
    page.goto(f"{place.url}/sign-in")
    if (scheme, width) == ("light", 1200):
        page.goto(place.url)
        page.locator("svg.chart").wait_for()
        screenshot(page, "console-overview")
        _show_a_difference(page, place)
        screenshot(page, "console-history")
    if (scheme, width) == ("dark", 375):
        _show_a_difference(page, place)
        screenshot(page, "console-phone")


def _show_a_difference(page: Any, place: Place) -> None:
    page.goto(f"{place.url}/aggregate?id=order-002")
    page.locator(".history li").nth(2).evaluate("each => each.scrollIntoView()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_form_for_signing_in_can_be_read_by_everybody(
    place: Place, new_page: NewPage, scheme: str
) -> None:
    page = new_page(None, color_scheme=scheme, viewport={"width": 375, "height": 800})
    page.goto(place.url)
    assert page.url.startswith(f"{place.url}/sign-in")
    assert not violations(page)
    page.get_by_label("Token").fill("nonsense")
    page.keyboard.press("Enter")
    page.get_by_role("alert").wait_for()
    assert not violations(page)


def test_one_signs_in_where_one_wanted_to_be_and_out(place: Place, new_page: NewPage) -> None:
    page = new_page(None)
    page.goto(f"{place.url}/events?type=ORDER_SHIPPED")
    page.get_by_label("Token").fill(place.tokens["read"])
    page.keyboard.press("Enter")
    page.wait_for_url(f"{place.url}/events?type=ORDER_SHIPPED")
    page.get_by_role("button", name="Sign out").click()
    page.goto(place.url)
    assert page.url.startswith(f"{place.url}/sign-in")


def test_a_scope_that_is_too_small_shows_no_action(place: Place, new_page: NewPage) -> None:
    page = new_page("read")
    for path in ("/operations", "/checks"):
        page.goto(place.url + path)
        assert page.locator("main .action, main button").count() == 0
    page.goto(f"{place.url}/freeze")
    assert page.get_by_role("heading", name="Forbidden").is_visible()
    page = new_page("write")
    page.goto(place.url)
    assert page.get_by_text("a token with the scope read is needed").is_visible()


def test_all_that_is_read_is_read_without_scripts(place: Place, new_page: NewPage) -> None:
    page = new_page("all", java_script_enabled=False)
    for path in PAGES:
        page.goto(place.url + path)
        assert page.locator("h1").is_visible()
    page.goto(place.url)
    page.get_by_role("link", name="The chart").click()
    page.locator("svg.chart a").nth(3).click()
    assert "startTime=" in page.url
    page.goto(f"{place.url}/freeze")
    page.get_by_role("button", name="Freeze").click()
    page.get_by_role("link", name="Unfreeze").click()
    page.get_by_role("button", name="Unfreeze").click()
    assert page.get_by_text("Writes are allowed.").is_visible()


def test_the_keyboard_is_enough(place: Place, new_page: NewPage) -> None:
    page = new_page()
    page.goto(place.url)
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.locator("nav a", has_text="Search").focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{place.url}/search")
    page.get_by_label("Text").fill("Riga")
    page.keyboard.press("Enter")
    page.get_by_role("status").wait_for()


def test_a_bar_of_the_chart_leads_into_its_time(place: Place, new_page: NewPage) -> None:
    page = new_page()
    page.goto(place.url)
    bars = page.locator("svg.chart a")
    bars.first.wait_for()
    many = bars.count()
    with page.expect_navigation():
        bars.nth(5).click()
    page.locator("svg.chart a").first.wait_for()
    assert page.locator("svg.chart a").count() < many
    page.get_by_role("link", name="These events").click()
    page.locator("table.events tbody tr").first.wait_for()


def test_new_events_appear_while_one_looks(place: Place, new_page: NewPage) -> None:
    page = new_page()
    with page.expect_response(lambda response: "/follow/rows" in response.url):
        page.goto(f"{place.url}/follow?aggregatePrefix=new")

    payload = {"html": "<img src=x onerror=alert(1)><script>alert(2)</script>"}
    with open_store(place.store) as store:
        for name in ("new-1", "old-1", "new-2"):
            store.append_events(name, [{"type": "<script>alert(3)</script>", "payload": payload}])
    rows = page.locator("#events tr")
    rows.nth(1).wait_for()
    assert [rows.nth(number).locator("td").nth(2).inner_text() for number in (0, 1)] == ["new-2", "new-1"]
    assert not violations(page)
    page.get_by_role("link", name="Stop").click()
    page.get_by_role("link", name="Go on").wait_for()


def test_a_check_shows_its_end_without_being_asked_again(place: Place, new_page: NewPage) -> None:
    page = new_page()
    page.goto(f"{place.url}/checks")
    assert page.get_by_text("orders.db").first.is_visible()
    page.get_by_role("link", name="Drill").click()
    page.get_by_role("button", name="Begin").click()
    page.get_by_text("all are equal").wait_for()
    assert not violations(page)


def test_times_are_told_in_the_readers_own_zone(place: Place, new_page: NewPage) -> None:
    page = new_page(timezone_id="Asia/Tokyo", locale="en-GB")
    page.goto(f"{place.url}/events?order=oldest&finishTime={MIDNIGHT + 86_400_000}")
    time = page.locator("tbody time").first
    time.hover()
    assert "2020" in time.get_attribute("title")
    assert time.inner_text()[11:13] != time.get_attribute("title")[12:14]


def test_the_address_of_eventferry_console_signs_in(place: Place, new_page: NewPage) -> None:
    page = new_page(None)
    page.goto(f"{place.url}/sign-in#{place.tokens['read']}")
    page.wait_for_url(place.url)
    assert page.get_by_role("heading", name="Overview").is_visible()
    assert place.tokens["read"] not in page.url


def test_a_session_that_has_ended_leads_back_to_the_form(place: Place, new_page: NewPage) -> None:
    page = new_page()
    page.goto(f"{place.url}/events")
    page.context.clear_cookies()
    page.get_by_role("link", name="Overview").click()
    sign_in(page, place.url, place.tokens["read"])
    assert page.url == place.url
