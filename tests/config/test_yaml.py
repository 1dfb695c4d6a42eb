"""YAML text as nodes: values, problems and limits."""

from __future__ import annotations

import time
from typing import Any

import pytest

from monconn.config import yaml


def read(text: str) -> tuple[Any, list[tuple[int | None, str, str]]]:
    """The plain value of a text, and its problems as line, path and message."""
    root, problems = yaml.read(text, "test.yaml")
    found = [(problem.line, problem.path, problem.message) for problem in problems]
    return (None if root is None else yaml.plain(root)), found


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1", {"a": 1}),
        ("a: '1'", {"a": "1"}),
        ("a: ! 1", {"a": "1"}),
        ("a: !!str 1", {"a": "1"}),
        ("1: 2\ntrue: 3", {"1": 2, "true": 3}),  # a key is what is written
        ("a: 0x_", {"a": "0x_"}),
        ("a: ~\nb:\nc: ''", {"a": None, "b": None, "c": ""}),
        ("a: &x 1\nb: *x", {"a": 1, "b": 1}),
        ("a: &x 1\nb: &x 2\nc: *x", {"a": 1, "b": 2, "c": 2}),
        ("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}", {"a": {"k": 1, "l": 2}, "b": {"k": 3, "l": 2}}),
        ("a: &x {k: 1}\nb: {<<: [*x, {k: 2, l: 3}]}", {"a": {"k": 1}, "b": {"k": 1, "l": 3}}),
        ("{'<<': 1}", {"<<": 1}),
        ("a: " + "9" * 65, {"a": "9" * 65}),
        ("--- {a: 1}\n...\n", {"a": 1}),
    ],
)
def test_values(text: str, value: Any) -> None:
    assert read(text) == (value, [])


def test_a_duplicate_key_keeps_the_first() -> None:
    assert read("a: 1\nb: 2\na: 3\n") == (
        {"a": 1, "b": 2},
        [(3, "a", "duplicate key, first on line 1")],
    )


def test_a_problem_at_an_anchor_is_reported_once() -> None:
    value, problems = read("a: &x {k: 1, k: 2}\nb: *x\nc: *x\n")
    assert value == {name: {"k": 1} for name in "abc"}
    assert problems == [(1, "a.k", "duplicate key, first on line 1")]


@pytest.mark.parametrize("tag", ["!!int", "!!python/name:os.system", "!own"])
def test_a_tag_is_a_problem_and_its_value_a_string(tag: str) -> None:
    value, ((line, path, message),) = read(f"a:\n  - {tag} 5\n")
    assert value == {"a": ["5"]}
    assert (line, path) == (2, "a[0]")
    assert message.endswith("is not understood: leave it out")


@pytest.mark.parametrize("text", ["&a [*a]", "&a {b: &b [*a]}", "[&a 1, &a [*a]]"])
def test_nothing_contains_itself(text: str) -> None:
    value, ((line, _, message),) = read(text)
    assert value is None
    assert line == 1
    assert message.startswith("the alias *a has no &a before it")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 500_000,
        "{a: " * 200_000,
        "- " * 500_000,
        "a: &a [" + "x," * 300_000 + "]",
        "- 1:" + "1:" * 500_000,
        "? " * 300_000,
        "&a " * 300_000,
        "*a " * 300_000,
    ],
    ids=lambda text: text[:8],
)
def test_no_text_takes_long(text: str) -> None:
    before = time.process_time()
    value, problems = read(text)
    assert time.process_time() - before < 20  # a few seconds, but for a slow machine
    assert (value is None) == bool(problems)
