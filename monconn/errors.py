"""Errors that a user can correct, and helpers for texts in messages."""

from __future__ import annotations

from collections.abc import Sequence

import attrs


class MonconnError(Exception):
    """An error that a user can correct; its text is the whole message, for people.

    It may name paths, arguments or what a peer has said, and ends on a terminal or in a log: as
    text, it is :func:`printable`, and so a single line.
    """

    def __str__(self) -> str:
        return printable(Exception.__str__(self))  # KeyError's own would put it in quotes


class AddressError(MonconnError, ValueError):
    """An address, a network or an endpoint string that cannot be parsed."""


class UnitError(MonconnError, ValueError):
    """A duration or a size that cannot be parsed."""


@attrs.frozen
class Problem:
    """One thing that is wrong in a configuration.

    :param source: the file's path, or ``-p`` for the command line.
    :param line: counted from 1; None for a problem of the whole file.
    :param path: the path of the key, such as ``services.web.listen``; may be empty.
    :param message: what is wrong and what to do.
    """

    source: str
    line: int | None
    path: str
    message: str

    def __str__(self) -> str:
        place = self.source if self.line is None else f"{self.source}:{self.line}"
        return printable(": ".join(part for part in (place, self.path, self.message) if part))


_SHOWN_PROBLEMS = 100


class ConfigError(MonconnError):
    """A configuration with problems; nothing of it is used.

    :param problems: all of them, in the order of their lines; the message has the first of many.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        lines = [str(each) for each in problems[:_SHOWN_PROBLEMS]]
        if len(problems) > _SHOWN_PROBLEMS:
            lines.append(f"and {len(problems) - _SHOWN_PROBLEMS} more problems")
        super().__init__("\n".join(lines))
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return printable_lines(Exception.__str__(self))


@attrs.frozen
class Remark:
    """What no start fails with, and whoever starts it may want to know.

    :param message: in one sentence.
    :param is_warning: whether something will not work as it should; else it is only a note.
    :param key: the key of its section in a configuration, if it is not about where it listens.
    """

    message: str
    is_warning: bool = True
    key: str = ""


class SettingError(MonconnError, ValueError):
    """A setting that Python code gives has a value that is not valid."""


class SettingTypeError(SettingError, TypeError):
    """A setting, or an argument, of the wrong type."""


class ListenError(MonconnError):
    """A listener that could not be opened.

    :param key: the key of its section in a configuration that it is about.
    :param service: the service that it is of, if that is known.
    """

    def __init__(self, message: str, key: str = "listen", service: str = "") -> None:
        super().__init__(message)
        self.key = key
        self.service = service


class FileError(MonconnError):
    """A file that cannot be opened, read or created."""


class Busy(FileError):
    """A file of which too much is asked at a time: a second later it may be read."""


class QuestionError(MonconnError, ValueError):
    """A query with arguments that are not valid."""


class Conflict(QuestionError):
    """What is asked for would be valid, and is not possible in the present state."""


class NotConfigured(MonconnError):
    """A query or an action needs a part that is not configured."""


class Forbidden(MonconnError):
    """The configuration forbids it, as ``payload: never`` does."""


class ReloadError(MonconnError):
    """A configuration that cannot be applied at this moment, though the file is a valid one."""


class ObserverError(MonconnError):
    """A custom observer that cannot be made."""


class ControlError(MonconnError):
    """A control port that cannot be opened or reached."""


class UnknownService(MonconnError, KeyError):
    """No service has this name."""


class DuplicateService(MonconnError):
    """A service with this name exists already."""


class UnknownConnection(MonconnError, KeyError):
    """No live connection has this id."""


class UnknownDevice(MonconnError):
    """No device has this name, or more than one is meant."""


class UnknownCapture(MonconnError):
    """No capture of this number runs."""


def os_error_text(error: BaseException | None) -> str:
    """The operating system's text for an error, to be put after a colon: so it begins small.

    :param error: an ``OSError``, or any other exception, whose text is used instead: name
        resolution, SQLite and TLS raise classes of their own in the same places. (None only
        because a Twisted ``Failure`` is typed so.)
    """
    text = str(getattr(error, "strerror", None) or str(error) or type(error).__name__.lower())
    # What follows may be a path; and an abbreviation stays one.
    return printable(text if text[1:2].isupper() else text[:1].lower() + text[1:])


def printable(value: object) -> str:
    """A value as one line of text that a terminal, a log or a table can be given.

    What ``str.isprintable`` does not know as printable (Unicode's categories Other and Separator,
    but for the space) is written as an escape of Python's, such as ``\\x1b``, ``\\n`` or
    ``\\u202e``: control characters, C1 included, which a terminal obeys; line and paragraph
    separators, which forge a line; marks of direction, and characters without width, which have a
    text read as another one; halves of surrogate pairs, which cannot be encoded, and what is
    private or unassigned, whose look and width nobody knows. So a text that was printable once
    stays as it is.

    :param value: None is an empty text.
    """
    text = "" if value is None else str(value)
    return text if text.isprintable() else "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    return character.encode("unicode_escape").decode("ascii")


def printable_lines(text: str) -> str:
    """A text of several lines, each of them :func:`printable`.

    Only for texts whose line ends are ours: within a value, they would forge a line.
    """
    if text.isprintable():
        return text
    return "\n".join(map(printable, text.split("\n")))


_QUOTED_CHARACTERS = 80


def quoted(text: str) -> str:
    """A text from outside, for use in a message: in quotes, printable and shortened."""
    if len(text) > _QUOTED_CHARACTERS:
        text = text[: _QUOTED_CHARACTERS - 1] + "…"
    return f'"{text}"' if text.isprintable() else repr(text)
