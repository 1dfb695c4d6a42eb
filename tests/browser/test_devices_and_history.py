"""The devices and the story of one; what is over, in a history and in figures."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

from .looking import Page, check_accessibility, expect
from .site import CLIENTS, DEVICES, STRANGE_NAME, Site

# But for the milliseconds between monconn's start and its first client.
_ALL_ALONG = re.compile(r"connected (100|9\d\.\d) % of")


def test_devices_have_strips_and_lead_to_their_stories(
    open_page: Callable[..., Page], site: Site
) -> None:
    page = open_page("#/devices?service=mqtt&since=15m")
    rows = page.locator(".plain-grid tbody tr")
    expect(rows).to_have_count(len(DEVICES))
    expect(rows.locator("a").first).to_have_text(min(DEVICES))  # by name
    strip = page.get_by_role("img", name="pump-1: present")
    expect(strip.locator(".strip-present")).to_have_count(1)
    page.get_by_label("Filter of devices").fill("pump")
    expect(rows).to_have_count(1)
    page.get_by_role("link", name="pump-1").click()
    expect(page.get_by_role("heading", name="pump-1")).to_be_visible()
    expect(page.get_by_text("its mqtt_client_id")).to_be_visible()
    expect(page.locator(".device-strip")).to_contain_text(_ALL_ALONG)
    expect(page.get_by_role("table", name="What it did")).to_contain_text("is open")
    page.go_back()
    expect(page.get_by_label("Filter of devices")).to_have_value("pump")


def test_a_filter_that_is_wrong_says_so_at_its_place(open_page: Callable[..., Page]) -> None:
    page = open_page("#/devices?filter=sevice:mqtt")
    expect(page.locator(".filter-error")).to_contain_text("service")
    expect(page.get_by_label("Filter of devices")).to_have_attribute("aria-invalid", "true")


def test_a_device_that_comes_and_goes(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("#/devices?service=mqtt&since=15m")
    client = site.device("sensor-9", "127.0.0.19")
    connections = page.locator("tr", has=page.get_by_role("link", name="sensor-9")).locator(
        ".cell-connections"
    )
    expect(connections).to_have_text("1")
    client.close()
    expect(connections).to_have_text("away")
    page.get_by_role("link", name="sensor-9").click()
    expect(page.locator(".plain-grid tbody tr", has_text="ended")).to_have_count(1)
    page.get_by_label("Period").select_option("other")
    page.get_by_label("from").fill("2026-01-02T00:00:00")
    page.get_by_label("to", exact=True).fill("2026-01-01T00:00:00")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.get_by_text("The end must be after the beginning.")).to_be_visible()


def test_what_has_the_focus_keeps_it_as_figures_change(open_page: Callable[..., Page]) -> None:
    page = open_page("#/devices/pump-1")
    button = page.get_by_role("button", name="Forget…")
    button.focus()
    with page.expect_response("**/api/v1/device?*"):
        pass
    with page.expect_response("**/api/v1/device?*"):  # what came before is shown
        pass
    expect(button).to_be_focused()


def test_a_name_that_means_no_good_is_text(open_page: Callable[..., Page], site: Site) -> None:
    client = site.device(STRANGE_NAME, "127.0.0.18")
    page = open_page("#/devices?service=mqtt")
    link = page.get_by_role("link", name="<img src=x")
    expect(link).to_contain_text(r"\u202e")
    link.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("main img").count() == 0
    client.close()


def test_what_is_stored_of_a_device_is_removed_once_it_is_said_what(
    open_page: Callable[..., Page], site: Site
) -> None:
    site.device("sensor-8", "127.0.0.28").close()
    page = open_page("#/devices/sensor-8")
    page.get_by_role("button", name="Forget…").click()
    dialog = page.get_by_role("dialog", name="Forget 127.0.0.28?")
    expect(dialog).to_contain_text("removed for good")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="sensor-8")).to_be_visible()
    page.get_by_role("button", name="Forget…").click()
    dialog.get_by_role("button", name="Forget", exact=True).click()
    expect(page.locator(".notice")).to_contain_text("is removed")


def test_history_is_chosen_by_pickers(open_page: Callable[..., Page]) -> None:
    page = open_page("#/history")
    rows = page.get_by_role("table", name="Connections").locator("tbody tr")
    page.get_by_label("Service").select_option("web")
    page.get_by_label("Reason").select_option("client_reset")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text(CLIENTS[2])
    assert "service=web&reason=client_reset" in page.url
    rows.get_by_role("button").click()
    dialog = page.get_by_role("dialog", name="Connection of")
    expect(dialog).to_contain_text("client_reset: the client")
    check_accessibility(page)
    page.keyboard.press("Escape")
    page.get_by_label("Client").fill("nonsense")
    page.get_by_label("Client").press("Enter")
    expect(page.locator(".field-problem", has_text="nonsense")).to_be_visible()
    page.get_by_label("Client").fill(CLIENTS[2])
    page.get_by_label("Client").press("Enter")
    expect(rows).to_have_count(1)
    page.get_by_label("Filter of connections").fill("up:1GiB..")
    expect(page.get_by_text("Nothing is stored that matches.")).to_be_visible()


def test_an_empty_period_is_the_usual_one(open_page: Callable[..., Page]) -> None:
    page = open_page("#/history?since=")
    expect(page.get_by_label("Period")).to_have_value("24h")


def test_history_is_sorted_by_the_server(open_page: Callable[..., Page]) -> None:
    page = open_page("#/history?service=web")
    head = page.get_by_role("columnheader", name="UP")
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    up = page.locator("tbody .cell-up")
    expect(up.first).to_have_text("1000 B")
    head.get_by_role("button").click()
    expect(up.last).to_have_text("1000 B")


def test_events_are_a_list_of_their_own(open_page: Callable[..., Page]) -> None:
    page = open_page("#/history")
    page.get_by_role("link", name="Events").click()
    rows = page.get_by_role("table", name="Events").locator("tbody tr")
    expect(rows.filter(has_text="started").first).to_be_visible()
    rows.get_by_role("button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(rows.get_by_role("button").first).to_be_focused()


def test_a_report_leads_to_what_it_counts(open_page: Callable[..., Page]) -> None:
    page = open_page("#/report?service=web&since=1h")
    expect(page.locator(".report-figures")).to_contain_text("Connections")
    card = page.locator(".card", has=page.get_by_role("heading", name="Why connections ended"))
    card.get_by_role("link", name="client_reset").click()
    expect(page.get_by_label("Reason")).to_have_value("client_reset")
    expect(page.locator(".plain-grid tbody tr")).to_have_count(1)


def test_a_view_says_what_it_needs_where_that_is_missing(open_page: Callable[..., Page]) -> None:
    page = open_page()
    expect(page.locator(".card").first).to_be_visible()
    session = page.request.get("/api/v1/session").json()
    session["has"] |= {"history": False, "devices": False}
    page.route("**/api/v1/session", lambda route: route.fulfill(json=session))
    for view, key in (("history", "history:"), ("report", "history:"), ("devices", "devices:")):
        page.goto(f"/#/{view}")
        page.reload()
        expect(page.locator(".not-configured pre")).to_contain_text(key)
    expect(page.get_by_role("link", name="History")).to_have_count(0)


def test_what_a_stopped_server_did_not_answer_is_asked_again(
    open_page: Callable[..., Page], site: Site
) -> None:
    page = open_page("#/report")
    expect(page.locator(".report-figures")).to_be_visible()
    site.stop()
    page.get_by_label("Period").select_option("1h")
    expect(page.locator(".report .error")).to_have_text("The server cannot be reached")
    site.start()
    expect(page.locator(".report-figures")).to_be_visible()


def test_devices_with_names_that_mean_no_good(open_page: Callable[..., Page], site: Site) -> None:
    """Those that a path cannot have, that JavaScript gives a meaning, or that are very long."""
    page = open_page("#/devices", width=360)
    for number, name in enumerate(("..", "presence", "__proto__", "a/b", "x" * 120)):
        with site.device(name, f"127.0.3.{number + 1}"):
            page.goto(f"/#/devices/{quote(name, safe='')}")
            expect(page.locator(".view-device h1")).to_have_text(name)
            expect(page.locator(".device-story")).to_contain_text(f"127.0.3.{number + 1}")
            expect(page.locator(".view-device > .error")).to_be_empty()
            expect(page.locator("html")).to_have_js_property("scrollWidth", 360)
    page.goto(f"/#/connections/{'x' * 500}")
    expect(page.locator("main h1")).to_have_text(f"Connection {'x' * 500}")
    expect(page.locator("html")).to_have_js_property("scrollWidth", 360)


def test_a_period_that_is_none_is_told(open_page: Callable[..., Page]) -> None:
    page = open_page("#/report?since=nonsense")
    expect(page.locator(".report .error")).to_contain_text('"nonsense"')
    for view in ("devices", "history", "report"):  # a number, but no date
        page.goto(f"/#/{view}?since=9999999999999999")
        expect(page.locator(f".view-{view} h1")).to_be_visible()
