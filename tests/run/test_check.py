"""``monconn check`` and the start agree: what one fails with, the other finds in the same words."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import attrs
import pytest
from cryptography import x509
from twisted.internet.testing import MemoryReactorClock

from monconn.config.config import load, load_file
from monconn.errors import MonconnError
from monconn.faces.manhole.keys import host_key
from monconn.processes import Process, flock_holder, tcp_holder, unix_holder
from monconn.run.application import Application
from monconn.run.check import Finding, check_start
from tests.certificates import Certificate, make_certificate

pytest.importorskip("twisted.conch.ssh.keys")

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFyMNJhnGpW2rkJVVYyxLBrvNX7XoZ4wPSmDqrhG7N8N somebody\n"


@attrs.frozen
class World:
    """A folder, and listeners of another program's."""

    folder: Path
    port: int
    """That somebody listens on, on all addresses."""

    def write(self, text: str) -> Path:
        file = self.folder / "monconn.yaml"
        if "services:" not in text:
            text += "services: {web: {listen: '127.0.0.1:0', backend: ':9'}}\n"
        if "control:" not in text:
            text += "control: false\n"
        file.write_text(
            text.replace("{folder}", str(self.folder)).replace("{port}", str(self.port))
        )
        return file

    def check(self, text: str) -> list[Finding]:
        file = self.write(text)
        return check_start(load(file), str(file))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    (tmp_path / "there").mkdir()
    (tmp_path / "a-file").write_text("precious")
    (tmp_path / "nonsense").write_text("nonsense\n")
    (tmp_path / "nonsense").chmod(0o600)
    (tmp_path / "keys").write_text(KEY)
    (tmp_path / "keys").chmod(0o600)
    (tmp_path / "no-key").write_text("# none\n")
    host_key(tmp_path / "host_key")
    (tmp_path / "open_key").write_bytes((tmp_path / "host_key").read_bytes())
    (tmp_path / "open_key").chmod(0o644)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "there"))
    with (
        socket.create_server(("", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        socket.socket(socket.AF_UNIX) as stale,
        patch("monconn.run.supervisor.PAUSES_SECONDS", ()),
        patch("monconn.processes._LOCK_PAUSES_SECONDS", ()),
    ):
        unix.bind(str(tmp_path / "live"))
        unix.listen()
        stale.bind(str(tmp_path / "stale"))
        stale.close()
        yield World(tmp_path, tcp.getsockname()[1])


def error_of_start(file: Path) -> str:
    """What a start ends with; nothing of it is left."""
    app = Application(load(file), MemoryReactorClock(), show=lambda text: None)
    with pytest.raises(MonconnError) as raised:
        app.startService()
    return str(raised.value)


def tree(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Every file below a folder, and what would tell that it was touched."""
    found = {}
    for path in (folder, *folder.rglob("*")):
        state = path.lstat()
        found[str(path)] = state.st_ino, state.st_mode, state.st_mtime_ns
    return found


SERVICE = "services: {web: {listen: '%s', backend: ':9'}}\n"
MANHOLE = "manhole: {listen: '%s', authorized_keys: %s, host_key: %s}\n"
FAILS = {
    # the configuration, the key, and a part of the message
    "port": (SERVICE % "127.0.0.1:{port}", "listen", "address already in use by process"),
    "port of all": (SERVICE % ":{port}", "listen", "address already in use by process"),
    "no address of this host": (SERVICE % "192.0.2.7:80", "listen", "this host has no address"),
    "UNIX socket": (SERVICE % "unix:{folder}/live", "listen", "address already in use by process"),
    "no folder of a socket": (SERVICE % "unix:{folder}/No/x", "listen", "there is no folder"),
    "a file for a folder": (SERVICE % "unix:{folder}/a-file/x", "listen", "is no folder"),
    "control": ("control: {listen: 'unix:{folder}/live'}\n", "listen", "already in use by"),
    "metrics": ("metrics: {listen: '127.0.0.1:{port}'}\n", "listen", "already in use by"),
    "tokens that others can read": (
        "http: {listen: '127.0.0.1:0', tokens: '{folder}/a-file'}\n",
        "tokens",
        "is open to other users (mode 0644): chmod 600",
    ),
    "tokens that are none": (
        "http: {listen: '127.0.0.1:0', tokens: '{folder}/nonsense'}\n",
        "tokens",
        "nonsense:1: must be NAME ROLE sha256:DIGEST, as monconn web --token writes it",
    ),
    "http": ("http: {listen: '127.0.0.1:{port}'}\n", "listen", "already in use by"),
    "http folder": ("http: {listen: 'unix:{folder}/no/x'}\n", "listen", "no folder"),
    "metrics folder": ("metrics: {listen: 'unix:{folder}/no/x'}\n", "listen", "no folder"),
    "log": ("json_log: {path: '{folder}/No/log'}\n", "path", "there is no folder"),
    "history": ("history: {path: '{folder}/No/db'}\n", "path", "there is no folder"),
    "captures": ("capture: {folder: '{folder}/No/captures'}\n", "folder", "there is no folder"),
    "captures in a file": ("capture: {folder: '{folder}/a-file'}\n", "folder", "it is a file"),
    "no history": ("history: {path: '{folder}/a-file'}\n", "path", "file is not a database"),
    "manhole": (
        MANHOLE % ("127.0.0.1:{port}", "{folder}/keys", "{folder}/host_key"),
        "listen",
        "already in use by",
    ),
    "authorized_keys": (
        MANHOLE % ("127.0.0.1:0", "{folder}/none", "{folder}/host_key"),
        "authorized_keys",
        "no such file",
    ),
    "no usable key": (
        MANHOLE % ("127.0.0.1:0", "{folder}/no-key", "{folder}/host_key"),
        "authorized_keys",
        "has no usable key",
    ),
    "host key": (
        MANHOLE % ("127.0.0.1:0", "{folder}/keys", "{folder}/a-file"),
        "host_key",
        "open to other users",
    ),
    "open host key": (
        MANHOLE % ("127.0.0.1:0", "{folder}/keys", "{folder}/open_key"),
        "host_key",
        "open to other users (mode 0644): chmod 600",
    ),
    "host key below a file": (
        MANHOLE % ("127.0.0.1:0", "{folder}/keys", "{folder}/a-file/key"),
        "host_key",
        "",
    ),
}


@pytest.mark.parametrize(("text", "key", "part"), FAILS.values(), ids=FAILS)
def test_check_finds_what_a_start_fails_with(world: World, text: str, key: str, part: str) -> None:
    before = tree(world.folder)
    found = world.check(text)
    (error,) = [each for each in found if each.level == "error"]
    after = tree(world.folder)
    for path in (str(world.folder), str(world.folder / "monconn.yaml")):
        before.pop(path, None), after.pop(path, None)  # the configuration is written there
    assert after == before
    assert error.path[-1] == key
    assert part in error.message
    section = str(error.path[0])
    assert error_of_start(world.folder / "monconn.yaml").removeprefix(f"{section}: ") == (
        error.message
    )


@pytest.mark.parametrize(
    "text",
    [
        SERVICE % "127.0.0.1:0",
        SERVICE % ":0",
        SERVICE % "[::1]:0",
        SERVICE % "unix:{folder}/there/x",
        SERVICE % "unix:{folder}/stale",
        "json_log: {path: '{folder}/there/log'}\n",
        "history: {path: '{folder}/there/db'}\n",
        "capture: {folder: '{folder}/there/captures', filter: all}\n",
        "capture: {on: [client_lost, 'alarm:silent']}\n",
        "metrics: {listen: '127.0.0.1:0'}\n",
        "http: {listen: '127.0.0.1:0'}\n",
        "http: {listen: '127.0.0.1:0', tokens: '{folder}/No/tokens'}\n",
        "control: {listen: 'unix:{folder}/there/c'}\n",
        "control: true\n",
        MANHOLE % ("127.0.0.1:0", "{folder}/keys", "{folder}/host_key"),
        MANHOLE % ("127.0.0.1:0", "{folder}/keys", "{folder}/there/new/host_key"),
    ],
)
def test_what_starts_is_no_error(world: World, text: str) -> None:
    class Reactor(MemoryReactorClock):
        def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
            """What a history's thread has found is for a start that goes on."""

    found = world.check(text)
    assert [each for each in found if each.level != "note"] == []
    assert list((world.folder / "there").iterdir()) == []
    app = Application(load(world.folder / "monconn.yaml"), Reactor())
    app.startService()
    for service in app:
        service.stopService()
    app.supervisor.stop()


def test_captures_after_the_fact_want_a_recorder(world: World) -> None:
    text = "capture: {folder: '{folder}/there', on: [client_lost]}\n"
    (note,) = world.check(text)
    assert (note.level, note.path) == ("note", ("capture", "on"))
    assert note.message.startswith("no service has a recorder: ")
    with_recorder = "services: {web: {listen: '127.0.0.1:0', backend: ':9', recorder: {}}}\n"
    assert world.check(with_recorder + text) == []


def test_a_listener_notices_nothing(world: World) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        path = world.folder / "quiet"
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        (error,) = world.check(SERVICE % "unix:{folder}/quiet")
        assert f"by process {os.getpid()} (" in error.message
        file = world.folder / "monconn.yaml"
        assert error_of_start(file) == error.message  # nor of a start that fails
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_socket_without_a_listener_is_replaced(world: World) -> None:
    (note,) = world.check(SERVICE % "unix:{folder}/stale")
    assert (note.level, note.path[-1]) == ("note", "listen")
    assert "has no listener any more: it is replaced" in note.message
    assert stat.S_ISSOCK((world.folder / "stale").lstat().st_mode)


METRICS = "metrics need prometheus-client: pip install 'monconn[metrics]'"
CONCH = "needs Conch: pip install 'monconn[manhole]'"


@pytest.mark.parametrize(
    ("missing", "text", "message"),
    [
        ("prometheus_client", "metrics: {listen: ':0'}\n", METRICS),
        ("prometheus_client", "http: {listen: '127.0.0.1:0', metrics: true}\n", METRICS),
        ("h11", "metrics: {listen: ':0'}\n", METRICS.replace("prometheus-client", "h11")),
        ("h11", "http: {listen: '127.0.0.1:0'}\n", "needs h11: pip install 'monconn[http]'"),
        (
            "twisted.conch.manhole_ssh",
            MANHOLE % ("127.0.0.1:0", "{folder}/keys", "{folder}/host_key"),
            CONCH,
        ),
    ],
)
def test_a_missing_extra(
    world: World, monkeypatch: pytest.MonkeyPatch, missing: str, text: str, message: str
) -> None:
    for name in [*sys.modules]:
        if name.startswith(("prometheus_client", "monconn.sinks.metrics.", "monconn.net.http.")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    (error,) = world.check(text)
    assert (error.level, error.message) == ("error", message)
    problem = error_of_start(world.folder / "monconn.yaml")
    assert problem.removeprefix(f"{error.path[0]}: ") == message


def test_another_monconn_that_writes_the_history(world: World) -> None:
    lock = world.folder / "db.lock"
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = "history: {path: '{folder}/db'}\n"
        (error,) = world.check(text)
        assert f"of its own (process {os.getpid()} (" in error.message
        assert error_of_start(world.folder / "monconn.yaml") == f"history: {error.message}"
        assert flock_holder(str(lock)) == Process.of(os.getpid())


# -- what this user may not do


@pytest.fixture
def stranger() -> Iterator[Path]:
    """Have the process be of a user who may do nothing; a folder that it can read."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(0)


NOT_ALLOWED = {
    "unix:{folder}/x": "this user may not make files in",
    "127.0.0.1:{low}": "ports below {start} need root, or the capability CAP_NET_BIND_SERVICE",
}


@pytest.mark.parametrize("listen", NOT_ALLOWED)
def test_what_this_user_may_not_listen_on(world: World, stranger: Path, listen: str) -> None:
    start = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    if start <= 1:
        pytest.skip("everybody may listen on every port here")
    listen = listen.format(folder=stranger, low=start - 1)
    config = load_of(SERVICE % listen)
    (error,) = check_start(config, "nowhere.yaml")
    advice = "this user may not make files in" if listen.startswith("unix") else "CAP_NET_BIND"
    assert "permission denied: " in error.message
    assert advice in error.message
    app = Application(config, MemoryReactorClock())
    with pytest.raises(MonconnError) as raised:
        app.startService()
    assert str(raised.value) == error.message


@pytest.mark.parametrize("text", ["json_log: {path: '%s/x'}\n", "history: {path: '%s/x'}\n"])
def test_where_this_user_may_not_write(world: World, stranger: Path, text: str) -> None:
    config = load_of(text % stranger)
    (error,) = check_start(config, "nowhere.yaml")
    assert error.message.endswith(f'this user may not make files in "{stranger}"')
    app = Application(config, MemoryReactorClock())
    with pytest.raises(MonconnError) as raised:
        app.startService()
    assert str(raised.value) == f"{error.path[0]}: {error.message}"


def test_files_that_this_user_may_not_write(world: World, stranger: Path) -> None:
    os.seteuid(0)
    stranger.chmod(0o777)
    for name in ("log", "db"):
        (stranger / name).touch(mode=0o644)
    os.seteuid(65534)
    for text in ("json_log: {path: '%s/log'}\n", "history: {path: '%s/db'}\n"):
        config = load_of(text % stranger)
        (error,) = check_start(config, "nowhere.yaml")
        assert error.message.endswith(": permission denied")
        app = Application(config, MemoryReactorClock())
        with pytest.raises(MonconnError) as raised:
            app.startService()
        assert str(raised.value) == f"{error.path[0]}: {error.message}"


def load_of(text: str) -> Any:
    from monconn.config.config import parse

    if "services" not in text:
        text += "services: {web: {listen: '127.0.0.1:0', backend: ':9'}}\n"
    return parse(f"{text}control: false\n", "monconn.yaml")


# -- warnings


def warnings_of(found: list[Finding]) -> dict[str, str]:
    assert {each.level for each in found} <= {"warning"}
    return {str(each.path[-1]): each.message for each in found}


def test_limits_that_do_not_go_together(world: World) -> None:
    found = warnings_of(
        world.check(
            "services: {web: {listen: ':0', backend: ':9', ip_limit: 9, conn_limit: 5,"
            " read_timeout: 1h, half_close_timeout: 20m, keepalive: {client: false},"
            " unreachable_timeout: 5s}}\n"
        )
    )
    assert found == {
        "ip_limit": "is never reached: conn_limit is 5",
        "read_timeout": "of 1h never strikes: max_idle of 15m comes first",
        "half_close_timeout": "of 20m never strikes: max_idle of 15m comes first",
        "unreachable_timeout": "finds no client that is silent: with keepalive off nobody asks"
        " whether it is there",
    }


def test_rules_that_do_not_go_together(world: World) -> None:
    found = world.check(
        "services:\n"
        "  web: {listen: ':0', backend: ':9', allow: [10.0.0.0/8], block: [10.0.0.0/8]}\n"
        f"  path: {{listen: 'unix:{world.folder}/s', backend: ':9', allow: [10.0.0.0/8]}}\n"
    )
    assert {each.path: each.message for each in found} == {
        ("services", "web", "allow"): "lets nobody in: all of it is blocked, and block goes before"
        " it",
        ("services", "path", "allow"): "lets nobody in: clients of a UNIX socket have no address",
    }


def test_filters_of_outputs_that_name_no_service(world: World) -> None:
    found = world.check(
        "services: {web: {listen: '127.0.0.1:0', backend: ':9'}}\n"
        "notify:\n"
        "- {url: 'http://h', filter: 'service:we'}\n"
        "- {url: 'http://h', filter: 'service:wbe client:10.0.0.0/8'}\n"
        "- {url: 'http://h', filter: 'not:service:=ftp'}\n"
        "- {url: 'http://h', filter: 'service:=WEB'}\n"
        "- {url: 'http://h'}\n"
    )
    assert [(each.level, each.path, each.message) for each in found] == [
        ("warning", ("notify", 1, "filter"), 'there is no service "wbe": did you mean web?'),
        ("warning", ("notify", 2, "filter"), 'there is no service "ftp"'),
    ]


def test_control_ports_where_all_may_only_look(world: World) -> None:
    def paths(control: str) -> list[Any]:
        found = world.check(f"control: {control}\n")
        return [each.path for each in found if "may only look" in each.message]

    view = f"{{listen: 'unix:{world.folder}/view', role: view}}"
    other = f"{{listen: 'unix:{world.folder}/other', role: view}}"
    assert paths(view) == [("control", "role")]
    assert paths(f"[{view}, {other}]") == [("control",)]
    assert paths(f"[{view}, {{listen: 'unix:{world.folder}/act'}}]") == []
    assert paths("false") == []


def test_more_connections_than_descriptors(world: World) -> None:
    text = "services: {web: {listen: ':0', backend: ':9', conn_limit: 1000000}}\n"
    with patch("monconn.run.check.limit_of_start", return_value=(1024, 368)):
        found = warnings_of(world.check(text))
    assert found["conn_limit"].startswith(
        "of 1,000,000 is more than the limit of 1,024 descriptors has room for, about 368"
    )


def test_names_are_resolved_together_and_not_waited_for_long(world: World) -> None:
    asked = []

    def getaddrinfo(host: str, *args: object, **kwargs: object) -> list[Any]:
        asked.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    text = (
        "services: {a: {listen: ':0', backend: 'no.invalid:9'},"
        " b: {listen: ':0', backend: 'no.invalid:80'},"
        " c: {listen: ':0', backend: 'tls:no.invalid:80'}}\n"
    )
    with patch("monconn.net.resolver.socket.getaddrinfo", getaddrinfo):
        found = world.check(text)
    assert asked == ["no.invalid"]
    assert [each.path for each in found] == [("services", each, "backend") for each in "abc"]
    message = '"no.invalid" cannot be resolved: name or service not known'
    assert {each.message for each in found} == {message}


def test_a_name_server_that_does_not_answer(world: World) -> None:
    answered = threading.Event()
    with (
        patch("monconn.run.check.NAME_SECONDS", 0.0),
        patch("monconn.net.resolver._resolve", lambda address: answered.wait() and []),
    ):
        found = warnings_of(
            world.check("services: {web: {listen: ':0', backend: 'slow.invalid:9'}}\n")
        )
    assert found == {"backend": '"slow.invalid" cannot be resolved: no answer within 0 seconds'}
    answered.set()


@pytest.mark.parametrize(
    ("listen", "backend", "is_loop"),
    [
        (":8099", "{host}:8099", True),
        ("0.0.0.0:8099", "{host}:8099", True),
        ("{host}:8099", "{host}:8099", True),
        ("127.0.0.1:8099", "{host}:8099", False),
        (":8099", "192.0.2.9:8099", False),
        (":8099", "{host}:8098", False),
    ],
)
def test_a_backend_that_is_ourselves(
    world: World, listen: str, backend: str, is_loop: bool
) -> None:
    """By an address of this host that is no loopback, and by a name that stands for it."""
    own = "192.0.2.1"

    def named(host: str) -> list[Finding]:
        addresses = listen.format(host=own), backend.format(host=host)
        text = "services: {web: {listen: '%s', backend: '%s'}}\n" % addresses  # noqa: UP031
        with (
            patch("monconn.run.check.is_own_host", lambda family, where: where[0] == own),
            patch("monconn.run.check.check_names", lambda names, seconds: {"me.invalid": [own]}),
            patch("monconn.run.check.check_port", lambda config: []),
        ):
            return world.check(text)

    if listen != backend:  # which is found when the file is read
        for host in (own, "me.invalid"):
            assert [each.path[-1] for each in named(host)] == ["backend"] * is_loop


def test_certificates(world: World) -> None:
    ends, key_open = make(world, "ends", days=(-9, 3)), make(world, "open")
    key_open.key.chmod(0o644)
    other = make(world, "other", (x509.DNSName("other.example.org"),))
    wrong_order = make(world, "order")
    wrong_order.certificate.write_bytes(
        wrong_order.certificate.read_bytes() + other.certificate.read_bytes()
    )

    def found(made: Certificate, more: str = "") -> str:
        tls = f"certificate: {made.certificate}, key: {made.key}{more}"
        text = f"{{web: {{listen: ':0', backend: ':9', tls: {{{tls}}}}}}}"
        found = world.check(f"services: {text}\n")
        assert {each.path[-1] for each in found} <= {"tls"}
        return "; ".join(warnings_of(found).values())

    assert " expires in 3 days, on 2" in found(ends)
    assert found(key_open) == (
        f'the key in "{key_open.key}" is open to other users: chmod 600 {key_open.key}'
    )
    by_name = f"www.example.org: {{certificate: {other.certificate}, key: {other.key}}}"
    more = f", certificates: {{{by_name}}}"
    assert found(make(world, "right"), more) == (
        f'the certificate in "{other.certificate}" is not for www.example.org,'
        " but for other.example.org"
    )
    assert "is not in order: " in found(wrong_order)
    assert found(make(world, "fine")) == ""


def test_certificates_that_are_not_of_a_listener(world: World) -> None:
    """The authorities of a backend, what is shown to it, and those of the control port."""
    fine, ended = make(world, "fine"), make(world, "ended", days=(-9, -1))
    ended.key.chmod(0o640)  # the group of those who may read it is the administrator's choice
    shown = f"ca: {ended.certificate}, certificate: {ended.certificate}, key: {ended.key}"
    found = world.check(
        "services: {web: {listen: ':0', backend: 'tls:127.0.0.1:9',"
        f" backend_tls: {{{shown}}}}}}}\n"
        f"control: {{listen: '127.0.0.1:0', tls: {{certificate: {fine.certificate},"
        f" key: {fine.key}, client_authority: {ended.certificate}}}}}\n"
    )
    assert {each.level for each in found} == {"warning"}
    expired = f'the certificate in "{ended.certificate}" has expired on '
    assert [each.path for each in found if each.message.startswith(expired)] == [
        ("control", "tls"),
        ("services", "web", "backend_tls"),
        ("services", "web", "backend_tls"),
    ]
    assert len(found) == 3


def make(world: World, name: str, *args: Any, days: tuple[float, float] = (-9, 90)) -> Certificate:
    made = make_certificate(world.folder / name, *args, days=days, common_name=name)
    made.key.chmod(0o600)
    return made


def test_lines_of_authorized_keys_that_are_not_used(world: World) -> None:
    with (world.folder / "keys").open("a") as file:
        file.write("nonsense\n")
    text = MANHOLE % ("127.0.0.1:0", "{folder}/keys", "{folder}/host_key")
    (warning,) = world.check(text)
    assert warning.level == "warning"
    assert f"{world.folder}/keys:2: not used: " in warning.message


def test_a_control_folder_that_is_open_to_others(world: World) -> None:
    folder = world.folder / "there" / "monconn"
    folder.mkdir()
    folder.chmod(0o755)
    (warning,) = world.check("control: true\n")
    message = f"no control port: {folder} is open to other users: chmod 700 {folder}"
    assert (warning.level, warning.message) == ("warning", message)


def test_a_dangling_link_in_the_control_folder_is_passed_over(world: World) -> None:
    folder = world.folder / "there" / "monconn"
    folder.mkdir(mode=0o700)
    (folder / "control.sock").symlink_to("nowhere")
    assert world.check("control: true\n") == []
    app = Application(load(world.folder / "monconn.yaml"), MemoryReactorClock())
    app.startService()
    assert stat.S_ISSOCK((folder / f"control-{os.getpid()}.sock").lstat().st_mode)
    for service in app:
        service.stopService()
    app.supervisor.stop()


# -- who has an address


def test_the_process_that_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    me = Process.of(os.getpid())
    for host in ("127.0.0.1", "0.0.0.0", "::1", "::"):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as server:
            port = server.getsockname()[1]
            assert tcp_holder(host, port) == me
            assert tcp_holder("", port) == me
            assert (tcp_holder("127.0.0.9", port) is None) == (host in ("127.0.0.1", "::1"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock et")  # relative, and with a space
        server.listen()
        for path in ("sock et", str(tmp_path / "sock et"), str(tmp_path / "link" / "sock et")):
            assert unix_holder(path) == me
        assert unix_holder(str(tmp_path / "other" / "sock et")) is None


def test_a_path_that_looks_like_a_row_of_the_table_is_no_row(tmp_path: Path) -> None:
    folder = tmp_path / "x\n0: a b odd 0001 01 1 "
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as hostile:
        hostile.bind(str(folder / "sock"))
        hostile.listen()
        assert unix_holder(str(tmp_path / "sock")) is None


def test_a_reactor_that_runs_is_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of this process is it looked for, and not in all that a table may have."""
    read: list[str] = []

    def listdir(path: str) -> list[str]:
        read.append(path)
        return os.listdir(path)

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr("monconn.processes._is_in_loop", lambda: True)
        monkeypatch.setattr("monconn.processes.os", Mock(wraps=os, listdir=listdir))
        assert tcp_holder("127.0.0.1", server.getsockname()[1]) == Process.of(os.getpid())
        assert read == [f"/proc/{os.getpid()}/fd"]
        monkeypatch.setattr("monconn.processes._MOST_CHARACTERS_OF_A_TURN", 1)
        assert tcp_holder("127.0.0.1", server.getsockname()[1]) is None


def test_without_proc_nobody_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*args: object, **kwargs: object) -> Any:
        raise OSError(errno.ENOENT, "no /proc")

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr("builtins.open", refuse)
        monkeypatch.setattr("os.listdir", refuse)
        assert tcp_holder("127.0.0.1", server.getsockname()[1]) is None
        assert unix_holder("/x") is None
        assert flock_holder(str(tmp_path)) is None


Check = Callable[[], object]


def test_lines_are_those_of_the_file(world: World) -> None:
    loaded = load_file(world.write("metrics:\n  listen: ':9100'\n"))
    assert loaded.line_of(("metrics", "listen")) == 2
    assert loaded.line_of(("metrics", "tls")) == 1
    assert loaded.line_of(("manhole",)) is None
