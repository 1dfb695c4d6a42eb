"""The live view's poller and model against a real control port."""

from __future__ import annotations

from monconn.faces.tui.actions import Plan, plan
from monconn.faces.tui.format import details
from monconn.faces.tui.model import Model, Snapshot
from monconn.faces.tui.poller import ActionResult, Poller, Update
from monconn.faces.tui.tables import closed_table, live_table, service_table
from tests.faces.control.conftest import Port, with_port


class View:
    """A model and its poller, which polls when the test says so."""

    def __init__(self, port: Port) -> None:
        self.model = Model()
        self.model.set_heights(10, 10)
        self.results: list[ActionResult] = []
        self._poller = Poller(port.client, self._update, 1.0)

    def _update(self, update: Update) -> None:
        if isinstance(update, ActionResult):
            self.results.append(update)
        else:
            assert isinstance(update, Snapshot), update
            self.model.update(update)

    def poll(self) -> None:
        self._poller.set_query(self.model.query())
        self._poller.poll()

    def act(self, key: str) -> str:
        assert self.model.selected is not None
        planned = plan(key, self.model.selected)
        assert isinstance(planned, Plan)
        self._poller.request(planned.requests["y"], self.model.snapshot.pid)
        self.poll()
        return self.results.pop().message

    def clients(self) -> list[str]:
        return [row["client_ip"] for row in self.model.rows]

    def closed_clients(self) -> list[str]:
        return [row["client_ip"] for row in self.model.closed_rows]


@with_port
def test_filters_lists_and_actions(port: Port) -> None:
    web, ssh = port.monitor("web", listen=":80", backend="10.0.0.5:80"), port.monitor("ssh")
    port.connections(web, "192.0.2.1", "192.0.2.2")
    port.connections(ssh, "192.0.2.3")
    view = View(port)
    view.model.next_order(-1)
    view.poll()
    assert view.clients() == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    assert view.model.live_count == 3
    for text, clients in (
        ("web", ["192.0.2.1", "192.0.2.2"]),
        ("service:web not:client:192.0.2.1", ["192.0.2.2"]),
        ("192.0.2.2/31", ["192.0.2.2", "192.0.2.3"]),
        ("state=open port:1025", ["192.0.2.2"]),
        ("age:1h..", []),
        ("0.2.3", ["192.0.2.3"]),
        ("'2.3:1024'", ["192.0.2.3"]),
    ):
        view.model.filter_by(text)
        view.poll()
        assert view.clients() == clients
        assert view.model.snapshot.total == len(clients)
    assert "done: close connection" in view.act("c")
    assert view.clients() == []
    view.model.filter_by("open")
    view.poll()
    assert view.closed_clients() == ["192.0.2.3"]
    assert view.act("b") == "done: block 192.0.2.1 at all services"
    assert view.clients() == ["192.0.2.2"]
    view.model.focus = "closed"
    view.model.closed.index = view.closed_clients().index("192.0.2.1")
    assert view.act("u") == "done: unblock 192.0.2.1 at all services"
    assert view.act("u") == "unblock 192.0.2.1 at all services: it was so already"


@with_port
def test_every_row_of_the_server_can_be_displayed(port: Port) -> None:
    web = port.monitor("web", listen=":80", backend="10.0.0.5:80")
    port.connections(web, "192.0.2.1", "192.0.2.2")
    view = View(port)
    view.poll()
    view.act("r")
    model = view.model
    assert len(live_table(model.trends).lines(model.rows, 400)) == 2
    assert len(closed_table().lines(model.closed_rows, 400)) == 2
    assert len(service_table().lines(model.service_rows, 400)) == 2
    for row in (*model.rows, *model.closed_rows):
        model.open_details(row["id"])
        view.poll()
        assert model.details_row is not None
        names = [name for name, _, _ in details(model.details_row)]
        assert {"client", "up", "looks like"} <= set(names)
        model.close_details()
