"""Names are resolved once for all who ask."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock, patch

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from monconn.addresses import TcpAddress
from monconn.net.resolver import Resolver, SocketAddress

FOUND: Sequence[SocketAddress] = [(socket.AF_INET, ("192.0.2.1", 80))]


def test_one_that_fails_keeps_the_answer_from_nobody(logged_failures: list[Any]) -> None:
    for answer, expected in ((FOUND, FOUND), (OSError("no such name"), "no such name")):
        query: Deferred[Any] = Deferred()
        answers: list[object] = []
        with patch("monconn.net.resolver.deferToThreadPool", return_value=query):
            resolver = Resolver(TcpAddress("backend.example", 80), Mock(), Clock())
            resolver.resolve(
                Mock(side_effect=ZeroDivisionError), Mock(side_effect=ZeroDivisionError)
            )
            resolver.resolve(answers.append, answers.append)
        if isinstance(answer, OSError):
            query.errback(answer)
        else:
            query.callback(answer)
        assert answers == [expected]
    assert len(logged_failures) == 2
    logged_failures.clear()
