"""Has the first bytes of one service's connections decoded."""

from __future__ import annotations

from typing import cast

from monconn.decode import first_bytes
from monconn.log import Logger
from monconn.model.reasons import Direction
from monconn.monitor.interfaces import IConnection, IDecoded
from monconn.monitor.observers import Observers


class Decoders:
    """Decodes the first bytes of connections into facts, and has observers notified of them.

    No failure of a decoder keeps a byte from being passed on.

    :param setting: what is decoded, as :func:`monconn.decode.first_bytes.decoding` takes it.
    :param service: its name, for the log.
    :param observers: are notified of what was ``identified``.
    """

    _log = Logger()

    def __init__(self, setting: str, service: str, observers: Observers) -> None:
        self._service = service
        self._observers = observers
        self.configure(setting)

    def configure(self, setting: str) -> None:
        """Have new connections decoded in another way."""
        self.first = first_bytes.decoding(setting)
        """What new connections are decoded by; None if nothing is."""

    def chunk(self, connection: IDecoded, direction: Direction, data: bytes) -> None:
        """Have a chunk decoded.

        Data paths ask whether the connection has a ``decoding`` first, as there is none after the
        first chunks.

        :param data: was counted, and is not passed on yet.
        """
        record = connection.record
        facts = record.unchanging_facts
        try:
            assert connection.decoding is not None
            connection.decoding = connection.decoding.chunk(record, direction, data)
        except Exception:  # the bytes are passed on, whatever they are
            connection.decoding = None
            self._log.failure("{service}: failed to decode", service=self._service)
        if record.unchanging_facts is not facts and self._observers.by_hook["identified"]:
            self._observers.notify("identified", record)

    def end(self, connection: IConnection) -> None:
        """A connection that has a ``decoding`` is over."""
        decoded = cast(IDecoded, connection)
        decoding, decoded.decoding = decoded.decoding, None
        assert decoding is not None
        try:
            decoding.ended(decoded.record)
        except Exception:  # it ends, whatever its bytes were
            self._log.failure("{service}: failed to decode", service=self._service)
