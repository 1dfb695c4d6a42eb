"""The client of the control port, against an older server and one that goes away."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from monconn.errors import ControlError
from monconn.faces.control.client import Client, NoServer
from tests.faces.control.conftest import Port, with_port


@with_port
def test_filters_and_dry_runs_are_not_sent_to_a_server_that_ignores_them(port: Port) -> None:
    web = port.monitor("web")
    (made,) = port.connections(web, "192.0.2.1")
    client = port.client()
    del client.hello["filters"]  # as of a monconn that did not have them
    with pytest.raises(ControlError, match=r"^monconn .* runs, which is too old for dry_run"):
        client.call("CloseConnections", service="web", dry_run=True)
    with pytest.raises(ControlError, match="too old for filter"):
        list(client.rows("ListConnections", filter="up:1.."))
    del client.hello["sorts"]
    with pytest.raises(ControlError, match="too old for sort"):
        client.call("ListHistory", sort="up")
    assert made.record.reason is None
    assert len(list(client.rows("ListConnections", service="web", filter=None))) == 1
    assert client.call("CloseConnections", service="web", dry_run=False)["closed"] == "1"


@with_port
def test_events_end_with_a_message_that_says_so_once(port: Port) -> None:
    class Abandoned(Client):
        """A client whose connection ends as soon as it has subscribed."""

        def call(self, command: str, **arguments: Any) -> dict[str, str]:
            answer = super().call(command, **arguments)
            if command == "Subscribe":
                self._sock.shutdown(socket.SHUT_RDWR)
            return answer

    with Abandoned(port.where) as client, pytest.raises(NoServer) as caught:
        next(client.events())
    assert str(caught.value) == f"{port.where} sends no more events: it has closed the connection"
