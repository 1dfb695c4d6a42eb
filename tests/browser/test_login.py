"""Logging in and out."""

from __future__ import annotations

import re
from collections.abc import Callable

from .looking import Page, check_accessibility, expect
from .site import Site


def test_a_link_logs_in_once_and_leaves_nothing_behind(
    open_page: Callable[..., Page], site: Site
) -> None:
    link = site.link()
    code = link.rpartition("/")[2]
    page = open_page(logged_in=False)
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    page.goto(link)
    expect(page.locator(".view-services .card").first).to_be_visible()
    assert code not in page.url
    page.go_back()
    assert code not in page.url
    assert page.evaluate("() => document.cookie") == ""  # no script can read it

    other = open_page(logged_in=False)
    other.goto(link)
    expect(other.get_by_role("alert").filter(has_text=re.compile("link|code"))).to_be_visible()
    assert code not in other.url
    expect(other.get_by_text("monconn web", exact=True)).to_be_visible()
    check_accessibility(other)


def test_a_token_logs_in_too(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("#/connections?filter=service:web", logged_in=False)
    field = page.get_by_label("Or with a token")
    field.fill("mct_wrong")
    field.press("Enter")
    expect(page.locator(".view-login .error")).not_to_be_empty()
    field.fill(site.command("web", "--token", "view", "--as", "reader").split()[0])
    field.press("Enter")
    # Where one wanted to go, and with no more than the token allows.
    expect(page.locator(".view-connections")).to_be_visible()
    assert page.url.endswith("#/connections?filter=service:web")
    expect(page.locator(".header .role")).to_have_text("view")


def test_logging_out_holds_for_all_tabs(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page(logged_in=False)
    page.goto(site.link())
    expect(page.locator(".view-services")).to_be_visible()
    other = page.context.new_page()
    other.goto("/#/connections")
    expect(other.locator(".grid-block .grid-row").first).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    for each in (page, other):
        expect(each.get_by_role("heading", name="Log in")).to_be_visible()
    assert page.request.get("/api/v1/session").status == 401
