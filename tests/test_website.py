"""What the site is made of; CI builds it with each warning as an error (`make docs`)."""

from __future__ import annotations

import importlib
import re

import pytest

import monconn
from tests import ROOT
from website.build import navigation, prepared, public_names


def test_each_page_of_the_index_is_in_the_navigation() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    found = navigation(index)
    for page in ROOT.glob("docs/*.md"):
        assert page.name == "README.md" or f"<{page.stem}>\n" in found


def test_the_index_says_first_what_monconn_is_and_shows_it() -> None:
    beginning, *_ = (ROOT / "docs" / "README.md").read_text().partition("\n## ")
    assert "monconn is " in beginning
    (picture,) = re.findall(r"^!\[[^\]]+\]\(([^)]+)\)$", beginning, re.MULTILINE)
    assert (ROOT / "docs" / picture).is_file()


@pytest.mark.parametrize("module", sorted(public_names()))
def test_what_is_public_exists_and_is_explained(module: str) -> None:
    """So that the reference, which leaves out what has no docstring, has all of it."""
    imported = importlib.import_module(module)
    names = public_names()[module] or set(monconn.__all__)
    for name in names - {"registry"}:
        value = getattr(imported, name)
        assert not callable(value) or value.__doc__, f"{module}.{name}"


def test_links_to_folders_are_text_and_shortened_json_is_none() -> None:
    assert prepared("see [examples](../examples), [one](../examples/one.py)") == (
        "see examples, [one](../examples/one.py)"
    )
    assert prepared('```json\n{"a": …}\n```') == '```text\n{"a": …}\n```'
    assert prepared('```json\n{"a": 1}\n```\n…') == '```json\n{"a": 1}\n```\n…'
