"""The view of the connections that have closed, with their reasons over time."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

from .looking import Locator, Page, expect, save_picture
from .site import CLIENTS, Site, exchange

OpenPage = Callable[..., Page]
_RESETS = bytes([1, 0, 0, 0] + 4 * [0])
"""SO_LINGER: close() sends a reset."""


def legend(page: Page, reason: str) -> Locator:
    """The button of a reason beneath the bars."""
    return page.locator(".chart-bars").get_by_role("button", name=reason)


def reset(site: Site) -> None:
    """Have a client reset its connection."""
    client = site.connect("web", CLIENTS[2])
    exchange(client, b"x")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESETS)
    client.close()


def reasons(page: Page) -> Locator:
    """The cells of the table that have a reason."""
    return page.get_by_role("grid").get_by_text(re.compile(r"^(client|backend)_[a-z]+$"))


def test_ends_appear_in_table_and_bars(open_page: OpenPage, site: Site) -> None:
    page = open_page("#/closed")
    expect(reasons(page)).to_have_count(4)
    expect(page.get_by_text("4 in memory")).to_be_visible()
    # What was before the page was opened comes from the history.
    expect(legend(page, "client_closed")).to_have_text("client_closed 3")
    expect(legend(page, "client_reset")).to_have_text("client_reset 1")
    expect(page.get_by_text("Ends of all services in the last 10 minutes.")).to_be_visible()
    reset(site)
    expect(reasons(page)).to_have_count(5)
    expect(reasons(page).first).to_have_text("client_reset")
    expect(legend(page, "client_reset")).to_have_text("client_reset 2")
    save_picture(page, "closed")


def test_a_reason_of_the_legend_filters(open_page: OpenPage, site: Site) -> None:
    page = open_page("#/closed?filter=service:web")
    legend(page, "client_reset").click()
    expect(page).to_have_url(re.compile(r"filter=service:web\+reason:client_reset$"))
    expect(legend(page, "client_reset")).to_have_attribute("aria-pressed", "true")
    expect(reasons(page).filter(has_text="client_closed")).to_have_count(0)
    expect(reasons(page).first).to_have_text("client_reset")
    expect(page.locator(".chart-bar.faded").first).to_be_attached()
    legend(page, "client_reset").click()
    expect(page).to_have_url(re.compile(r"filter=service:web$"))
    expect(reasons(page).filter(has_text="client_closed").first).to_be_visible()
    page.go_back()
    expect(legend(page, "client_reset")).to_have_attribute("aria-pressed", "true")


def test_longer_periods_come_from_the_history(open_page: OpenPage, site: Site) -> None:
    page = open_page("#/closed")
    page.get_by_label("Period").select_option("1h")
    expect(page).to_have_url(re.compile("period=1h"))
    expect(page.get_by_text("From the history.")).to_be_visible()
    expect(legend(page, "client_closed")).to_have_text("client_closed 3")
    bars = page.get_by_role("slider", name=re.compile("Ends by reason"))
    bars.focus()
    page.keyboard.press("Home")
    expect(bars).to_have_attribute("aria-valuetext", re.compile(r"\d\d:\d\d:\d\d: none"))
    page.keyboard.press("End")
    expect(bars).not_to_have_attribute("aria-valuetext", re.compile("no value"))
    page.keyboard.press("Enter")
    link = page.get_by_role("link", name="Show what this bar counts in the history")
    expect(link).to_have_attribute("href", re.compile(r"#/history\?since=\d{4}-.*until=\d{4}-"))


def test_a_part_of_a_bar_filters(open_page: OpenPage, site: Site) -> None:
    page = open_page("#/closed?filter=service:web")
    part = page.locator(".chart-picture .chart-bar.series-1").first
    expect(part).to_be_visible()
    box = part.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(page).to_have_url(re.compile(r"filter=service:web\+reason:client_"))
    expect(page.locator(".chart-picture .chart-bar.faded").first).to_be_attached()


def test_a_mistake_in_the_filter_is_shown_at_the_field(open_page: OpenPage, site: Site) -> None:
    page = open_page("#/closed?filter=reason:nonsense")
    field = page.get_by_label("Filter of closed connections")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".filter-error")).to_contain_text("nonsense")
    field.fill("reason:client_closed")
    expect(field).not_to_have_attribute("aria-invalid", "true")
    expect(reasons(page).first).to_have_text("client_closed")


def test_a_row_leads_to_the_connection(open_page: OpenPage, site: Site) -> None:
    page = open_page("#/closed?filter=reason:client_reset")
    expect(reasons(page).first).to_be_visible()
    page.get_by_role("grid").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".connection-state")).to_contain_text("Closed: client_reset")
    expect(page.get_by_role("heading", name="Why it ended")).to_be_visible()
    page.go_back()
    expect(page).to_have_url(re.compile("closed.*client_reset"))
