"""``monconn help``: the pages of the documentation, which the package brings along."""

from __future__ import annotations

import difflib
import os
import re
import textwrap
from collections.abc import Iterator
from importlib import resources

import attrs
import click

from monconn.faces.cli.output import print_text, terminal_width

# In a checkout this is a symbolic link to docs/; a wheel has the files themselves.
_PAGES = resources.files("monconn") / "docs"
_INDEX = "README.md"
_MOST_COLUMNS = 100  # longer lines are hard to read

_LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\(([^()\s]+)\)")
_PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n+", re.MULTILINE)
_COMMENT = re.compile(r"^<!--.*?-->\n+", re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"([-*]|\d+\.) ")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


@attrs.frozen
class Topic:
    """A page of the documentation.

    :param group: the heading of the index under which it is.
    :param summary: what the index says of it.
    """

    name: str
    group: str
    summary: str

    def text(self) -> str:
        """The page, in Markdown."""
        return (_PAGES / f"{self.name}.md").read_text(encoding="utf-8")


def topics() -> list[Topic]:
    """All pages, in the order of the index (``docs/README.md``)."""
    found = []
    group = ""
    index = (_PAGES / _INDEX).read_text(encoding="utf-8")
    for line in re.sub(r"\n  +", " ", index).splitlines():  # an entry may go on in the next line
        if line.startswith("## "):
            group = line.removeprefix("## ")
        entry = re.match(r"- \[[^\]]+\]\(([\w-]+)\.md\): (.+)", line)
        if entry:
            found.append(Topic(entry[1], group, _LINK.sub(r"\1", entry[2])))
    return found


def complete_topic(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[str]:
    """The names that begin so: of pages, and of the verbs."""
    verbs = context.find_root().command
    names = {topic.name for topic in topics()}
    names |= set(verbs.list_commands(context)) if isinstance(verbs, click.Group) else set()
    return sorted(name for name in names if name.startswith(incomplete))


@click.command("help")
@click.argument("topic", required=False, shell_complete=complete_topic)
@click.pass_context
def help_command(context: click.Context, topic: str | None) -> None:
    """The pages of the documentation: without TOPIC, a list of them.

    TOPIC may also be a command, of which there is no page: then it is the same as its --help.
    """
    program = context.find_root()
    assert isinstance(program.command, click.Group)
    if topic is None:
        print_text(_list_of_topics())
        return
    # As messages name a page, docs/reasons.md#sides-that-vanish, it is found, too.
    wanted = topic.casefold().partition("#")[0].removeprefix("docs/").removesuffix(".md")
    pages = {each.name: each for each in topics()}
    verb = program.command.get_command(program, wanted)
    if wanted in pages:
        _show(pages[wanted], has_verb=verb is not None)
    elif verb is not None:
        with click.Context(verb, info_name=wanted, parent=program) as of_verb:
            print_text(f"{verb.get_help(of_verb)}\n")
    else:
        names = list(dict.fromkeys([*pages, *program.command.list_commands(program)]))
        close = difflib.get_close_matches(wanted, names, n=3)
        close += [name for name in names if wanted in name and name not in close]
        hint = f"did you mean {' or '.join(close)}?" if close else "monconn help lists them"
        raise click.UsageError(f"there is no topic {topic!r}: {hint}")


def _list_of_topics() -> str:
    width = min(terminal_width() or 80, _MOST_COLUMNS)
    pages = topics()
    column = max(len(page.name) for page in pages) + 4
    lines = []
    group = ""
    for page in pages:
        if page.group != group:
            group = page.group
            lines += ["", f"{group}:"]
        lines += textwrap.wrap(
            f"  {page.name:<{column - 2}}{page.summary}", width, subsequent_indent=" " * column
        )
    lines += ["", "monconn help TOPIC shows a page; monconn help COMMAND, a command's options."]
    return "\n".join(lines[1:]) + "\n"


def _show(page: Topic, *, has_verb: bool) -> None:
    text = _PICTURE.sub("", _COMMENT.sub("", page.text()))
    width = terminal_width()
    if width is None:
        print_text(text)  # Markdown is made to be read as it is
        return
    text, linked = _without_links(text)
    ends = [f"`monconn {page.name} --help` lists the command's options."] if has_verb else []
    if linked:
        ends.append(f"See also `monconn help` {', '.join(linked)}.")
    text = "\n\n".join([text.rstrip(), *ends])
    width = min(width, _MOST_COLUMNS)
    # As git has it: what fits on the screen stays there, and a longer text is left with q.
    os.environ.setdefault("LESS", "-FRX")
    click.echo_via_pager(f"{_rendered(text, width).rstrip()}\n")


def _without_links(text: str) -> tuple[str, list[str]]:
    """Leave of links to other pages only their text, and name these pages."""
    linked: list[str] = []

    def shorten(link: re.Match[str]) -> str:
        page = re.match(r"([\w-]+)\.md", link[2])
        if page and page[1] not in linked:
            linked.append(page[1])
        return link[1] if "://" not in link[2] else link[0]

    parts = _FENCED.split(text)
    parts[::2] = [_LINK.sub(shorten, part) for part in parts[::2]]
    return "".join(parts), linked


def _rendered(text: str, width: int) -> str:
    """The text as rich shows it, or, without the extra ``tui``, as it is."""
    try:
        from rich.console import Console
        from rich.markdown import Markdown
        from rich.theme import Theme
    except ImportError:
        return "\n".join(filled_page(text, width))
    # Colours of the terminal and no backgrounds: so it can be read on a light one, too.
    theme = Theme(
        {
            "markdown.code": "cyan",
            "markdown.h1": "bold",
            "markdown.h2": "bold underline",
            "markdown.table.header": "bold",
            "markdown.table.border": "dim",
        }
    )
    console = Console(width=width, force_terminal=True, theme=theme)
    with console.capture() as capture:
        console.print(Markdown(text, code_theme="ansi_dark", hyperlinks=False))
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def filled_page(text: str, width: int) -> Iterator[str]:
    """The lines of a page in Markdown, its paragraphs and list entries as long as there is room.

    Headings, tables and blocks of code are left as they are.
    """
    paragraph: list[str] = []

    def end_of_paragraph() -> list[str]:
        joined = " ".join(paragraph)
        paragraph.clear()
        mark = _ENTRY.match(joined)
        return textwrap.wrap(
            joined,
            width,
            subsequent_indent=" " * len(mark[0]) if mark else "",
            break_long_words=False,
            break_on_hyphens=False,
        )

    is_code = False
    for line in text.splitlines():
        is_fence = line.startswith("```")
        if is_code or is_fence or not line or line.startswith(("#", "|")):
            yield from end_of_paragraph()
            yield line
            is_code ^= is_fence
            continue
        if _ENTRY.match(line):
            yield from end_of_paragraph()
        paragraph.append(line.strip())
    yield from end_of_paragraph()
