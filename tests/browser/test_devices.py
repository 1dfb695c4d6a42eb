"""The devices, and the story of one."""

from __future__ import annotations

import re
from collections.abc import Callable

from .looking import Page, expect
from .site import DEVICES, STRANGE_NAME, Site

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
