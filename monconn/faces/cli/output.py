"""What the command writes: to whatever terminal, pipe or file, and whatever is in the values."""

from __future__ import annotations

import codecs
import csv
import errno
import functools
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import attrs
import click

from monconn.errors import MonconnError, os_error_text, printable
from monconn.faces.control.client import BadAnswer
from monconn.ops.columns import Column, Row, format_value

_MESSAGE_CHARACTERS = 1_000
_MOST_MESSAGE_CHARACTERS = 4_000
"""Of an error of ours, which may have several lines. An argument alone may have 128 KiB."""
_CHUNK_CHARACTERS = 64 * 1024
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How cells begin that spreadsheets evaluate (OWASP, *CSV Injection*)."""
_CSV_DECIMALS = 6
_ENDED_NORMALLY = "--"
"""The code of most connections; two signs without an operand are a text to every spreadsheet."""

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
            return self._main(*args, **kwargs)
        except OSError as error:
            if error.errno not in _OUTPUT_FAILED:
                raise
            _drop_output()
            print_error(f"cannot write the output: {os_error_text(error)}")
            sys.exit(1)

    def _main(self, *args: Any, **kwargs: Any) -> Any:
        """Run as click does; but to a terminal that says it has only ASCII, click would write its
        errors in UTF-8, unless it is given the stream."""
        is_standalone = kwargs.pop("standalone_mode", True)
        run: Callable[..., Any] = functools.partial(super().main, standalone_mode=False)
        if not is_standalone:
            return run(*args, **kwargs)
        try:
            status = run(*args, **kwargs)
        except click.ClickException as error:
            error.show(file=sys.stderr)
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)

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
        # The help of a group, whose lines are our own; click has this since 8.2.
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
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


def print_note(text: str) -> None:
    """Print a line to standard error that is no error; harmless if it is lost."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()
    except OSError:
        pass


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


@attrs.frozen
class Look:
    """How rows are printed.

    :param columns: those that were asked for, which never leave; None for the usual ones.
    :param is_wide: all of them, however wide a terminal is.
    :param form: JSON and CSV are for programs.
    """

    columns: tuple[Column, ...] | None = None
    is_wide: bool = False
    form: Literal["table", "json", "csv"] = "table"


USUAL_LOOK = Look()


def print_rows(
    row_class: type[Row], rows: Iterable[Any], as_json: bool = False, look: Look = USUAL_LOOK
) -> int:
    """Print rows as a table of the class' columns, as wide as a terminal at most, JSON or CSV.

    A table begins with its titles, even if there are no rows, so that what reads it can rely on
    that.

    :param rows: rows, or their JSON. For JSON and CSV, each is printed as it comes.
    :param as_json: short for a look.
    :returns: how many there are.
    """
    if as_json or look.form == "json":
        return _print_json_rows(rows, look.columns)
    if look.form == "csv":
        return _print_csv_rows(row_class, rows, look.columns)
    from monconn.faces.cli import render

    rows = list(rows)
    width = terminal_width()
    columns = row_class.columns()
    if look.columns is not None:
        columns = tuple(attrs.evolve(each, importance=0) for each in look.columns)
    print_text(
        render.table(columns, rows, width=None if look.is_wide else width, coloured=has_colours())
    )
    if not rows and width is not None:  # nobody who reads a pipe wants it
        print_note("none")
    return len(rows)


def has_colours() -> bool:
    """Whether the standard output is a terminal that shows colours, and they are wanted.

    ``NO_COLOR`` is https://no-color.org; a terminal that calls itself dumb has none.
    """
    is_terminal = terminal_width() is not None
    return is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _print_json_rows(rows: Iterable[Any], columns: Sequence[Column] | None) -> int:
    count = 0

    def pieces() -> Iterator[str]:
        nonlocal count
        for row in rows:
            value = row.to_json() if isinstance(row, Row) else row
            if columns is not None:
                value = {column.name: column.raw(row) for column in columns}
            yield f"{', ' if count else '['}{_json(value)}"
            count += 1
        yield "]\n" if count else "[]\n"

    _print_pieces(pieces())
    return count


def _print_csv_rows(
    row_class: type[Row], rows: Iterable[Any], columns: Sequence[Column] | None
) -> int:
    """Print rows as CSV: always the same columns, whatever more a newer server sends."""
    if columns is None:
        columns = row_class.csv_columns()

    def cells(row: Any) -> dict[str, Any]:
        return {column.name: _csv_value(column, column.raw(row)) for column in columns}

    return print_csv((column.name for column in columns), map(cells, rows))


def _csv_value(column: Column, value: Any) -> Any:
    if value is not None and column.unit in ("list", "object"):
        return format_value(value, column.unit) if value else ""
    return value


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
    """A value as a cell of CSV: a number or None as it is, any other as text.

    Of seconds, six decimals: the clock has no more, and the rest of the digits of a float is what
    subtracting two moments leaves.
    """
    if isinstance(value, float):
        return round(value, _CSV_DECIMALS)
    if value is None or isinstance(value, (int, float)):
        return value
    text = str(value)
    is_formula = text.startswith(_FORMULA) and text != _ENDED_NORMALLY
    return printable(f"'{text}" if is_formula else text)


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
