"""Blocks, why, and the actions of services; and what those are not offered who may only look."""

from __future__ import annotations

import json
from collections.abc import Callable

from .looking import Page, check_accessibility, expect
from .site import Site, exchange

SHARES_SITE = True
CLIENT = "127.0.0.31"


def test_a_block_says_first_what_it_ends(open_page: Callable[..., Page], site: Site) -> None:
    client = site.connect("web", CLIENT)
    exchange(client, b"here")
    page = open_page("#/blocks")
    expect(page.get_by_text("Nothing is blocked.")).to_be_visible()
    page.get_by_role("button", name="Block…").click()
    expect(page.get_by_text("Say which IP or network.")).to_be_visible()
    page.get_by_label("Block", exact=True).fill("nonsense")
    page.get_by_role("button", name="Block…").click()
    expect(page.locator(".field-problem", has_text="nonsense")).to_be_visible()
    page.get_by_label("Block", exact=True).fill(f"{CLIENT}/32")
    page.get_by_label("Reason").fill("a test")
    page.get_by_role("button", name="Block…").click()
    dialog = page.get_by_role("dialog", name="Block 127.0.0.31")
    expect(dialog).to_contain_text("1 live connection will be ended")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    check_accessibility(page)
    page.keyboard.press("Escape")
    exchange(client, b"still here")
    page.get_by_role("button", name="Block…").click()
    dialog.get_by_role("button", name="Block", exact=True).click()
    row = page.locator(".plain-grid tbody tr")
    expect(row).to_contain_text("a test")
    assert client.recv(1) == b""
    row.get_by_role("link", name=CLIENT).click()
    card = page.get_by_role("region", name="Answer of web")
    expect(card).to_contain_text("would be refused: block")
    expect(card.get_by_role("row", name="block")).to_contain_text("(a test)")
    page.go_back()
    row.get_by_role("button", name="Unblock").click()
    page.get_by_role("dialog").get_by_role("button", name="Unblock").click()
    expect(page.get_by_text("Nothing is blocked.")).to_be_visible()


def test_why_says_what_it_does_not_know(open_page: Callable[..., Page]) -> None:
    page = open_page("#/why")
    page.get_by_label("Client").fill("nobody")
    page.keyboard.press("Enter")
    expect(page.locator(".field-problem")).to_contain_text("no known device")
    page.get_by_label("Client").fill("pump-1")
    page.get_by_label("Service").select_option("mqtt")
    expect(page.get_by_role("region", name="Answer of mqtt")).to_contain_text("would enter")
    expect(page.locator(".why-answer a")).to_have_count(1)  # its connection


def test_a_service_is_paused_drained_and_resumed(
    open_page: Callable[..., Page], site: Site
) -> None:
    page = open_page("#/services")
    web = page.locator(".card", has=page.get_by_role("heading", name="web"))
    page.get_by_role("button", name="Pause web").click()
    dialog = page.get_by_role("dialog", name="Pause web?")
    expect(dialog).to_contain_text("No connection is ended by it")
    check_accessibility(page)
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("button", name="Pause web")).to_be_focused()
    page.get_by_role("button", name="Pause web").click()
    dialog.get_by_label("Pause").select_option("for 5 minutes")
    dialog.get_by_role("button", name="Pause", exact=True).click()
    expect(web.locator(".state")).to_contain_text("paused")
    page.get_by_role("button", name="Resume web").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(web.locator(".state")).to_have_text("running")
    page.get_by_role("button", name="Drain web").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain", exact=True).click()
    expect(web.locator(".state")).to_have_text("draining")
    page.get_by_role("button", name="Resume web").click()
    page.get_by_role("dialog").get_by_role("button", name="Resume").click()
    expect(web.locator(".state")).to_have_text("running")


def test_a_reload_shows_first_what_it_changes(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("#/services")
    page.get_by_role("button", name="Reload configuration").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Nothing is different from what runs.")
    dialog.get_by_role("button", name="Close").last.click()
    before = site.config.read_text()
    settings = json.loads(before)
    settings["services"]["web"]["conn_limit"] = 77
    site.config.write_text(json.dumps(settings))
    page.get_by_role("button", name="Reload configuration").click()
    expect(dialog).to_contain_text("services.web.conn_limit: 0 (no limit) → 77")
    check_accessibility(page)
    dialog.get_by_role("button", name="Reload").click()
    expect(page.locator(".notice")).to_contain_text("1 setting changed")
    site.config.write_text("services: [")
    page.get_by_role("button", name="Reload configuration").click()
    expect(dialog).to_contain_text("What runs goes on as it is.")
    check_accessibility(page)
    site.config.write_text(before)
    site.command("reload")


def test_who_may_only_look_is_offered_no_action(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("#/login", logged_in=False)
    page.goto(site.link("--role", "view"))
    expect(page.locator(".card").first).to_be_visible()
    expect(page.locator(".view").get_by_role("button", name="Pause")).to_have_count(0)
    expect(page.get_by_role("button", name="Reload configuration")).to_have_count(0)
    page.goto("/#/blocks")
    expect(page.get_by_text("the role operate is needed")).to_be_visible()
    expect(page.get_by_role("button", name="Block")).to_have_count(0)
    page.goto("/#/devices/pump-1")
    expect(page.get_by_role("heading", name="pump-1")).to_be_visible()
    expect(page.locator(".view").get_by_role("button", name="Forget")).to_have_count(0)
