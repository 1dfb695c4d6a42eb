"""What every test of the page needs of the browser; skips the tests where Playwright is missing.

Tests import :class:`Page` and :func:`expect` from here, so that they are skipped, too.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip(
    "playwright", reason="the page is tested where Playwright is: make test installs it"
)

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from .site import PATIENCE_SECONDS

__all__ = ["Locator", "Page", "check_accessibility", "expect", "save_picture"]

expect.set_options(timeout=PATIENCE_SECONDS * 1000)
_SERIOUS = {"serious", "critical"}


def check_accessibility(page: Page) -> None:
    """Fail if axe-core finds anything serious in what the page shows now."""
    violations = Axe().run(page).response["violations"]
    found = [
        f"{each['id']}: {each['help']}\n    "
        + "\n    ".join(node["html"][:200] for node in each["nodes"][:3])
        for each in violations
        if each["impact"] in _SERIOUS
    ]
    assert not found, "axe-core finds:\n" + "\n".join(found)


def save_picture(page: Page, name: str) -> None:
    """Save what the page shows in the folder ``MONCONN_PICTURES``, if that is set: for people."""
    folder = os.environ.get("MONCONN_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png")
