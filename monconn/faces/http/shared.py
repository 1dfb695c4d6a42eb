"""What the clients of the HTTP API share: one tick, one answer, one ring of events for all."""

from __future__ import annotations

from monconn.faces.http.answers import SharedAnswers
from monconn.faces.http.live import Live
from monconn.faces.http.walks import Walks
from monconn.ops.operations import Operations


class Shared:
    """What requests leave for other requests; one for each server.

    :param operations: what is asked for.
    """

    def __init__(self, operations: Operations) -> None:
        self.live = Live(operations)
        self.answers = SharedAnswers(operations.clock)
        self.walks = Walks(operations.clock)
