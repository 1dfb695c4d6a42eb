"""Tab completion of a line at the prompt."""

from __future__ import annotations

import os
import re
import rlcompleter
from collections.abc import Iterable
from typing import Any

import attrs

_SERVICE = re.compile(r"""\b(?:monitors?|connections)\s*[(\[]\s*(["'])([^"']*)$""")
_NAME = re.compile(r"(?<![\w.])[A-Za-z_][A-Za-z0-9_.]*$")


@attrs.frozen
class Completion:
    """The word before the cursor and its possible completions, in order."""

    word: str
    candidates: list[str]

    @property
    def addition(self) -> str:
        """The common continuation of all candidates."""
        common = os.path.commonprefix(self.candidates)  # noqa: RUF071 of any texts, not paths
        return common[len(self.word) :]


def complete(line: str, namespace: dict[str, Any], services: Iterable[str]) -> Completion:
    """Complete the last word of a line: a name, an attribute, or a service's name in quotes.

    :param line: up to the cursor.
    :param services: what ``monitor("…")`` takes.
    """
    found = _SERVICE.search(line)
    if found:
        quote, word = found.groups()
        return Completion(word, sorted(f"{n}{quote}" for n in services if n.startswith(word)))
    found = _NAME.search(line)
    if not found:
        return Completion("", [])
    word = found[0]
    completer = rlcompleter.Completer(dict(namespace))
    try:
        names = completer.attr_matches(word) if "." in word else completer.global_matches(word)
    except Exception:  # it asks for each attribute, and a descriptor may raise anything
        names = []
    # Without what rlcompleter appends to functions and keywords, which is in the way of "[" or ",".
    return Completion(word, sorted({each.rstrip("(): ") for each in names}))
