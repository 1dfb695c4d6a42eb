"""One-shot commands such as ``ssh host show 42``: a fixed table, and nothing is evaluated."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import attrs

from monconn.errors import AddressError, MonconnError, quoted
from monconn.faces.manhole.operations import Operations

DONE, FAILED, MISUSED = 0, 1, 2
"""Exit statuses."""


@attrs.frozen
class Answer:
    """What a command gives back."""

    status: int
    out: str = ""
    err: str = ""


@attrs.frozen
class Verb:
    """A word, what may follow it, and what it does."""

    usage: str
    help: str
    run: Callable[[Operations, list[str]], list[str]]


class Misuse(Exception):
    """Words that a verb cannot take; the text says why."""


def run(line: str, operations: Operations) -> Answer:
    """Do what a line of words asks for."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        return Answer(MISUSED, err=f"{quoted(line)}: {error}\n".lower())
    if not words or words[0] not in VERBS:
        what = f"there is no command {quoted(words[0])}" if words else "no command"
        return Answer(MISUSED, err=f"{what}; try: help\n")
    verb = VERBS[words[0]]
    try:
        return Answer(DONE, out=_text(verb.run(operations, words[1:])))
    except (Misuse, AddressError) as error:
        problem = f"{error}; " if str(error) else ""
        return Answer(MISUSED, err=f"{problem}usage: {verb.usage}\n")
    except MonconnError as error:
        return Answer(FAILED, err=f"{error}\n")


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _list(operations: Operations, words: list[str]) -> list[str]:
    return operations.connections(_one_or_none(words))


def _stats(operations: Operations, words: list[str]) -> list[str]:
    return operations.stats(_one_or_none(words))


def _show(operations: Operations, words: list[str]) -> list[str]:
    return operations.show(_id(_one(words)))


def _close(operations: Operations, words: list[str]) -> list[str]:
    rest = [word for word in words if word != "--reset"]
    return operations.close(_id(_one(rest)), reset="--reset" in words)


def _block(operations: Operations, words: list[str]) -> list[str]:
    return operations.block(_one(words))


def _unblock(operations: Operations, words: list[str]) -> list[str]:
    return operations.unblock(_one(words))


def _blocks(operations: Operations, words: list[str]) -> list[str]:
    _none(words)
    return operations.blocks()


def _help(operations: Operations, words: list[str]) -> list[str]:
    _none(words)
    width = max(len(verb.usage) for verb in VERBS.values())
    return [f"{verb.usage:<{width}}  {verb.help}" for verb in VERBS.values()]


def _none(words: list[str]) -> None:
    if words:
        raise Misuse(f"{quoted(words[0])} is too much")


def _one(words: list[str]) -> str:
    if not words:
        raise Misuse("something is missing")
    _none(words[1:])
    return words[0]


def _one_or_none(words: list[str]) -> str | None:
    return _one(words) if words else None


def _id(word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", word):
        raise Misuse(f"{quoted(word)} is no connection's id")
    return int(word)


VERBS = {
    "list": Verb("list [SERVICE]", "the live connections", _list),
    "stats": Verb("stats [SERVICE]", "each service in figures", _stats),
    "show": Verb("show ID", "all that is known of a connection", _show),
    "close": Verb("close ID [--reset]", "end a connection, or reset it", _close),
    "block": Verb("block NET", "refuse an IP or a network, and end its connections", _block),
    "unblock": Verb("unblock NET", "let exactly this IP or network in again", _unblock),
    "blocks": Verb("blocks", "what is blocked", _blocks),
    "help": Verb("help", "this list", _help),
}
