"""Logging in and out."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .looking import Page, check_accessibility, expect
from .site import Site

SHARES_SITE = True


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

    page.context.clear_cookies()
    other = open_page(logged_in=False)
    other.goto(link)
    expect(other.get_by_role("alert").filter(has_text=re.compile("link|code"))).to_be_visible()
    assert code not in other.url
    expect(other.get_by_text("monconn web", exact=True)).to_be_visible()
    check_accessibility(other)
    # As it comes late from a link that is opened while the scripts are loaded.
    other.evaluate("() => dispatchEvent(new HashChangeEvent('hashchange'))")
    other.evaluate("() => fetch('/health')")  # an answer that follows any other
    expect(other.get_by_role("alert").filter(has_text=re.compile("link|code"))).to_be_visible()


def test_a_link_of_somebody_else_asks_first(open_page: Callable[..., Page], site: Site) -> None:
    """Whoever sends one has what is done by it in their own name."""
    page = open_page("#/login", logged_in=False)
    field = page.get_by_label("Or with a token")
    field.fill(site.command("web", "--token", "view", "--as", "victim").split()[0])
    field.press("Enter")
    role = page.locator(".header .role")
    expect(role).to_have_text("view")
    link = site.link()
    page.goto(link)
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("logged in as token victim (view)")
    check_accessibility(page)
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.locator(".view-services .card").first).to_be_visible()
    expect(role).to_have_text("view")
    page.goto(link)
    dialog.get_by_role("button", name="Log in", exact=True).click()
    expect(role).to_have_text("operate")
    # Used up, it takes nothing away.
    page.goto(link)
    expect(page.locator(".notice")).to_contain_text("used already")
    expect(page.locator(".view-services .card").first).to_be_visible()
    expect(role).to_have_text("operate")


def test_a_token_logs_in_too(open_page: Callable[..., Page], site: Site) -> None:
    page = open_page("#/connections?filter=service:web", logged_in=False)
    field = page.get_by_label("Or with a token")
    field.fill("mct_wrong")
    field.press("Enter")
    problem = page.locator(".view-login .error")
    expect(problem).to_have_text("The token is wrong, or was revoked.")
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


_TRIES = """async (target) => {
  const loaded = (tag, address) => new Promise((done) => {
    const element = Object.assign(document.createElement(tag), {src: address});
    element.onload = () => done("loaded");
    element.onerror = () => done("refused");
    document.head.append(element);
  });
  const sent = (path, options) => fetch(target + path, {credentials: "include", ...options}).then(
    (answer) => answer.type + answer.status, () => "refused");
  const body = JSON.stringify({});
  return [
    await sent("/api/v1/services"),
    await sent("/api/v1/services", {mode: "no-cors"}),
    await sent("/api/v1/services/web/pause", {method: "POST", mode: "no-cors", body}),
    await sent("/api/v1/services/web/pause", {method: "POST", body, headers: {
      "Content-Type": "application/json"}}),
    await sent("/api/v1/session", {method: "DELETE"}),
    await loaded("script", target + "/api/v1/services"),
    await loaded("script", target + "/page/app.js"),
    await loaded("img", target + "/page/icon.svg"),
    await new Promise((done) => {
      const events = new EventSource(target + "/api/v1/live", {withCredentials: true});
      events.onopen = () => done("opened");
      events.onerror = () => done("refused");
    }),
  ];
}"""


def test_a_page_of_another_port_gets_nothing_from_a_browser_that_is_logged_in(
    open_page: Callable[..., Page], site: Site
) -> None:
    """To a browser it is the same site, so it sends our cookie along."""
    page = open_page()
    expect(page.locator(".view-services .card").first).to_be_visible()
    paused = site.log.count("paused web")
    ((name, value),) = [(each["name"], each["value"]) for each in page.context.cookies()]
    with ThreadingHTTPServer(("127.0.0.1", 0), _Stranger) as stranger:
        threading.Thread(target=stranger.serve_forever, daemon=True).start()
        other = page.context.new_page()
        other.goto(f"http://127.0.0.1:{stranger.server_port}/")
        assert set(other.evaluate(_TRIES, site.url)) == {"refused"}
        # A cookie of the same name for a longer path is sent first (RFC 6265, 5.4).
        other.evaluate("(name) => { document.cookie = `${name}=mine; path=/api/`; }", name)
        other.evaluate(
            "(target) => { const form = Object.assign(document.createElement('form'),"
            " {method: 'POST', action: target, enctype: 'text/plain'});"
            " document.body.append(form); form.submit(); }",
            f"{site.url}/api/v1/services/web/pause",
        )
        expect(other.locator("body")).to_contain_text("pages of other sites")
        stranger.shutdown()
    assert site.log.count("paused web") == paused
    page.reload()
    expect(page.locator(".view-services .card").first).to_be_visible()
    assert value in [each["value"] for each in page.context.cookies()]


class _Stranger(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another</title><body>")

    def log_message(self, *_: object) -> None:
        pass
