"""The pictures of the pages: made by a script, and whole by themselves."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests import ROOT

SVGS = [ROOT / "docs" / "demo.svg", *sorted((ROOT / "docs" / "pictures").glob("*.svg"))]


@pytest.mark.parametrize("path", SVGS, ids=lambda path: path.name)
def test_a_picture_loads_nothing_from_elsewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "@font-face" not in text
    # The words that it shows load nothing: the demo names its page.
    links = re.findall(r"https?://[^\"') ]+", re.sub(r"<text[^>]*>[^<]*</text>", "", text))
    assert set(links) <= {"http://www.w3.org/2000/svg"}
    assert "monospace" in text
    for own in (str(ROOT), str(Path.home()) + "/"):
        assert own not in text


def test_every_picture_of_the_script_is_there() -> None:
    script = (ROOT / "docs" / "make_pictures.py").read_text()
    names = {
        *re.findall(r'picture\("([\w-]+)"', script),
        *re.findall(r'^    \("([\w-]+)", \(', script, re.M),
    }
    assert len(names) == 11
    assert {f"{name}.svg" for name in names} <= {path.name for path in SVGS}


def test_the_pictures_of_the_page_are_there_and_small() -> None:
    script = (ROOT / "docs" / "make_pictures.py").read_text()
    names = re.findall(r'^    \("(web-[\w-]+)", "', script, re.M)
    assert len(names) == 6
    found = {path.stem: path for path in (ROOT / "docs" / "pictures").glob("*.png")}
    assert set(found) == set(names)
    for path in found.values():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size <= 120_000
