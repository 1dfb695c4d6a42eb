"""What the Tab key can make of what was typed so far."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

_A_SERVICE = re.compile(r"""\bmonitors?\s*[(\[]\s*(["'])([^"']*)$""")
_A_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*$")


@attrs.frozen
class Completion:
    """The word before the cursor, and all that it could become."""

    word: str
    candidates: list[str]

    @property
    def addition(self) -> str:
        """What all candidates go on with."""
        if not self.candidates:
            return ""
        first, last = min(self.candidates), max(self.candidates)
        same = next(
            (at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
        )
        return first[len(self.word) : same]


def complete(text: str, namespace: Mapping[str, Any], services: Iterable[str]) -> Completion:
    """Complete the last word of a line.

    :param text: the line up to the cursor.
    :param services: the names that ``monitor("…")`` takes.
    """
    in_quotes = _A_SERVICE.search(text)
    if in_quotes:
        quote, word = in_quotes[1], in_quotes[2]
        return _of(word, (f"{name}{quote}" for name in services))
    name = _A_NAME.search(text)
    if not name:
        return Completion("", [])
    word = name[0]
    if "." in word:
        return _of(word, _attributes(word, namespace))
    return _of(word, [*namespace, *dir(builtins), *keyword.kwlist])


def _attributes(word: str, namespace: Mapping[str, Any]) -> Iterable[str]:
    *path, last = word.split(".")
    try:
        owner = namespace[path[0]]
        for name in path[1:]:
            owner = getattr(owner, name)
        names = dir(owner)
    except Exception:  # there is none of this name, or a property of it raises
        return
    for name in names:
        if last.startswith("_") or not name.startswith("_"):
            yield ".".join([*path, name])


def _of(word: str, names: Iterable[str]) -> Completion:
    return Completion(word, sorted({name for name in names if name.startswith(word)}))
