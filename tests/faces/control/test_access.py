"""Links and tokens of the HTTP API, over the control port."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from monconn.addresses import TcpAddress
from monconn.config.http import HttpConfig
from monconn.ops.access import Access
from tests import running_reactor

from .conftest import Port
from .test_control import failure_of


def with_access(play: Callable[[Port, Access], None], **config: Any) -> Any:
    """A test that is played in a thread, with a control port of a server that has a page."""

    @pytest_twisted.ensureDeferred
    async def test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

        def enter_and_play() -> None:
            with Port(tmp_path, **config) as port:
                http = HttpConfig(TcpAddress("127.0.0.1", 9180), tokens=str(tmp_path / "tokens"))
                access = Access(http, "", port.registry, running_reactor(), port.clock)
                assert port.service is not None
                factory: Any = port.service._factory
                factory.operations.access = access
                port.on_reactor(access.startService)
                try:
                    play(port, access)
                finally:
                    port.on_reactor(access.stopService)

        await deferToThread(enter_and_play)

    return test


def code_of(url: str) -> str:
    assert url.startswith("http://127.0.0.1:9180/#login/")
    return url.rpartition("/")[2]


def an_operator_hands_out_and_takes_back(port: Port, access: Access) -> None:
    client = port.client()
    assert client.hello["web"] == "True"
    for role in (None, "view", "operate"):
        link = client.call("WebLink", role=role)
        assert link["seconds"] == "60.0"
        session = port.on_reactor(access.log_in, code_of(link["url"]), "192.0.2.1")
        assert session is not None
        assert session.role == (role or "operate")
    made = client.call("MakeToken", role="view", name="grafana")
    assert (made["name"], made["role"]) == ("grafana", "view")
    assert Path(made["file"]).read_text().count(made["token"]) == 0
    assert access.token(made["token"]) is not None
    assert failure_of(client.call, "MakeToken", name="grafana").code == "BAD_REQUEST"
    assert failure_of(client.call, "MakeToken", name="a b").code == "BAD_REQUEST"
    assert failure_of(client.call, "WebLink", role="root").code == "BAD_REQUEST"
    assert list(client.rows("ListTokens")) == [{"name": "grafana", "role": "view"}]
    client.call("RevokeToken", name="grafana")
    assert access.token(made["token"]) is None
    assert failure_of(client.call, "RevokeToken", name="grafana").code == "BAD_REQUEST"
    client.call("LogOutAll")
    assert not port.on_reactor(access.is_open, session)
    Path(made["file"]).chmod(0o644)
    failed = failure_of(client.call, "MakeToken", name="more")
    assert failed.code == "CANNOT_READ"
    assert "chmod 600" in str(failed)


test_an_operator_hands_out_and_takes_back = with_access(an_operator_hands_out_and_takes_back)


def a_viewer_hands_out_no_more_than_view(port: Port, access: Access) -> None:
    client = port.client()
    for command in ("WebLink", "MakeToken"):
        failed = failure_of(client.call, command, role="operate")
        assert (failed.code, str(failed)) == (
            "DENIED",
            "who has the role view cannot give the role operate",
        )
    for role in (None, "view"):
        link = client.call("WebLink", role=role)
        session = port.on_reactor(access.log_in, code_of(link["url"]), "192.0.2.1")
        assert session is not None
        assert session.role == "view"
        made = client.call("MakeToken", role=role)
        token = access.token(made["token"])
        assert token is not None
        assert token.role == made["role"] == "view"
    assert failure_of(client.call, "RevokeToken", name=made["name"]).code == "DENIED"
    assert failure_of(client.call, "LogOutAll").code == "DENIED"
    assert port.on_reactor(access.is_open, session)
    assert len(list(client.rows("ListTokens"))) == 2


test_a_viewer_hands_out_no_more_than_view = with_access(
    a_viewer_hands_out_no_more_than_view, role="view"
)


@pytest_twisted.ensureDeferred
async def test_a_server_without_http_says_what_to_add(tmp_path: Path) -> None:
    def play() -> None:
        with Port(tmp_path) as port:
            client = port.client()
            for command in ("WebLink", "MakeToken", "ListTokens", "LogOutAll"):
                failed = failure_of(client.call, command)
                assert failed.code == "NOT_KEPT"
                assert "add http: {listen: 127.0.0.1:9180} to its configuration" in str(failed)
            assert failure_of(client.call, "RevokeToken", name="x").code == "NOT_KEPT"

    await deferToThread(play)
