"""The services, and what surrounds each view."""

from __future__ import annotations

import json
from collections.abc import Callable

from .looking import Page, expect
from .site import CLIENTS, DEVICES, Site, exchange

SHARES_SITE = True


def test_services_have_figures_that_move(page: Page, site: Site) -> None:
    web = page.locator(".card", has=page.get_by_role("heading", name="web"))
    live = len(json.loads(site.command("list", "service:web", "--json")))
    expect(web.locator(".measure .figure").first).to_have_text(str(live))
    with site.connect("web", CLIENTS[0]) as client:
        expect(web.locator(".measure .figure").first).to_have_text(str(live + 1))
        exchange(client, b"x" * 200_000)
        expect(web.locator(".measure .figure").nth(1)).to_contain_text("KiB/s")
    expect(page.get_by_role("img", name="Connections of mqtt: now")).to_be_visible()
    expect(page.locator(".pill")).to_have_text("Live")


def test_a_service_leads_to_its_connections(page: Page) -> None:
    page.get_by_role("link", name="mqtt", exact=True).click()
    expect(page.locator(".grid-block .grid-row")).to_have_count(len(DEVICES))
    assert page.url.endswith("#/connections?filter=service:=mqtt")
    page.go_back()
    expect(page.locator(".view-services")).to_be_visible()


def test_keys_lead_to_views_and_help(page: Page) -> None:
    expect(page.locator(".card").first).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.get_by_label("Single keys").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.get_by_role("button", name="Keys and help").click()
    page.get_by_label("Single keys").check()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Keys and help")).to_be_focused()
    page.keyboard.type("gc")
    expect(page.locator(".view-connections .grid-row").first).to_be_visible()
    page.keyboard.press("/")
    expect(page.get_by_label("Filter of connections")).to_be_focused()


def test_the_theme_is_remembered(open_page: Callable[..., Page]) -> None:
    page = open_page(dark=True)
    button = page.get_by_role("button", name="Theme")

    def background() -> str:
        return str(page.evaluate("() => getComputedStyle(document.body).backgroundColor"))

    dark = background()
    button.click()
    expect(button).to_have_accessible_name("Theme: light")
    light = background()
    assert light != dark
    page.reload()
    expect(button).to_have_accessible_name("Theme: light")
    assert background() == light
    button.click()
    assert background() == dark


def test_a_wrapped_factory_has_no_addresses(open_page: Callable[..., Page]) -> None:
    """Its program listens, and answers: the service names neither."""
    page = open_page("#/blocks")
    service = {"sid": "echo", "state": "running", "listen": "", "backend": "", "connections": 1}
    tick = {"at": "2026-01-31T08:00:00Z", "sequence": 1, "connections": 1, "services": [service]}
    page.route(
        "**/api/v1/live",
        lambda route: route.fulfill(
            content_type="text/event-stream", body=f"event: tick\ndata: {json.dumps(tick)}\n\n"
        ),
    )
    page.goto("/#/services")
    page.reload()
    card = page.locator(".card", has=page.get_by_role("heading", name="echo"))
    expect(card).to_be_visible()
    expect(page.locator("#live-count")).to_have_text("1 connection")
    assert "→" not in card.inner_text()


def test_on_a_phone_the_view_is_seen_in_the_navigation(open_page: Callable[..., Page]) -> None:
    page = open_page("#/report", width=360)
    expect(page.locator("nav [aria-current=page]")).to_be_in_viewport(ratio=0.9)


def test_an_address_that_shows_nothing(page: Page) -> None:
    expect(page.locator(".view-services")).to_be_visible()
    page.goto("/#/nonsense")
    expect(page.get_by_role("heading", name="Nothing is here")).to_be_visible()
    expect(page).to_have_title("Nothing is here · monconn")
    expect(page.locator("nav [aria-current]")).to_have_count(0)


def test_the_view_that_is_shown_is_in_sight_in_the_navigation(
    open_page: Callable[..., Page],
) -> None:
    """On a phone, where there is no room for all of them."""
    page = open_page("#/report", width=360, height=740)
    current = page.get_by_role("navigation").get_by_role("link", name="Report")
    expect(current).to_have_attribute("aria-current", "page")
    expect(current).to_be_in_viewport(ratio=0.9)
