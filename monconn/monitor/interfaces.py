"""What the parts of the house are to each other."""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import Attribute, Interface, implementer

from monconn.model.alarms import Alarm
from monconn.model.reasons import Direction, Reason
from monconn.model.record import ConnectionRecord
from monconn.monitor.watchers import Watch


class IConnection(Interface):
    """One live connection, as a monitor holds it."""

    record: ConnectionRecord = Attribute("what is known of it")

    def end(reason: Reason, reset: bool = False) -> None:
        """End it for a reason of ours.

        :param reset: at once, by a reset, dropping what is under way; else what we hold is
            delivered first, and both sides get an ordinary end.
        """

    def measure() -> None:
        """Put what the system knows of its sockets now into the record."""


class IWatchable(Interface):
    """A connection whose payload can be watched alone, at no cost to any other connection."""

    def add_watcher(call: Watch) -> Callable[[], None]:
        """Show every chunk of its payload, from now on.

        :param call: called with the direction and the bytes, as they are read from their sender.
        :returns: cancels that; harmless the second time.
        """


class IObserver(Interface):
    """Who is told what happens to connections.

    An observer must not keep its caller waiting; one that raises is switched off.
    """

    watches_payload: bool = Attribute("whether to call ``data``; asked when it is added")

    def opened(record: ConnectionRecord) -> None:
        """A client was admitted."""

    def refused(record: ConnectionRecord) -> None:
        """A client was not let in; the record says why."""

    def data(record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """Bytes were taken from their sender."""

    def closed(record: ConnectionRecord) -> None:
        """A connection is over; the record is complete."""

    def alarmed(alarm: Alarm) -> None:
        """A device behaves as it should not, or does so no longer."""


@implementer(IObserver)
class Observer:
    """An observer that heeds nothing: override what you want to hear of."""

    watches_payload = False

    def opened(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.opened`."""

    def refused(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.refused`."""

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """See :meth:`IObserver.data`."""

    def closed(self, record: ConnectionRecord) -> None:
        """See :meth:`IObserver.closed`."""

    def alarmed(self, alarm: Alarm) -> None:
        """See :meth:`IObserver.alarmed`."""
