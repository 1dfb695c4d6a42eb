"""What the command writes: to whatever terminal, pipe or file, and whatever is in the values."""

from __future__ import annotations

import codecs
import csv
import errno
import io
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from monconn.errors import MonconnError, os_error_text, printable
from monconn.faces.control.client import BadAnswer
from monconn.ops.columns import Row

_MESSAGE_CHARACTERS = 1_000
_MOST_MESSAGE_CHARACTERS = 4_000
"""Of an error of ours, which may have several lines. An argument alone may have 128 KiB."""
_CHUNK_CHARACTERS = 64 * 1024
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How cells begin that spreadsheets evaluate (OWASP, *CSV Injection*)."""


_OUTPUT_FAILED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF)
"""What a write to the standard output fails with, but for EPIPE; nothing else that a verb does
raises these, or they are errors of ours by then."""
_PLAIN = str.maketrans(
    {
        **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
        **dict.fromkeys("▏▎▍▌▋▊▉", "|"),
        **{"─": "-", "→": "->", "±": "+-", "×": "x", "…": "..."},
    }
)
"""Our own lines, bars and signs in ASCII, for terminals that have no others."""
_ESCAPING = "monconn.plain"


class Program(click.Group):
    """The command, whose messages are printable and whose output may be anything.

    A terminal or a pipe that cannot show a character is given an escape. Output that nobody reads
    any more ends the command, quietly and with exit status 1; a full disk or a closed output does
    so with an error.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as click does."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors=_ESCAPING)
        try:
            return super().main(*args, **kwargs)
        except OSError as error:
            if error.errno not in _OUTPUT_FAILED:
                raise
            _drop_output()
            print_error(f"cannot write the output: {os_error_text(error)}")
            sys.exit(1)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line; an error that repeats an argument is printable."""
        with _printable_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb; the same holds for its errors."""
        with _printable_errors():
            return super().invoke(ctx)


@contextmanager
def _printable_errors() -> Iterator[None]:
    try:
        yield
    except click.ClickException as error:
        text = error.message
        if len(text) > _MESSAGE_CHARACTERS:
            text = text[: _MESSAGE_CHARACTERS - 1] + "…"
        error.message = printable(text)  # type: ignore[misc]
        raise


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "backslashreplace").decode(), error.end


codecs.register_error(_ESCAPING, _plain)


def _drop_output() -> None:
    """Have what is still buffered go nowhere: Python would try to write it at exit, and fail."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        pass


# -- lines


def print_text(text: str) -> None:
    """Print text that is printable, and has its own line ends."""
    # Not by click.echo: to a terminal that says it has only ASCII, it writes UTF-8.
    if sys.stdout is None:  # the program was started without one
        raise OSError(errno.EBADF, "the standard output is closed")
    sys.stdout.write(text)
    sys.stdout.flush()


def print_line(text: str) -> None:
    """Print one line, whatever the text."""
    print_text(f"{printable(text)}\n")


def print_error(text: object) -> None:
    """Print one line to standard error; an error of ours may have several."""
    shown = str(text) if isinstance(text, MonconnError) else printable(text)
    if len(shown) > _MOST_MESSAGE_CHARACTERS:
        shown = shown[: _MOST_MESSAGE_CHARACTERS - 1] + "…"
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"monconn: {shown}\n")
            sys.stderr.flush()
    except OSError:
        pass  # there is no other place to say it


def terminal_width() -> int | None:
    """How many characters a line of the standard output has; None if that is no terminal."""
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    return shutil.get_terminal_size().columns if is_terminal else None


# -- values for programs


def print_json(value: Any) -> None:
    """Print a value for programs, on a line of its own."""
    print_text(f"{_json(value)}\n")


def _json(value: Any) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        raise BadAnswer("the server's answer is nested too deep to be printed") from None
    if text.isascii() and text.isprintable():
        return text
    # What must not reach a terminal, or cannot be shown, is an escape of JSON's, as is half of a
    # surrogate pair, of a path that is no UTF-8.
    try:
        shown = "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
        shown.encode(getattr(sys.stdout, "encoding", None) or "ascii")
    except UnicodeEncodeError:
        shown = json.dumps(value)
    return shown.replace("\x7f", "\\u007f")  # DEL, which JSON allows raw


def print_rows(row_class: type[Row], rows: Iterable[Any], as_json: bool) -> int:
    """Print rows as JSON, or as a table of the class' columns, as wide as a terminal at most.

    :param rows: rows, or their JSON. For JSON, each is printed as it comes.
    :returns: how many there are.
    """
    if as_json:
        return _print_json_rows(rows)
    rows = list(rows)
    if not rows:
        print_line("none")
    else:
        from monconn.faces.cli import render

        width = terminal_width()
        coloured = width is not None and not os.environ.get("NO_COLOR")
        print_text(render.table(row_class.columns(), rows, width=width, coloured=coloured))
    return len(rows)


def _print_json_rows(rows: Iterable[Any]) -> int:
    count = 0

    def pieces() -> Iterator[str]:
        nonlocal count
        for row in rows:
            yield f"{', ' if count else '['}{_json(row.to_json() if isinstance(row, Row) else row)}"
            count += 1
        yield "]\n" if count else "[]\n"

    _print_pieces(pieces())
    return count


def print_csv(columns: Iterable[str], rows: Iterable[dict[str, Any]]) -> int:
    """Print rows as CSV, each as it comes: in UTF-8, whatever the terminal can show.

    A cell of text that a spreadsheet would take for a formula begins with an apostrophe; numbers
    stay numbers. Control characters are escapes, as in a table.

    :param columns: the keys of the rows that are printed; others are left out.
    :returns: how many rows there are.
    """
    count = 0

    def pieces() -> Iterator[str]:
        nonlocal count
        names = list(columns)
        yield _csv_line(names)
        for row in rows:
            yield _csv_line([csv_cell(row.get(name)) for name in names])
            count += 1

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    _print_pieces(pieces())
    return count


def _csv_line(cells: list[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


def csv_cell(value: Any) -> Any:
    """A value as a cell of CSV: a number or None as it is, any other as text."""
    if value is None or isinstance(value, (int, float)):
        return value
    text = str(value)
    return printable(f"'{text}" if text.startswith(_FORMULA) else text)


def _print_pieces(pieces: Iterator[str]) -> None:
    """Print text in chunks; if its making fails, what was made before is printed as well."""
    chunk: list[str] = []
    size = 0
    try:
        for piece in pieces:
            chunk.append(piece)
            size += len(piece)
            if size >= _CHUNK_CHARACTERS:
                print_text("".join(chunk))
                chunk, size = [], 0
    finally:
        if chunk:
            print_text("".join(chunk))


@contextmanager
def understood(source: str) -> Iterator[None]:
    """Report values that cannot be shown as the fault of their source: it need not be monconn's.

    :param source: the server's address, or the file.
    :raises BadAnswer: a value has another type, form or size than it should have, or is missing.
    """
    try:
        yield
    except MonconnError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"[:_MESSAGE_CHARACTERS]
        raise BadAnswer(f"what {source} says cannot be understood ({what})") from error
    except RecursionError:
        raise BadAnswer(f"what {source} says is nested too deep") from None
