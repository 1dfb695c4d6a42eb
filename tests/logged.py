"""The lines that are logged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from zope.interface import provider


@contextmanager
def logged_lines(namespace: str = "") -> Iterator[list[str]]:
    """The lines logged within the block.

    :param namespace: how their namespaces begin, such as ``monconn.manhole``.
    """
    lines: list[str] = []

    @provider(ILogObserver)
    def observer(event: LogEvent) -> None:
        if (event.get("log_namespace") or "").startswith(namespace):
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observer)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(observer)
