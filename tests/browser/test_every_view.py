"""What holds for every view: it opens without an error, can be read by all, and fits."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from .looking import Page, check_accessibility, expect, save_picture
from .site import Site

SHARES_SITE = True
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


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_can_be_used_by_all(open_page: Callable[..., Page], site: Site, view: str) -> None:
    """In a wide window and in the light, and on a phone in the dark."""
    place = VIEWS[view]
    if "{id}" in place:
        (first, *_) = json.loads(site.command("list", "service:mqtt", "--json"))
        place = place.format(id=first["id"])
    page = open_page(f"#/{place}")
    shown = page.locator(f"main .view-{view}")
    expect(shown.or_(page.get_by_text("cannot be shown")).first).to_be_visible()
    assert shown.count() == 1, page.locator("main").inner_text()
    expect(page.locator("main h1").first).to_be_visible()
    expect(page.locator(_BUSY)).to_have_count(0)
    check_accessibility(page)
    save_picture(page, f"{view}-1280")
    page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    page.set_viewport_size({"width": 360, "height": 740})
    expect(page.locator("html")).to_have_js_property("scrollWidth", 360)
    save_picture(page, f"{view}-360-dark")
    check_accessibility(page)


def test_every_view_is_among_them(page: Page) -> None:
    """Those that the page can show are those of this module."""
    text = page.request.get("/page/app.js").text()
    names = re.findall(r'^  \{ name: "(\w+)"', text, re.MULTILINE)
    assert sorted(names) == sorted(VIEWS)
