"""``monconn help``: the topics, the pages, and what is asked for by a slip."""

from __future__ import annotations

import builtins
import re
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from monconn.faces.cli import help as help_module
from monconn.faces.cli.help import filled_page, topics
from monconn.faces.cli.main import main
from tests import ROOT


def asked(*words: str) -> Result:
    return CliRunner().invoke(main, ["help", *words])


def test_each_page_is_a_topic_and_has_a_line_in_the_index() -> None:
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"README"}
    assert {topic.name for topic in topics()} == pages


def test_the_list_has_a_line_of_80_columns_for_each_topic() -> None:
    lines = asked().output.splitlines()
    assert {re.split(" +", line)[1] for line in lines if line.startswith("  ")} == {
        topic.name for topic in topics()
    }
    assert max(len(line) for line in lines) < 80


def test_a_pipe_is_given_the_page_as_it_is() -> None:
    result = asked("filters")
    assert result.exit_code == 0
    assert result.output == (ROOT / "docs" / "filters.md").read_text()


@pytest.mark.parametrize(
    "name", ["FILTERS", "filters.md", "docs/filters.md", "docs/filters.md#ranges"]
)
def test_a_topic_may_be_written_so_too(name: str) -> None:
    assert asked(name).output.startswith("# Filters")


def test_a_verb_without_a_page_is_explained_by_its_options() -> None:
    assert asked("list").output == CliRunner().invoke(main, ["list", "--help"]).output


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("filter", "did you mean filters"),
        ("lsit", "did you mean list"),
        ("histori", "did you mean history?"),
        ("xyzzy", "monconn help lists them"),
    ],
)
def test_an_unknown_topic_is_an_error_that_names_close_ones(name: str, hint: str) -> None:
    result = asked(name)
    assert result.exit_code == 2
    assert f"there is no topic '{name}': {hint}" in result.output


def test_names_are_completed() -> None:
    (argument,) = main.commands["help"].params
    context = click.Context(main.commands["help"], parent=click.Context(main))
    found = [each.value for each in argument.shell_complete(context, "l")]
    assert found == ["library", "list"]


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the pager of a terminal of 80 columns is given."""
    shown: list[str] = []
    monkeypatch.setattr(help_module, "terminal_width", lambda: 80)
    monkeypatch.setattr(click, "echo_via_pager", shown.append)
    monkeypatch.setenv("LESS", "")
    return shown


@pytest.mark.parametrize("topic", topics(), ids=lambda topic: str(topic.name))
def test_a_terminal_is_given_the_page_rendered(topic: Any, on_terminal: list[str]) -> None:
    assert asked(topic.name).exit_code == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal[0])
    assert "](" not in text
    assert "<!--" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_terminal_without_rich_is_given_wrapped_text(
    on_terminal: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    imported = builtins.__import__

    def without_rich(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert asked("history").exit_code == 0
    assert on_terminal[0].startswith("# History\n\nmonconn can store")
    assert "\x1b" not in on_terminal[0]
    assert "See also `monconn help`" in on_terminal[0]


def test_paragraphs_and_entries_are_wrapped_and_nothing_else() -> None:
    page = """# A long heading that stays

A paragraph of
some words.

- an entry that goes on
  here
- another

| a table | that stays |
|---|---|

```sh
a  command that stays
```
"""
    assert list(filled_page(page, 16)) == [
        "# A long heading that stays",
        "",
        "A paragraph of",
        "some words.",
        "",
        "- an entry that",
        "  goes on here",
        "- another",
        "",
        "| a table | that stays |",
        "|---|---|",
        "",
        "```sh",
        "a  command that stays",
        "```",
    ]
