"""Explanations as text for people: paragraphs and lists, for a terminal or a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import attrs

from monconn.errors import QuestionError, quoted
from monconn.ops.account import Account
from monconn.ops.explanations import (
    EXPLANATIONS,
    CodeExplanation,
    Explanation,
    Kind,
    close_codes,
    close_matches,
    explain,
    explain_code,
)
from monconn.ops.text_table import wrapped

_KINDS: dict[Kind, str] = {
    "reason": "reasons: why an admitted connection ended",
    "refusal": "refusals: why a client was not let in",
    "state": "states of a connection",
    "service state": "states of a service",
    "setting": "settings with an entry of their own",
    "end": "ends: how a side had ended when the reason was decided",
    "alarm": "alarms about devices",
    "event": "events of the feed and of the history",
    "pipe": "pipes: how bytes are moved",
    "mqtt": "MQTT: what devices and brokers say, in facts and details",
    "error": "errors of the operating system, as details show them",
}
_MOST_CHARACTERS = 100
"""Longer lines of running text are hard to read, however wide the terminal is."""


@attrs.frozen
class Block:
    """Some text that begins on a line of its own.

    :param text: one paragraph.
    :param indent: spaces before each line.
    :param first: put before the first line, within the indent.
    :param is_whole: never broken: something to type.
    """

    text: str
    indent: int = 0
    first: str = ""
    is_whole: bool = False


_EMPTY = Block("")


def rendered(blocks: Iterable[Block], width: int | None = None) -> str:
    """Blocks as lines.

    :param width: of the terminal, in characters; None for paragraphs in one line each.
    """
    lines: list[str] = []
    for block in blocks:
        room = None if width is None else min(width, _MOST_CHARACTERS) - block.indent
        whole = block.is_whole or room is None
        parts = [block.text] if whole else wrapped(block.text, room or 0)
        for number, part in enumerate(parts):
            margin = block.first.rjust(block.indent) if number == 0 else " " * block.indent
            lines.append(f"{margin}{part}".rstrip())
    return "".join(f"{line}\n" for line in lines)


def looked_up(text: str) -> Iterator[Block]:
    """What a word or a code means; the index of all words for an empty text.

    :raises QuestionError: it is unknown; the message has words that are written much like it.
    """
    found, pair = explain(text), explain_code(text)
    if not text:
        return index()
    if found:
        return words(found)
    if pair is not None:
        return code(pair)
    raise QuestionError(unknown_word(text))


def unknown_word(text: str) -> str:
    """The message for a word that is none."""
    matches = [*close_codes(text), *close_matches(text)]
    hint = f"did you mean {', '.join(matches)}?" if matches else "monconn explain lists all words"
    return f"there is no reason, code or other word {quoted(text)}: {hint}"


def index() -> Iterator[Block]:
    """Every word, with a line each."""
    widest = max(len(each.word) for each in EXPLANATIONS)
    for number, (kind, title) in enumerate(_KINDS.items()):
        if number:
            yield _EMPTY
        yield Block(title)
        for each in EXPLANATIONS:
            if each.kind == kind:
                yield Block(each.short, widest + 4, f"  {each.word:<{widest}}  ")


def words(found: Iterable[Explanation]) -> Iterator[Block]:
    """Explanations, whole, one after the other."""
    for number, each in enumerate(found):
        if number:
            yield _EMPTY
        yield from _word(each)


def _word(each: Explanation) -> Iterator[Block]:
    codes = f" ({' '.join(each.codes)})" if each.codes else ""
    yield Block(f"{each.word}, {_singular(each.kind)}{codes}: {each.short}")
    if each.meaning:
        yield _EMPTY
        yield Block(each.meaning, 2)
    if each.causes:
        yield _EMPTY
        yield Block("What usually causes it", 2)
        for cause in each.causes:
            yield Block(cause, 4, "- ")
    if each.next:
        yield _EMPTY
        yield Block("What to look at next", 2)
        for step in each.next:
            if step.text:
                yield Block(step.text, 4, "- ")
            if step.command:
                yield Block(step.command, 6 if step.text else 4, "" if step.text else "- ", True)
    if each.see:
        yield _EMPTY
        yield Block(f"More: docs/{each.see}", 2)


def _singular(kind: Kind) -> str:
    return "error" if kind == "error" else {"end": "end of a side"}.get(kind, kind)


def code(found: CodeExplanation) -> Iterator[Block]:
    """HAProxy's pair of letters."""
    yield Block(f"{found.code}, how HAProxy writes an end in two letters")
    yield _EMPTY
    for letter, text in zip(found.code, (found.who, found.phase), strict=True):
        yield Block(text, 5, f"  {letter}  ")
    yield _EMPTY
    if not found.reasons:
        yield Block("monconn has no reason with this code.", 2)
        return
    yield Block("Reasons that have it; monconn explain REASON says more:", 2)
    widest = max(len(each.word) for each in found.reasons)
    for each in found.reasons:
        yield Block(each.short, widest + 6, f"    {each.word:<{widest}}  ")
    yield _EMPTY
    yield Block("More: docs/reasons.md", 2)


def account(found: Account) -> Iterator[Block]:
    """One connection, and then what its end means."""
    yield Block(" ".join(found.sentences))
    if found.unknown:
        yield _EMPTY
        yield Block(" ".join(found.unknown))
    for each in found.explanations:
        yield _EMPTY
        yield from _word(each)
