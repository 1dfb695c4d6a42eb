"""Fixtures of the tests of the page: a server with traffic, and a browser that has logged in.

The browser is Debian's chromium-headless-shell, or chromium; the tests are skipped where it is
missing, and fail in CI.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from .site import PATIENCE_SECONDS, Site

if TYPE_CHECKING:  # elsewhere it may be missing
    from playwright.sync_api import Browser, BrowserContext, Page


@pytest.fixture(scope="package")
def browser(program: Callable[[str], str]) -> Iterator[Browser]:
    """A running browser, without any page."""
    from playwright.sync_api import sync_playwright

    options = ["--disable-dev-shm-usage"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")  # chromium's sandbox is not for root
    with sync_playwright() as playwright:
        # The same engine without windows, which opens a page in a third of the time.
        path = shutil.which("chromium-headless-shell") or program("chromium")
        started = playwright.chromium.launch(executable_path=path, args=options)
        yield started
        started.close()


@pytest.fixture(scope="package")
def shared_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server with its usual clients, of all modules that have ``SHARES_SITE``."""
    with closing(Site(tmp_path_factory.mktemp("site"))) as made:
        made.usual_clients()
        yield made


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The module's server, with its usual clients; a shared one if it has ``SHARES_SITE``, as what
    its tests change they put back."""
    if getattr(request.module, "SHARES_SITE", False):
        yield request.getfixturevalue("shared_site")
        return
    with closing(Site(tmp_path_factory.mktemp("site"))) as made:
        made.usual_clients()
        yield made


@pytest.fixture(scope="module")
def session(site: Site, browser: Browser) -> Any:
    """The cookies of a browser that has logged in."""
    if site.logged_in is None:
        context = browser.new_context()
        page = context.new_page()
        page.goto(site.link())
        page.wait_for_selector(".view-services")
        site.logged_in = context.storage_state()
        context.close()
    return site.logged_in


@pytest.fixture
def script_errors() -> Iterator[list[str]]:
    """What went wrong in scripts, and what the content security policy has refused.

    A test fails if anything is left in it. Answers that are errors are not among it.
    """
    errors: list[str] = []
    yield errors
    assert not errors, "\n".join(errors)


@pytest.fixture(scope="module")
def window(browser: Browser, site: Site) -> Iterator[BrowserContext]:
    """The browser window that the tests of a module have one after the other.

    A new one would fetch and compile all scripts again, which takes most of a short test's time.
    """
    context = browser.new_context(base_url=site.url, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE_SECONDS * 1000)
    # A tab in which nothing of the page runs, by which its storage is reached.
    context.new_page().goto("/page/icon.svg")
    yield context
    context.close()


@pytest.fixture
def open_page(
    request: pytest.FixtureRequest, window: BrowserContext, script_errors: list[str]
) -> Iterator[Callable[..., Page]]:
    """Opens a view in a tab: ``open_page("#/services", width=360)``.

    ``dark``: what the user prefers; ``logged_in``: as somebody who may operate. All tabs of a test
    share cookies and storage, which are as if new at its begin.
    """
    opened: list[Page] = []
    plain, *left = window.pages
    assert not left
    window.clear_cookies()
    plain.evaluate("() => localStorage.clear()")

    def note(message: Any) -> None:
        # The browser's own words on an answer that is an error, or does not come.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            script_errors.append(f"{message.text} ({message.location})")

    def _open(
        place: str = "#/services",
        *,
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        logged_in: bool = True,
    ) -> Page:
        if logged_in and not opened:
            window.add_cookies(request.getfixturevalue("session")["cookies"])
        page = window.new_page()
        opened.append(page)
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")
        page.on("console", note)
        page.on("pageerror", lambda error: script_errors.append(str(error)))
        page.goto(f"/{place}")
        return page

    yield _open
    for each in window.pages:
        if each is not plain:
            each.close()


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    """The services, in a window of 1280 by 800."""
    return open_page()
