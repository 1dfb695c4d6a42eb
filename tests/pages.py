"""The blocks of the pages for people, and what each one's language says about it.

``sh``: commands, each runs. ``console``: lines that begin with ``$ `` are commands, and run, what
follows is a sample of their output. ``yaml``: a configuration or a part of one, and is right.
``python``: runs. ``sql``: a query of a history, and runs. ``json``: is JSON once each … is left
out. ``ini``: a unit of systemd. ``text``: is only shown. A first line such as ``# transfers.py``
says in what file a block is to stand.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs

from tests import ROOT

PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "benchmarks" / "README.md",
        *ROOT.glob("docs/*.md"),
    ]
)
LANGUAGES = {"sh", "console", "yaml", "python", "sql", "json", "ini", "text"}
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# ([\w./-]+\.\w+)$")


@attrs.frozen
class Block:
    """A block of a page.

    :param line: of its first line within the page.
    """

    page: Path
    line: int
    language: str
    text: str

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def file_name(self) -> str | None:
        """The file in which it is to stand, if it says so."""
        found = _FILE_NAME.match(self.text.partition("\n")[0])
        return found[1] if found else None


@attrs.frozen
class Command:
    """A command of a block, with the sample of its output."""

    line: int
    text: str
    sample: tuple[str, ...] = ()


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield Block(page, text.count("\n", 0, found.start()) + 2, found[1], found[2])


def commands(block: Block) -> Iterator[Command]:
    """The commands of a ``sh`` or ``console`` block, those of several lines as one."""
    is_console = block.language == "console"
    held: list[str] = []
    found: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if not held and is_console and not line.startswith("$ "):
            if found and line:
                last = found[-1]
                found[-1] = attrs.evolve(last, sample=(*last.sample, line))
            continue
        if not held and (not line or line.startswith("#")):
            continue
        held.append(line.removeprefix("$ ") if is_console else line)
        text = "\n".join(held)
        if _is_whole(text):
            found.append(Command(number + 1 - len(held), text))
            held = []
    assert not held, f"{block.where}: ends within a command"
    yield from found


def _is_whole(text: str) -> bool:
    if text.endswith("\\"):
        return False
    if not re.search(r"[|&'\"]|<<", text):
        return True  # which spares most commands a shell
    said = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True, check=False)
    return said.returncode == 0 and "here-document" not in said.stderr
