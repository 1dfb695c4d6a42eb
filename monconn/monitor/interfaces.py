"""The interfaces of connections and of observers."""

from __future__ import annotations

from collections.abc import Callable

from zope.interface import Attribute, Interface, implementer

from monconn.decode.interfaces import Decoding
from monconn.model.actions import Action
from monconn.model.alarms import Alarm
from monconn.model.reasons import Direction, Reason, Refusal, Side
from monconn.model.record import ConnectionRecord
from monconn.monitor.recorder import Recording
from monconn.monitor.watchers import Watch


class IConnection(Interface):
    """One live connection, as a monitor holds it."""

    record: ConnectionRecord = Attribute("what is known of the connection")

    def end(reason: Reason, reset: bool = False) -> None:
        """End the connection, for a reason on our side (a limit, the operator).

        :param reset: end it at once by a TCP reset, and discard what is under way; else what we
            hold is delivered first, and both sides get an ordinary end.
        """

    def measure() -> None:
        """Update the record from what the kernel knows of the sockets (``TCP_INFO``)."""

    def policy_changed() -> None:
        """The monitor's time limits, keepalive or bandwidths were replaced: apply them.

        Called for each live connection; must not end the connection before it returns.
        """


class IWatchable(Interface):
    """A connection whose payload can be watched alone, at no cost to any other connection."""

    def add_watcher(call: Watch) -> Callable[[], None]:
        """Report every chunk of its payload from now on.

        :param call: called with the direction and the bytes, as they are read from their sender.
        :returns: cancels that; harmless the second time.
        """


class IPausable(Interface):
    """A connection that can be held: nothing is read from either side."""

    def pause() -> None:
        """Read nothing any more; harmless the second time."""

    def unpause() -> None:
        """Read again what nothing else keeps from being read; harmless the second time."""


class IRecordable(Interface):
    """A connection whose first and last bytes can be recorded, at no cost to others."""

    def record_payload(recording: Recording) -> None:
        """Record every chunk from now on; called as it opens, before the first one."""


class IDecoded(IConnection):
    """A connection whose bytes are decoded into facts.

    Its data path calls ``Monitor.decode`` with each chunk, before it is passed on, while there is
    something to decode.
    """

    decoding: Decoding | None = Attribute("what decodes its next chunk; None if nothing does")


class IAddressed(Interface):
    """A connection that can say which addresses its sockets have."""

    def ask_addresses() -> None:
        """Complete the addresses of its sockets in the record (``getsockname``)."""


class IObserver(Interface):
    """Is notified of what happens to connections.

    Observers run in the reactor's thread, in the path of the data: one must return quickly. One
    that raises is logged and switched off.

    All are notified in the order in which things happen, over all services. What an observer does
    about an event (it may close connections, block clients, change the policy) is an event that
    follows: every observer is notified of the earlier one first. So a method never runs within
    another one; and by then the record may say more than at the time of the event.
    """

    watches_payload: bool = Attribute("whether to call ``data``; read when the observer is added")

    def opened(record: ConnectionRecord) -> None:
        """A client was admitted."""

    def refused(record: ConnectionRecord) -> None:
        """A client was refused; ``record.refusal`` says why."""

    def data(record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """Bytes were read from their sender, and are not delivered yet.

        :param direction: ``up`` from the client, ``down`` from the backend.
        """

    def closed(record: ConnectionRecord) -> None:
        """A connection has ended; the record is complete."""

    def alarmed(alarm: Alarm) -> None:
        """A device behaves abnormally, or does so no longer."""


class IActionObserver(Interface):
    """An optional hook of observers, besides the methods of :class:`IObserver`."""

    def acted(action: Action) -> None:
        """Connections were closed, or a service was changed, by an actor.

        Called once for each action, however many of the observed services it concerned.
        """


class IBackendConnectedObserver(Interface):
    """An optional hook of observers, besides the methods of :class:`IObserver`."""

    def backend_connected(record: ConnectionRecord) -> None:
        """The forwarder is connected to the backend; ``record.connect_seconds`` says how soon.

        Never called for wrapped factories, and not if the dial fails: then the connection ends.
        """


class IHalfCloseObserver(Interface):
    """An optional hook of observers, besides the methods of :class:`IObserver`."""

    def half_closed(record: ConnectionRecord, side: Side) -> None:
        """One side has ended in order (FIN), and the other has not: bytes may go on the other way.

        Called once for a connection, for the first side, and not if the connection is being closed
        already.
        """


class IIdentifiedObserver(Interface):
    """An optional hook of observers, besides the methods of :class:`IObserver`."""

    def identified(record: ConnectionRecord) -> None:
        """The connection's bytes have told more of it: ``record.facts`` have changed.

        Called once for each chunk that told something, after ``opened`` and before ``closed``; not
        for facts that observers or other code set.
        """


class IDryRunObserver(Interface):
    """An optional hook of observers, besides the methods of :class:`IObserver`."""

    def would_refuse(record: ConnectionRecord, refusals: tuple[Refusal, ...]) -> None:
        """Rules in ``dry_run`` would have refused a client.

        Called before ``opened``, or ``refused`` if another rule refuses it; after a TLS handshake
        once more, if other rules would refuse it by then.

        :param refusals: why; ``record.would_refuse`` has all so far.
        """


class IAddressObserver(Interface):
    """An optional attribute of observers, besides those of :class:`IObserver`."""

    wants_addresses: bool = Attribute(
        "whether each record is to say which addresses its sockets have, which costs up to three"
        " system calls for each connection; read when the observer is added"
    )


@implementer(
    IObserver,
    IActionObserver,
    IBackendConnectedObserver,
    IHalfCloseObserver,
    IIdentifiedObserver,
    IDryRunObserver,
    IAddressObserver,
)
class Observer:
    """An observer that ignores everything: override the hooks that you need.

    Hooks that are not overridden are never called, and cost nothing.
    """

    watches_payload = False
    wants_addresses = False

    def opened(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    def refused(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    def backend_connected(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    def data(self, record: ConnectionRecord, direction: Direction, data: bytes) -> None:
        """Does nothing."""

    def half_closed(self, record: ConnectionRecord, side: Side) -> None:
        """Does nothing."""

    def identified(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    def would_refuse(self, record: ConnectionRecord, refusals: tuple[Refusal, ...]) -> None:
        """Does nothing."""

    def closed(self, record: ConnectionRecord) -> None:
        """Does nothing."""

    def alarmed(self, alarm: Alarm) -> None:
        """Does nothing."""

    def acted(self, action: Action) -> None:
        """Does nothing."""
