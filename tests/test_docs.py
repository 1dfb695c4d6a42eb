"""The pages for people: links lead somewhere, no page is left out, commands are understood."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import click
import pytest

from monconn.faces.cli.main import main
from tests import ROOT
from tests import pages as run_pages
from tests.pages import Command, blocks
from tests.run_page import on_machine, with_output

PROGRAMS_OF_PAGES = (
    *("awk", "curl", "jq", "logrotate", "openssl", "promtool", "sqlite3", "ssh"),
    "systemd-analyze",
)
PAGE_SECONDS = 120
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
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.DOTALL)
    for language, block in blocks:
        prompt = r"\$ " if language == "console" else r"(\$ )?"  # else it is output
        for line in block.splitlines():
            if re.match(prompt + r"(MONCONN_\w+=\S+ )?monconn ", line):
                words = shlex.split(line.removeprefix("$ "), comments=True)
                while "monconn" in words:
                    words = words[words.index("monconn") + 1 :]
                    ends = [
                        at for at, word in enumerate(words) if word in ("&&", "||", "|", ">", "&")
                    ]
                    yield words[: min(ends, default=len(words))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_is_understood(page: Path) -> None:
    """Its verb, options and values are; what it does is tested with the verb."""
    for words in commands(page):
        verb = main.commands.get(words[0])
        if verb is None:
            main.make_context("monconn", words).close()
            continue
        while isinstance(verb, click.Group):
            words = words[1:]
            verb = verb.commands[words[0]]
        verb.make_context(words[0], words[1:]).close()


@pytest.mark.parametrize("page", run_pages.PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_says_what_it_is(page: Path) -> None:
    """Only what is text is not run: so no text looks like a command."""
    for block in run_pages.blocks(page):
        assert block.language in run_pages.LANGUAGES, block.where
        if block.language == "text":
            assert not re.search(r"^(\$|monconn|twistd|make|sudo) ", block.text, re.M), block.where


@pytest.fixture(scope="module")
def machines(program: Callable[[str], str]) -> None:
    """Skips the test without what a page's machine needs; where CI runs, fails it."""
    for name in ("unshare", "ip", "script", "ssh-keygen", "pkill", *PROGRAMS_OF_PAGES):
        program(name)
    # Rights are no program: a sandbox may lack them, and then nothing can be run.
    tried = subprocess.run(on_machine(["--help"]), cwd=ROOT, capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"this system gives us no namespaces: {tried.stderr}")


@pytest.fixture(scope="module")
def runs(
    machines: None, request: pytest.FixtureRequest
) -> Iterator[Mapping[Path, Future[subprocess.CompletedProcess[str]]]]:
    """The pages whose tests are selected, as they run: as many at a time as there are processors.

    Each has a machine of its own, and waits most of the time for programs that start.
    """

    def run(page: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.run_page", str(page)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=PAGE_SECONDS,
        )

    pages = [
        page
        for item in request.session.items
        if isinstance(item, pytest.Function) and "runs" in item.fixturenames
        if isinstance(page := item.callspec.params["page"], Path)
    ]
    pool = ThreadPoolExecutor(os.cpu_count())
    yield {page: pool.submit(run, page) for page in pages}
    pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(
    "page",
    [page for page in run_pages.PAGES if any(each.language != "text" for each in blocks(page))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_all_that_a_page_shows_runs_as_it_is_written(
    page: Path, runs: Mapping[Path, Future[subprocess.CompletedProcess[str]]]
) -> None:
    """Commands, configurations, Python, SQL and units: see tests/run_page.py."""
    done = runs[page].result()
    assert done.returncode == 0, f"{done.stdout[-2000:]}{done.stderr}"


def test_samples_are_replaced_by_what_was_printed() -> None:
    page = "```console\n$ a\nold\nolder\n\n$ b\n$ c\nold\n```\nend\n"
    printed = [
        (Command(2, "a", ("old", "older")), "new\n"),
        (Command(6, "b"), "not shown\n"),
        (Command(7, "c", ("old",)), "one\ntwo\n"),
    ]
    assert with_output(page, printed) == ("```console\n$ a\nnew\n\n$ b\n$ c\none\ntwo\n```\nend\n")
