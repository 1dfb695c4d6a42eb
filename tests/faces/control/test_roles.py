"""What the clients of a control port may do, and who reaches it."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread
from twisted.protocols import amp

from monconn.addresses import UnixAddress
from monconn.faces.control import commands, instances, peers
from monconn.faces.control.client import Client, SeveralServers
from monconn.faces.control.peers import FileAccess
from monconn.net.sockets import PeerCredentials

from .conftest import Port
from .test_control import failure_of

SENT = [
    each
    for each in vars(commands).values()
    if isinstance(each, type)
    and issubclass(each, amp.Command)
    and each.__module__ == commands.__name__
    and each.requiresAnswer
    and not each.__name__.startswith("_")
]
VIEW = {
    *("Hello", "ListServices", "ListConnections", "ListIps", "ListClients", "ListDevices"),
    *("ListHistory", "Report", "ListBlocks", "NextPage", "ShowConnection", "ShowDevice"),
    *("Subscribe", "ListCaptures", "Why", "ListOutputs"),
    *("WebLink", "MakeToken", "ListTokens"),  # which give no more than the same role
}
"""Those that only show what is known: a new one is to be thought about, and added here."""
PAYLOAD = {"Tap", "CaptureStart", "CaptureStop", "ReadRecording"}

VERBS = {
    "CloseConnections": "close",
    "ResetStats": "reset stats",
    "SubtractStats": "subtract stats",
    "CaptureStart": "capture start",
    "CaptureStop": "capture stop",
    "NotifyTest": "notify test",
    "ReadRecording": "recording",
    "RevokeToken": "web --revoke",
    "LogOutAll": "web --log-out-all",
}
"""What a person types for them, if that is more than the name in lower case."""


def test_every_command_has_a_role_and_only_those_that_show_are_for_viewers() -> None:
    roles = {each.__name__: vars(each).get("role") for each in SENT}
    assert {name for name, role in roles.items() if role not in ("view", "operate")} == set()
    assert {name for name, role in roles.items() if role == "view"} <= VIEW
    assert all(roles[name] == "operate" for name in PAYLOAD)


def played(play: Any, **config: Any) -> Any:
    @pytest_twisted.ensureDeferred
    async def test(tmp_path: Path) -> None:
        def enter_and_play() -> None:
            with Port(tmp_path, **config) as port:
                play(port)

        await deferToThread(enter_and_play)

    return test


def a_viewer_sees_and_changes_nothing(port: Port) -> None:
    web = port.monitor("web")
    (connection,) = port.connections(web, "192.0.2.1")
    client = port.client()
    assert client.hello["role"] == "view"
    assert [row["sid"] for row in client.rows("ListServices")] == ["web"]
    assert [row["id"] for row in client.rows("ListConnections")] == [connection.record.id]
    arguments: dict[str, dict[str, Any]] = {
        "CloseConnections": {"service": "web"},
        "Block": {"network": "192.0.2.1"},
        "Pause": {"service": "web"},
        "SubtractStats": {"service": "web", "up": 0, "down": 0},
        "RevokeToken": {"name": "x"},
    }
    for command in SENT:
        if command.__name__ in VIEW:
            continue
        failed = failure_of(client.call, command.__name__, **arguments.get(command.__name__, {}))
        verb = VERBS.get(command.__name__, command.__name__.lower())
        said = f"{verb} needs the role operate; this control port gives view"
        assert (failed.code, str(failed)) == ("DENIED", said)
    assert (len(web), web.state, list(web.blocks())) == (1, "running", [])
    assert failure_of(client.call, "Nonsense").code == "UNHANDLED"


test_a_viewer_sees_and_changes_nothing = played(a_viewer_sees_and_changes_nothing, role="view")


def an_operator_pauses_and_drains(port: Port) -> None:
    web = port.monitor("web")
    port.connections(web, "192.0.2.1")
    client = port.client()
    assert client.hello["role"] == "operate"
    answer = client.call("Pause", service="web", seconds=60.0)
    assert (answer["changed"], answer["connections"]) == ("True", "1")
    (row,) = client.rows("ListServices")
    assert (row["state"], "paused_until" in row) == ("paused", True)
    assert client.call("Drain", service="web", spread=300.0)["changed"] == "True"
    (row,) = client.rows("ListServices", service="web")
    assert (row["state"], "paused_until" in row) == ("draining", False)
    assert failure_of(client.call, "Pause", service="web").code == "BAD_REQUEST"
    assert client.call("Resume", service="web")["changed"] == "True"
    assert client.call("Resume", service="web")["changed"] == "False"
    assert failure_of(client.call, "Pause", service="web", seconds=-1.0).code == "BAD_REQUEST"
    assert failure_of(client.call, "Drain", service="ftp").code == "UNKNOWN_SERVICE"
    assert client.call("CloseConnections", service="web", spread=300.0)["closed"] == "1"
    assert len(web) == 1
    port.on_reactor(web.resume)


test_an_operator_pauses_and_drains = played(an_operator_pauses_and_drains)


# -- who reaches a socket


@pytest.mark.parametrize(
    ("mode", "uid", "groups", "enters"),
    [
        (0o600, 1000, {50}, False),
        (0o660, 1000, {50}, True),
        (0o660, 1000, {51}, False),
        (0o640, 1000, {50}, False),
        (0o606, 1000, set(), True),
        (0o666, 1000, set(), True),
        (0o000, 0, set(), True),
        (0o600, os.getuid(), set(), True),
    ],
)
def test_the_mode_of_the_file_lets_in(mode: int, uid: int, groups: set[int], enters: bool) -> None:
    assert FileAccess(mode, 50).allows(uid, lambda: groups) == enters
    assert not FileAccess(0o660, None).allows(1000, lambda: groups)


def test_groups_that_are_not_known_let_nobody_in() -> None:
    class Sock:
        def getsockopt(self, *_: int) -> bytes:
            raise OSError("ERANGE")

    class Transport:
        def getHandle(self) -> Any:
            return Sock()

    with patch.object(peers, "peer_credentials", return_value=PeerCredentials(7, 1000, 51)):
        assert not peers.is_authorized(Transport(), FileAccess(0o660, 50))
        assert peers.is_authorized(Transport(), FileAccess(0o660, 51))
    with patch.object(peers, "peer_credentials", return_value=None):
        assert not peers.is_authorized(Transport(), FileAccess(0o666, 50))


def _greets_as(where: str, uid: int, gid: int, groups: list[int]) -> bool:
    """Whether a process of a user gets an answer to its Hello."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the child needs none
        pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            Client(where, 5).close()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.skipif(os.getuid() != 0, reason="other users' processes need root")
