"""The thread that polls, and the fake that the tests of the screen poll."""

from __future__ import annotations

import subprocess
import sys
from queue import Queue

import pytest

from monconn.faces.control.client import CommandFailed
from monconn.faces.tui.charts import Chart, bars
from monconn.faces.tui.model import Query, Snapshot
from monconn.faces.tui.poller import ActionRequest, ActionResult, Lost, Poller, Refused, Update
from monconn.ops.filter_keys import CONNECTION_KEYS
from monconn.ops.filters import parse

from .fake import FakeServer, connection

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
    for_an_hour = ActionRequest("Block", {"network": "10.0.0.1", "for_seconds": 3600}, "block")
    poller.request(for_an_hour, server.pid)
    poller.poll()
    assert any(
        isinstance(each, ActionResult) and each.failed and "too old" in each.message
        for each in updates
    )
    assert server.asked("Block") == []  # it would block for ever
    updates.clear()
    poller.request(ActionRequest("Blok", {}, "block"), server.pid)
    poller.set_query(None)
    poller.poll()
    assert updates.pop() == ActionResult("not done: block: unknown: Blok", failed=True)


def test_live_view_needs_no_reactor() -> None:
    """It waits for answers in a thread; a reactor would only cost time at the start."""
    code = "import sys, monconn.faces.tui.screen; print('twisted.internet.reactor' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


def test_of_many_connections_the_same_are_asked_for_some_seconds() -> None:
    updates: list[Update] = []
    server = FakeServer(300)
    poller = Poller(server.client, updates.append, 1.0)

    def rows() -> tuple[bool, list[int]]:
        poller.poll()
        update = updates.pop()
        assert isinstance(update, Snapshot)
        assert update.total == 300
        return update.is_sorted, sorted(row["id"] for row in update.rows)

    query = Query("rate", limit=4)
    poller.set_query(query)
    assert rows() == (True, [297, 298, 299, 300])
    server.live[1]["up_rate"] = 1e9  # which would be the first
    assert rows() == (False, [297, 298, 299, 300])
    del server.live[299]
    server.live[301] = connection(301)
    assert rows() == (False, [297, 298, 300])
    del server.live[300], server.live[298]
    server.live.update((number, connection(number)) for number in (302, 303))
    assert rows() == (True, [1, 301, 302, 303])  # too few were left
    poller.set_query(Query("id", limit=4))
    assert rows()[0]


def test_bars_move_only_when_their_time_is_over() -> None:
    chart = Chart()
    for at, value in ((30.0, 2), (31.0, 4), (33.0, 10), (36.0, 0)):
        chart.add(at, value)
    assert chart.values(9) == [3.0, 10, 0]
    chart.add(42.0, 5)  # nobody was asked meanwhile
    assert chart.values(3) == [0, None, 5]
    assert chart.last == 5
    chart.clear()
    assert chart.values(9) == []


def test_bars_over_several_lines() -> None:
    assert bars([0, 8, None, 4], 5, 2) == ["  █ ▁", " ▁█ █"]
    assert bars([0, 0], 2, 1) == ["▁▁"]
    assert bars([], 3, 1) == ["   "]
    assert bars([1, 2], 0, 1) == [""]
