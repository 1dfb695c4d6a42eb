"""Make the manual pages monconn.1 and monconn.yaml.5 beside this file; ``make man`` runs it.

The first is made of what the command's parser knows of its verbs and options, the second of
docs/configuration.md. They are files of the repository, as what builds a wheel has neither click
nor a Markdown parser at hand; a test says when they are out of date. The format: man(7).
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from monconn._version import __version__
from monconn.faces.cli.main import main as program

ROOT = Path(__file__).parent.parent
DATE = "2026-11-26"

# -- the command

DESCRIPTION = """\
monconn forwards TCP connections, and says of each who it was, what moved, and why it ended.
Without a command it runs the services that -p or -c name, until a signal stops it; the commands
look into a monconn that runs, or do what needs none."""

EXIT_STATUS = (
    ("0", "It was done, or monconn was stopped by a signal in good order."),
    (
        "1",
        "It could not be done: what was named is not there, or no output can be written.",
    ),
    ("2", "A mistake on the command line, in a filter or in the configuration."),
    ("3", "No monconn is running, or nobody answers."),
    ("128 + N", "A signal N ended it before it had stopped in good order."),
)
FILES = (
    (
        "$XDG_RUNTIME_DIR/monconn/control.sock",
        "The default control socket, and control-PID.sock of further monconns of the same user."
        " Without XDG_RUNTIME_DIR the folder is monconn-UID below the temporary folder.",
    ),
    (
        "~/.local/state/monconn/ssh_host_ed25519_key",
        "The manhole's host key, if the configuration names no other.",
    ),
)
ENVIRONMENT = (
    ("MONCONN_CONTROL", "The control port to ask, as --control names it."),
    ("MONCONN_CONFIG", "The configuration that twistd -y monconn.tac runs."),
    ("NO_COLOR", "If it is set and not empty, nothing is printed in colour."),
    ("PAGER, LESS", "What monconn help shows a page with, and its options."),
    ("XDG_RUNTIME_DIR, XDG_STATE_HOME", "Where control sockets and the manhole's host key are."),
)


def command_page() -> str:
    """monconn(1)."""
    context = click.Context(program, info_name="monconn", **program.context_settings)
    lines = [
        *_head("MONCONN", 1, "monconn", "see what happens on the TCP connections of a service"),
        ".SH SYNOPSIS",
        "\\fBmonconn\\fR \\fB\\-p\\fR \\fILISTEN\\fR=\\fIBACKEND\\fR ...",
        ".br",
        "\\fBmonconn\\fR \\fB\\-c\\fR \\fIFILE\\fR",
        ".br",
        "\\fBmonconn\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]",
        ".SH DESCRIPTION",
        *escaped(DESCRIPTION),
        ".SH OPTIONS",
        *_options(program, context),
        ".TP",
        "\\fB\\-h, \\-\\-help\\fR",
        "Show the options, also after a command, and exit.",
        ".SH COMMANDS",
    ]
    lines += _verbs(program, context)
    for title, entries in (
        ("EXIT STATUS", EXIT_STATUS),
        ("FILES", FILES),
        ("ENVIRONMENT", ENVIRONMENT),
    ):
        lines.append(f".SH {title}")
        for term, text in entries:
            lines += [".TP", f"\\fB{escape(term)}\\fR", *escaped(text)]
    lines += [".SH SEE ALSO", "\\fBmonconn.yaml\\fR(5)", ".PP"]
    lines += escaped("monconn help lists the documentation's pages, monconn help TOPIC shows one.")
    return "\n".join(lines) + "\n"


def _verbs(group: click.Group, context: click.Context, before: str = "") -> Iterator[str]:
    """The verbs of a group, each followed by its own, if it is one."""
    for name in group.list_commands(context):
        verb = group.get_command(context, name)
        if verb is None or verb.hidden:
            continue
        of_verb = click.Context(verb, info_name=name, parent=context)
        whole = f"{before}{name}"
        pieces = [f"\\fB{escape(whole)}\\fR", *map(escape, verb.collect_usage_pieces(of_verb))]
        yield f".SS {' '.join(pieces)}"
        yield from _help(inspect.cleandoc(verb.help or ""))
        yield from _options(verb, of_verb)
        if isinstance(verb, click.Group):
            yield from _verbs(verb, of_verb, f"{whole} ")


def _help(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.split("\f")[0].strip())):
        if number:
            yield ".PP"
        is_kept = paragraph.lstrip().startswith("\b")  # click's sign for lines that stay
        if is_kept:
            yield ".nf"
        yield from escaped(paragraph.replace("\b", "").strip("\n"))
        if is_kept:
            yield ".fi"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            names, text = record
            if "--help" not in parameter.opts and not parameter.hidden:
                yield from (".TP", f"\\fB{escape(names)}\\fR", *escaped(text))


# -- the configuration


def configuration_page() -> str:
    """monconn.yaml(5)."""
    from markdown_it import MarkdownIt

    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    lines = _head("MONCONN.YAML", 5, "monconn.yaml", "the configuration file of monconn")
    lines.append(".SH DESCRIPTION")
    lines += _body(tokens[3:])  # after the first heading
    lines += [".SH SEE ALSO", "\\fBmonconn\\fR(1)"]
    return re.sub(r"(?<=\n)(\.S[HS] .*\n)\.PP\n", r"\1", "\n".join(lines) + "\n")


def _body(tokens: Sequence[Any]) -> Iterator[str]:
    row: list[str] = []
    header: list[str] = []
    kind = ""
    for token in tokens:
        if token.type == "heading_open":
            kind = ".SH" if token.tag == "h2" else ".SS"
        elif token.type == "paragraph_open" and not token.hidden and kind != ".IP":
            kind = ".PP"
        elif token.type == "list_item_open":
            kind = ".IP"
        elif token.type == "list_item_close":
            kind = ""
        elif token.type in ("th_open", "td_open"):
            kind = token.type
        elif token.type == "inline":
            text = _inline(token.children)
            if kind == ".SH":
                yield f".SH {text.upper()}"
            elif kind == ".SS":
                yield f".SS {text}"
            elif kind == ".IP":
                yield from (".IP \\(bu 2", *lines_of(text))
            elif kind == "th_open":
                header.append(text)
            elif kind == "td_open":
                row.append(text)
            else:
                yield from (".PP", *lines_of(text))
        elif token.type == "table_open":
            header = []
        elif token.type == "tr_close" and row:
            yield from _row(header, row)
            row = []
        elif token.type == "fence":
            code = [escape(line) for line in token.content.rstrip("\n").split("\n")]
            yield from (".PP", ".RS 4", ".nf", *code, ".fi", ".RE")


def _row(header: list[str], row: list[str]) -> Iterator[str]:
    """A row of a table: its first cell is what the others explain."""
    yield from (".TP", row[0] or "\\~")
    cells = dict(zip(header[1:], row[1:], strict=True))
    default = cells.pop("default", "\\(en")
    for cell in cells.values():
        yield from lines_of(cell)
    if default not in ("", "\\(en"):
        yield from lines_of(f"(default: {default})")


def _inline(children: Sequence[Any]) -> str:
    out = []
    for child in children:
        if child.type == "text":
            out.append(escape(child.content))
        elif child.type == "code_inline":
            out.append(f"\\fB{escape(child.content)}\\fR")
        elif child.type == "softbreak":
            out.append("\n")
        elif child.type in ("strong_open", "em_open"):
            out.append("\\fI")
        elif child.type in ("strong_close", "em_close"):
            out.append("\\fR")
    return "".join(out)


# -- man(7)


def _head(title: str, section: int, name: str, summary: str) -> list[str]:
    return [
        '.\\" Made by man/make.py: change what it is made from, and run make man.',
        f'.TH {title} {section} {DATE} "monconn {__version__}"',
        ".SH NAME",
        f"{name} \\- {escape(summary)}",
    ]


def escape(text: str) -> str:
    """Text as it is: man(7) reads backslashes, minus signs and leading dots otherwise."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("\t", "    ")
    text = text.replace("→", "\\(->").replace("–", "\\(en").replace("×", "\\(mu")
    text = text.replace("µ", "\\(mc")
    return f"\\&{text}" if text.startswith((".", "'")) else text


def escaped(text: str) -> Iterator[str]:
    """The lines of a text."""
    yield from lines_of(escape(text))


def lines_of(text: str) -> Iterator[str]:
    """Lines of what is escaped already."""
    for line in textwrap.wrap(text, 79, break_long_words=False, break_on_hyphens=False):
        yield f"\\&{line}" if line.startswith((".", "'")) else line


PAGES = {"monconn.1": command_page, "monconn.yaml.5": configuration_page}


def main() -> None:
    """Write the pages."""
    for name, make in PAGES.items():
        (ROOT / "man" / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
