"""What can go wrong by somebody's hand, told in words meant for people."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


class MonconnError(Exception):
    """Something that a person can put right; its text is the whole message."""


class AddressError(MonconnError, ValueError):
    """An address, a network or an endpoint string that cannot be understood."""


class UnitError(MonconnError, ValueError):
    """A duration or a size that cannot be understood."""


@attrs.frozen
class Problem:
    """One thing that is wrong in a configuration.

    :param source: the file's path, or ``-p`` for the command line.
    :param line: counted from 1; None where no line is to blame.
    :param path: the key's path, such as ``services.web.listen``; may be empty.
    :param message: what is wrong and what to do.
    """

    source: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return ": ".join(part for part in (place, self.path, self.message) if part)


class ConfigError(MonconnError):
    """A configuration with problems; nothing of it is used.

    :param problems: all of them, in the order of their lines.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = tuple(problems)


class SettingError(MonconnError, ValueError):
    """A setting that Python code gives has a value that is not valid."""


class SettingTypeError(SettingError, TypeError):
    """A setting, or an argument, of the wrong type."""


class ListenError(MonconnError):
    """A listener that could not be opened."""


class FileError(MonconnError):
    """A file that was asked for and cannot be had."""


class QuestionError(MonconnError, ValueError):
    """Something is asked for that cannot be."""


class NotConfigured(MonconnError):
    """Something is asked of a part that this program runs without."""


class ObserverError(MonconnError):
    """An observer of somebody's own that cannot be made."""


class ControlError(MonconnError):
    """A control port that cannot be had, or that nobody answers at."""


class UnknownService(MonconnError, KeyError):
    """No service has this name."""

    __str__ = Exception.__str__


class DuplicateService(MonconnError):
    """A service with this name exists already."""


class UnknownConnection(MonconnError, KeyError):
    """No live connection has this id."""

    __str__ = Exception.__str__


def printable(value: object) -> str:
    """A text that cannot do anything to a terminal."""
    text = "" if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else "�" for each in text)


_SHOWN_CHARACTERS = 80


def quoted(text: str) -> str:
    """Somebody's text as it may stand in a message: quoted, printable and not too long."""
    if len(text) > _SHOWN_CHARACTERS:
        text = text[: _SHOWN_CHARACTERS - 1] + "…"
    return f'"{text}"' if text.isprintable() else repr(text)
