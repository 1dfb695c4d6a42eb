"""The pages for people: links lead somewhere, no page is left out, commands are understood."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from monconn.faces.cli.main import main
from tests import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benchmarks/*.md")])
_FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.strip().lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for link in _LINK.findall(_FENCED.sub("", page.read_text(encoding="utf-8"))):
        path, _, anchor = link.partition("#")
        if link.startswith(("http://", "https://")):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_readme_leads_to_the_index_and_the_index_to_every_page() -> None:
    def linked(page: Path) -> set[str]:
        return {link.partition("#")[0] for link in _LINK.findall(page.read_text())}

    assert "docs/README.md" in linked(ROOT / "README.md")
    assert {path.name for path in ROOT.glob("docs/*.md")} - {"README.md"} <= linked(
        ROOT / "docs" / "README.md"
    )


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each ``monconn`` in the blocks of a page."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.DOTALL)
    for line in "".join(blocks).splitlines():
        if re.match(r"(\$ )?(MONCONN_\w+=\S+ )?monconn ", line):
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while "monconn" in words:
                words = words[words.index("monconn") + 1 :]
                ends = [at for at, word in enumerate(words) if word in ("&&", "|", ">", "&")]
                yield words[: min(ends, default=len(words))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_understood(page: Path) -> None:
    """Its verb, options and values are; what it does is tested with the verb."""
    for words in commands(page):
        verb = main.commands.get(words[0])
        if verb is None:
            main.make_context("monconn", words).close()
        else:
            verb.make_context(words[0], words[1:]).close()
