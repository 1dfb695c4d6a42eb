"""The live connections of one service, and work that concerns many of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from twisted.internet.defer import CancelledError, Deferred

from monconn.clock import Clock
from monconn.log import Logger
from monconn.monitor.interfaces import IConnection
from monconn.turns import in_turns


class LiveConnections:
    """The live connections of a service, by id and counted by client IP.

    The monitor puts them in and takes them out.

    :param service: its name, for the log.
    :param clock: monotonic time and timers.
    """

    _log = Logger()

    def __init__(self, service: str, clock: Clock) -> None:
        self.service = service
        self._clock = clock
        self.by_id: dict[int, IConnection] = {}
        """Oldest first."""
        self.by_ip: dict[str, int] = {}
        """How many each client IP has; only IPs that have any."""

    def in_turns(
        self,
        act: Callable[[IConnection], object],
        problem: str,
        connections: Iterable[IConnection] | None = None,
    ) -> Deferred[None]:
        """Do something to many connections, in as many turns of the loop as that takes.

        One that is not live any more when its turn comes is left out, and one failure keeps it
        from no other.

        :param act: is called with each.
        :param problem: what could not be done, for the log: ``failed to end``.
        :param connections: which ones; all that live now if left out.
        :returns: fires once it is done, or is cancelled, which leaves the rest alone.
        """
        chosen = tuple(self.by_id.values() if connections is None else connections)
        done = in_turns(self._clock, self._each(chosen, act, problem))
        return done.addErrback(lambda failure: failure.trap(CancelledError) and None)

    def _each(
        self,
        connections: Iterable[IConnection],
        act: Callable[[IConnection], object],
        problem: str,
    ) -> Iterator[None]:
        for connection in connections:
            if connection.record.id not in self.by_id:
                continue
            try:
                act(connection)
            except Exception:
                self._log.failure(
                    "{service}: {problem} connection {id}",
                    service=self.service,
                    problem=problem,
                    id=connection.record.id,
                )
            yield
