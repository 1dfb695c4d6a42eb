"""The thread that polls, and the fake that the tests of the screen poll."""

from __future__ import annotations

import subprocess
import sys
from queue import Queue

import pytest

from monconn.faces.control.client import CommandFailed
from monconn.faces.tui.model import Query, Snapshot
from monconn.faces.tui.poller import ActionRequest, ActionResult, Lost, Poller, Refused, Update
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.filters import parse

from .fake import FakeServer

WAIT_SECONDS = 8.0


def test_thread_polls_until_it_is_stopped() -> None:
    updates: Queue[Update] = Queue()
    server = FakeServer()
    poller = Poller(server.client, updates.put, 0.001)
    poller.set_query(Query(limit=3, closed_limit=2))
    poller.start()
    for _ in range(3):
        update = updates.get(timeout=WAIT_SECONDS)
        assert isinstance(update, Snapshot)
        assert [len(update.rows), len(update.closed), update.total] == [3, 2, 8]
    poller.stop()
    poller._thread.join(WAIT_SECONDS)
    assert not poller._thread.is_alive()


def test_new_query_and_action_do_not_wait_for_the_next_poll() -> None:
    updates: Queue[Update] = Queue()
    server = FakeServer()
    poller = Poller(server.client, updates.put, 3600.0)
    poller.set_query(Query(limit=1))
    poller.start()
    assert isinstance(updates.get(timeout=WAIT_SECONDS), Snapshot)
    poller.request(ActionRequest("Block", {"network": "10.0.0.1"}, "block"), server.pid)
    assert updates.get(timeout=WAIT_SECONDS) == ActionResult("done: block")
    assert isinstance(updates.get(timeout=WAIT_SECONDS), Snapshot)
    poller.set_query(Query(details=7))
    update = updates.get(timeout=WAIT_SECONDS)
    assert isinstance(update, Snapshot)
    assert update.details == server.live[7]
    poller.stop()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("ListConnection", {}),
        ("list_services", {}),
        ("Hello", {"version": 1}),  # the client says it
        ("ListConnections", {"filters": "service:web"}),
        ("Block", {"client": "10.0.0.1"}),
    ],
)
def test_fake_rejects_what_a_control_port_would(command: str, arguments: dict[str, object]) -> None:
    server = FakeServer()
    with pytest.raises(CommandFailed):
        server.client().call(command, **arguments)
    assert len(server.unknown) == 1
    assert server.calls == []


def test_errors_become_updates() -> None:
    updates: list[Update] = []
    server = FakeServer()
    poller = Poller(server.client, updates.append, 1.0)
    poller.set_query(Query(limit=1))
    server.gone = True
    poller.poll()
    assert isinstance(updates.pop(), Lost)
    server.gone, server.bad_filter = False, "no"
    poller.set_query(Query(filter=parse("web", CONNECTION_KEYS), limit=1))
    poller.poll()
    assert updates.pop() == Refused("no")
    poller.request(ActionRequest("Blok", {}, "block"), server.pid)
    poller.set_query(None)
    poller.poll()
    assert updates.pop() == ActionResult("not done: block: unknown: Blok", failed=True)


def test_live_view_needs_no_reactor() -> None:
    """It waits for answers in a thread; a reactor would only cost time at the start."""
    code = "import sys, monconn.faces.tui.screen; print('twisted.internet.reactor' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
