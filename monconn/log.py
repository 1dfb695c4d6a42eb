"""The logger of every module: what values say reaches no log raw."""

from __future__ import annotations

import twisted.logger
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from monconn.errors import printable, printable_lines


class Logger(twisted.logger.Logger):
    """Twisted's logger, by which texts among the values of a line are ``printable`` (``errors``).

    Paths, names and peers' words may hold control characters, marks of direction and line ends.
    The ``monconn`` command escapes whatever is logged, but under ``twistd`` the observers are
    Twisted's, which write texts as they are: so it is done at the source.
    """

    def emit(self, level: LogLevel, format: str | None = None, **kwargs: object) -> None:
        """Log a line, as Twisted's does.

        :param kwargs: the values: texts, numbers and exceptions; others are left as they are.
        """
        for key, value in kwargs.items():
            if isinstance(value, str) and not value.isprintable():
                kwargs[key] = printable(value)
            elif isinstance(value, Failure):
                kwargs[key] = _PrintableFailure(value)
            elif isinstance(value, BaseException):  # its text may name a path
                kwargs[key] = printable(value)
        super().emit(level, format, **kwargs)


class _PrintableFailure(Failure):
    """A failure whose traceback has nothing but printable characters."""

    def getTraceback(self, *args: object, **kwargs: object) -> str:
        """Implements ``Failure.getTraceback``."""
        return printable_lines(super().getTraceback(*args, **kwargs))  # type: ignore[arg-type]
