"""What is over: connections and events, and a period in figures."""

from __future__ import annotations

from collections.abc import Callable

from .looking import Page, check_accessibility, expect
from .site import CLIENTS


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
