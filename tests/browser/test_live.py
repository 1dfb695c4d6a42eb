"""What the server says by itself: one stream for all tabs; a server that is gone, and back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from tests.e2e.programs import until

from .looking import Page, check_accessibility, expect
from .site import Site

_TABS = 8


def _have_ticked(*pages: Page) -> None:
    """Wait until each page has heard of two more ticks."""
    for page in pages:
        page.evaluate(
            """async () => {
              const { live } = await import("/page/live.js");
              window.ticks = 0;
              live.on("tick", () => { window.ticks += 1; });
            }"""
        )
    for page in pages:
        page.wait_for_function("() => window.ticks >= 2")


def test_all_tabs_share_one_stream(open_page: Callable[..., Page], site: Site) -> None:
    # A browser opens six connections to a host: with a stream each, the seventh tab would hang.
    streams: list[Page] = []
    first = open_page()
    expect(first.locator(".pill")).to_have_text("Live")
    context = first.context

    def note(request: Any) -> None:
        if request.url.endswith("/api/v1/live"):
            streams.append(request.frame.page)

    context.on("request", note)
    tabs = [context.new_page() for _ in range(_TABS)]
    for number, tab in enumerate(tabs):
        tab.goto("/#/services" if number % 2 else "/#/connections")
    first.close()  # whoever has the stream: another takes it over
    for number, tab in enumerate(tabs):
        shown = ".card" if number % 2 else ".grid-block .grid-row"
        expect(tab.locator(shown).first).to_be_visible()
        expect(tab.locator(".pill")).to_have_text("Live")
    _have_ticked(*tabs)
    assert len(streams) == 1
    streams[0].close()
    _have_ticked(*(tab for tab in tabs if not tab.is_closed()))
    assert len(streams) == 2


def test_a_tab_takes_over_from_one_that_hangs(open_page: Callable[..., Page]) -> None:
    leader = open_page()
    expect(leader.locator(".pill")).to_have_text("Live")
    other = leader.context.new_page()
    other.goto("/#/services")
    expect(other.locator(".pill")).to_have_text("Live")
    # As in a debugger: it holds the lock, and passes nothing on.
    leader.evaluate("async () => { (await import('/page/live.js')).live.spread = () => {}; }")
    other.evaluate(
        """async () => {
          const { live } = await import("/page/live.js");
          live.heardAt -= 60_000;
          live.spokenAt = live.heardAt;
        }"""
    )
    other.bring_to_front()
    _have_ticked(other)
    assert other.evaluate("async () => (await import('/page/live.js')).live.isLeader")
    until(
        lambda: not leader.evaluate("async () => (await import('/page/live.js')).live.isLeader"),
        "the other has given up",
    )


def test_a_server_that_is_gone_and_back(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("#/connections?filter=service:mqtt")
    expect(page.locator(".grid-block .grid-row").first).to_be_visible()
    _have_ticked(page)
    other = page.context.new_page()
    other.goto("/#/services")
    expect(other.locator(".pill")).to_have_text("Live")
    site.stop()
    for each in (page, other):
        expect(each.locator("#banner")).to_contain_text(re.compile(r"gone since \d\d:\d\d:\d\d"))
        expect(each.locator(".pill")).to_have_text("Gone")
    check_accessibility(page)
    # What was shown stays, and views can be changed.
    expect(page.locator(".grid-block .grid-row").first).to_be_visible()
    page.get_by_role("link", name="Services").click()
    expect(page.locator(".view-services .card").first).to_be_visible()
    page.go_back()
    site.start()
    for name, client in {"pump-1": "127.0.0.11"}.items():
        site.device(name, client)
    for each in (page, other):
        expect(each.locator(".pill")).to_have_text("Live")
        expect(each.locator("#banner")).to_be_hidden()
    # Still logged in; and what is shown is of the new run.
    expect(page.locator(".grid-block .grid-row")).to_have_count(1)
    (row,) = json.loads(site.command("list", "service:mqtt", "--json"))
    expect(page.locator(".grid-block .grid-row a")).to_have_attribute(
        "href", f"#/connections/{row['uid']}"
    )


def test_another_version_loads_the_page_again(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page()
    expect(page.locator(".pill")).to_have_text("Live")
    with page.expect_event("load"):
        page.evaluate(
            """async () => {
              const { live } = await import("/page/live.js");
              live.heard({ name: "hello", data: { ...live.hello, served: "other", version: "9" } });
            }"""
        )
    expect(page.locator(".view-services .card").first).to_be_visible()


def test_actions_of_others_are_told(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page()
    expect(page.locator(".pill")).to_have_text("Live")
    site.command("block", "192.0.2.1")
    button = page.get_by_role("button", name="Alarms and actions: 1 new")
    expect(button).to_be_visible()
    button.click()
    expect(page.get_by_role("dialog").get_by_role("listitem")).to_contain_text("192.0.2.1")
    check_accessibility(page)
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Alarms and actions", exact=True)).to_be_focused()


def test_what_could_not_be_shown_comes_by_itself(open_page: Callable[..., Page]) -> None:
    # A call may fail though the stream goes on.
    page = open_page()
    expect(page.locator(".card").first).to_be_visible()
    for view, shown in (
        ("connections", ".grid-block .grid-row"),
        ("history", ".plain-grid tbody tr"),
        ("report", ".report-figures"),
    ):
        page.route(re.compile("/api/v1/(?!live)|/page/views/"), lambda route: route.abort())
        page.evaluate("place => { location.hash = place; }", f"#/{view}")
        expect(page.get_by_text(re.compile("cannot be (shown|reached)")).first).to_be_visible()
        page.unroute_all()
        expect(page.locator(f".view-{view} {shown}").first).to_be_visible()


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(
    open_page: Callable[..., Page],
) -> None:
    page = open_page()
    page.route("**/api/v1/clients*", lambda _route: None)
    answer = page.evaluate(
        """async () => {
          const { get } = await import("/page/api.js");
          const answer = get("clients", {}, { milliseconds: 50 });
          const late = new Promise((resolve) => { setTimeout(resolve, 5000, "still waiting"); });
          return Promise.race([answer.catch((problem) => problem.message), late]);
        }"""
    )
    assert answer == "The server does not answer"


def test_a_busy_server_is_asked_again(open_page: Callable[..., Page]) -> None:
    page = open_page("#/why")
    expect(page.locator(".view-why")).to_be_visible()
    asked: list[str] = []

    def answer(route: Any) -> None:
        asked.append(route.request.url)
        if len(asked) <= 2:
            route.fulfill(status=503, json={"title": "Busy"}, headers={"Retry-After": "0.01"})
        else:
            route.continue_()

    page.route("**/api/v1/history?*", answer)
    page.evaluate("location.hash = '#/history'")
    expect(page.locator(".view-history .plain-grid tbody tr").first).to_be_visible()
    assert len(asked) == 3
    assert "max_age=1" in asked[0]


def test_what_is_typed_last_is_forgotten_with_its_view(open_page: Callable[..., Page]) -> None:
    page = open_page("#/devices")
    for view in ("devices", "blocks", "history"):
        page.evaluate("place => { location.hash = place; }", f"#/{view}")
        page.locator(f".view-{view} .filter-input").press_sequentially("x")
        page.evaluate("location.hash = '#/services'")
        expect(page.locator(".view-services .card").first).to_be_visible()
    _have_ticked(page)
    assert page.url.endswith("#/services")
