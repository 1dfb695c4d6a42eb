"""What holds for every view: it opens without an error, can be read by all, and fits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from .looking import Page, check_accessibility, expect, save_picture
from .site import Site

VIEWS = {
    "services": "services",
    "connections": "connections",
    "connection": "connections/{id}",
    "closed": "closed",
    "devices": "devices",
    "device": "devices/pump-1",
    "history": "history",
    "report": "report",
    "blocks": "blocks",
    "why": "why?client=127.0.0.21",
}
"""The address of each view of the page."""
_BUSY = "[aria-busy=true]"


def opened(open_page: Callable[..., Page], site: Site, view: str, **options: object) -> Page:
    """A view, once it shows something."""
    (first, *_) = json.loads(site.command("list", "service:mqtt", "--json"))
    page = open_page(f"#/{VIEWS[view].format(id=first['id'])}", **options)
    shown = page.locator(f"main .view-{view}")
    expect(shown.or_(page.get_by_text("cannot be shown")).first).to_be_visible()
    assert shown.count() == 1, page.locator("main").inner_text()
    expect(page.locator("main h1").first).to_be_visible()
    expect(page.locator(_BUSY)).to_have_count(0)
    return page


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_can_be_used_by_all(open_page: Callable[..., Page], site: Site, view: str) -> None:
    page = opened(open_page, site, view)
    check_accessibility(page)
    save_picture(page, f"{view}-1280")


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_fits_a_phone_in_the_dark(
    open_page: Callable[..., Page], site: Site, view: str
) -> None:
    page = opened(open_page, site, view, width=360, height=740, dark=True)
    wide = page.evaluate(
        "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    save_picture(page, f"{view}-360-dark")
    assert wide <= 0, f"the page is {wide} pixels wider than the window"
    check_accessibility(page)


def test_every_view_is_among_them(page: Page) -> None:
    """Those that the page can show are those of this module."""
    text = page.request.get("/page/app.js").text()
    names = re.findall(r'^  \{ name: "(\w+)"', text, re.MULTILINE)
    assert sorted(names) == sorted(VIEWS)
