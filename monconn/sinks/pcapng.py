"""Flow events as a pcapng file: made-up TCP segments around real bytes, for Wireshark and others."""

from __future__ import annotations

from monconn.model.flow import FlowEvent


class PcapngEncoder:
    """Makes a pcapng file of flow events; a :class:`~monconn.model.flow.FlowEncoder`.

    One encoder is one file. To go on in another one in mid-connection, make a new encoder and feed
    it first with what :meth:`under_way` of the old one returns::

        new = PcapngEncoder()
        head = new.start() + b"".join(map(new.encode, old.under_way(time.time())))
    """

    def start(self) -> bytes:
        """The section header."""
        return b""

    def encode(self, event: FlowEvent) -> bytes:
        """The blocks that an event adds; maybe none. It never fails, and never blocks."""
        return b""

    def under_way(self, at: float) -> list[FlowEvent]:
        """The connections that have begun and not ended, as events for the next file's encoder.

        :param at: wall-clock seconds: when the next file begins.
        """
        return []