@pytest_twisted.ensureDeferred
async def test_a_process_of_the_group_is_let_in() -> None:
    def play() -> None:
        with tempfile.TemporaryDirectory() as folder:  # pytest's is root's alone
            os.chmod(folder, 0o755)
            path = f"{folder}/view"
            listen = UnixAddress(path, 0o660)
            os.setegid(4242)
            try:
                port = Port(Path(folder), listen=listen, role="view")
                with port:
                    os.setegid(0)
                    assert os.lstat(path).st_gid == 4242
                    assert _greets_as(path, 4711, 4242, [])
                    assert _greets_as(path, 4711, 4711, [4242])
                    assert not _greets_as(path, 4711, 4711, [])
                    os.chmod(path, 0o666)  # not as configured: the group alone enters
                    assert not _greets_as(path, 4711, 4711, [])
            finally:
                os.setegid(0)

    await deferToThread(play)


# -- which of several sockets


def test_of_several_sockets_of_a_process_the_one_that_allows_most_is_taken() -> None:
    view = instances.Instance("/run/a", 7, ("monconn",))
    operate = instances.Instance("/run/b", 7, ("monconn",))
    other = instances.Instance("/run/c", 7, ("monconn",))
    answers = {
        "/run/a": instances.Answer("monconn", ["web"], "view", "x"),
        "/run/b": instances.Answer("monconn", ["web"], "operate", "x"),
        "/run/c": instances.Answer("monconn", ["web"], "operate", "y"),
    }
    with (
        patch.object(instances, "_ask", lambda instance: answers[instance.where]),
        patch.object(instances, "running", return_value=[view, operate]),
    ):
        assert instances.choose("") == "/run/b"
        assert instances.choose("pid:7") == "/run/b"
        assert instances.choose("name:web") == "/run/b"
        # One of another program's part in the same process is another one.
        asked = instances.ask_each([view, other, operate])
        assert [each.where for each, _ in asked] == ["/run/b", "/run/c"]
    with (
        patch.object(instances, "_ask", lambda instance: answers[instance.where]),
        patch.object(instances, "running", return_value=[view, other]),
        pytest.raises(SeveralServers, match="--control /run/c"),
    ):
        instances.choose("pid:7")
