"""Make the site in build/website: the pages, and a reference of the library from its docstrings.

``make docs`` runs it. The pages stay plain Markdown, with links that work on GitHub: so the source
that Sphinx is given is a copy with the layout of the repository. Its navigation is the index,
docs/README.md.
"""

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build"
SOURCE = BUILD / "website-source"
SITE = BUILD / "website"
PAGES = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md")
FOLDERS = ("docs", "examples", "benchmarks")


def main() -> int:
    """Build it; return the exit status."""
    from sphinx.cmd.build import build_main

    shutil.rmtree(SOURCE, ignore_errors=True)
    shutil.rmtree(SITE, ignore_errors=True)
    SOURCE.mkdir(parents=True)
    for name in (*PAGES, "LICENSE"):
        shutil.copy(ROOT / name, SOURCE)
    for folder in FOLDERS:
        shutil.copytree(
            ROOT / folder, SOURCE / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    for page in SOURCE.rglob("*.md"):
        page.write_text(prepared(page.read_text(encoding="utf-8")), encoding="utf-8")
    write_reference(SOURCE / "reference")
    with (SOURCE / "docs" / "README.md").open("a", encoding="utf-8") as index:
        index.write(navigation((ROOT / "docs" / "README.md").read_text(encoding="utf-8")))
    warnings_are_errors = ["-W", "--keep-going"]
    options = ["-q", "-b", "dirhtml", "-j", "auto", "-c", str(ROOT / "website")]
    status: int = build_main([*options, *warnings_are_errors, str(SOURCE), str(SITE)])
    if status == 0:
        # The way in, as Sphinx puts the index where it stands.
        (SITE / "index.html").write_text(
            '<!doctype html><meta http-equiv="refresh" content="0; url=docs/README/">'
            '<a href="docs/README/">monconn</a>\n',
            encoding="utf-8",
        )
    return status


def prepared(text: str) -> str:
    """A page as Sphinx wants it: JSON is whole, and a link to a folder is no link."""
    text = re.sub(r"^```json$(?=[^`]*…)", "```text", text, flags=re.MULTILINE)
    return re.sub(r"(?<!!)\[([^\[\]]+)\]\((?:\.\./)*examples/?\)", r"\1", text)


def navigation(index: str) -> str:
    """Tables of contents that are not shown in the index itself: a group for each heading."""
    groups = []
    for section in index.split("\n## ")[1:]:
        title, _, entries = section.partition("\n")
        pages = re.findall(r"^- \[([^\]]+)\]\(([\w-]+)\.md\)", entries, re.MULTILINE)
        groups.append((title, [f"{text} <{name}>" for text, name in pages]))
    groups.append(("Reference", ["monconn <../reference/monconn>", "Modules <../reference/index>"]))
    more = ("../README", "../CHANGELOG", "../ARCHITECTURE", "../CONTRIBUTING")
    groups.append(("Project", [*more, "../benchmarks/README", "../benchmarks/RESULTS"]))
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {title}\n\n" + "\n".join(entries) + "\n```\n"
        for title, entries in groups
    )


def write_reference(folder: Path) -> None:
    """A page for the package, and one for each module of which pages or examples use something."""
    folder.mkdir()
    used = dict(sorted(public_names().items()))
    for module, names in used.items():
        lines = [module, "=" * len(module), "", f".. automodule:: {module}"]
        if module == "monconn":
            lines += ["   :imported-members:"]
        else:
            lines += [f"   :members: {', '.join(sorted(names))}"]
        (folder / f"{module}.rst").write_text("\n".join([*lines, ""]), encoding="utf-8")
    title = "Modules"
    intro = "What the pages and the examples use, beside :mod:`monconn` itself."
    tree = ["", ".. toctree::", "", *(f"   {module}" for module in used if module != "monconn")]
    text = [title, "=" * len(title), "", intro, *tree, ""]
    (folder / "index.rst").write_text("\n".join(text), encoding="utf-8")


def public_names() -> dict[str, set[str]]:
    """The modules, and of each the names, that pages and examples import."""
    found: dict[str, set[str]] = {"monconn": set()}
    for code in (*code_of_pages(), *(path.read_text() for path in ROOT.glob("examples/*.py"))):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("monconn."):
                names = {each.name for each in node.names}
                found.setdefault(str(node.module), set()).update(names)
    return found


def code_of_pages() -> Iterator[str]:
    for page in ROOT.glob("docs/*.md"):
        blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
        for block in blocks:
            # await stands outside of a function in some.
            yield "async def page():\n" + "".join(f"    {line}\n" for line in block.splitlines())


if __name__ == "__main__":
    sys.exit(main())
