"""Our reason and two letters beside HAProxy's: the same scenarios through both, on real sockets.

HAProxy's letters are documented in its configuration manual, *Session state at disconnection*.
"""

from __future__ import annotations

import ctypes
import json
import re
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

import attrs
import pytest

from monconn.faces.control.client import Client
from tests import ROOT

from .programs import HANG_SECONDS, SCRIPTS, Monconn, Program, connect, receive, until

PAGE = ROOT / "docs" / "reasons.md"
_LAST = "the backend had closed, which `L` says; HAProxy logs it only after both sides have"
_ENDED = (
    "a reset from a side that has ended in order tells nothing new, and what it sent is delivered"
)
_PHASE = "HAProxy logs no phase for sessions killed after the backend connected"
DIFFERENT = {
    "client_resets_while_connecting": (
        "CD",
        "CC",
        "the backend had not connected yet: `CC` according to HAProxy's own manual",
    ),
    "client_ends_while_connecting": (
        "CC",
        "--",
        "a closed side is not an abort: the client may still wait for the answer",
    ),
    "client_resets_after_a_half_close": ("CD", "--", _ENDED),
    "client_resets_after_backend_has_ended": ("CD", "CL", _LAST),
    "backend_resets_after_a_half_close": ("SD", "--", _ENDED),
    "backend_ends_and_client_is_silent": ("cD", "cL", _LAST),
    "backend_ends_and_client_stays": ("cD", "cL", _LAST),
    "operator_closes": ("K-", "KD", _PHASE),
    "operator_closes_after_backend_has_ended": ("K-", "KL", _PHASE),
}
"""By scenario: HAProxy's code, ours, and why; the same table is in :data:`PAGE`."""

HAPROXY_CONFIG = """
global
    nbthread 1
    log 127.0.0.1:{log_port} local0
    stats socket {folder}/stats mode 600 level admin
defaults
    mode tcp
    log global
    option tcplog
    retries 0
    timeout connect 60s
    timeout client 60s
    timeout server 60s
"""
HAPROXY_SERVICE = """
listen {name}
    bind fd@{fd}
    server backend 127.0.0.1:{backend_port}
"""
SHORT = "800ms"
"""Longer than it takes on a busy machine to bring a connection about."""
BLOCKED = {"ip_blacklist": ["127.0.0.1"]}
MUCH_BYTES = 64 << 20
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
_TAKE_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0
_NO_PACKET = struct.pack("HP", 1, ctypes.addressof(_TAKE_NOTHING))


# -- helpers of the scenarios


class Proxy(Protocol):
    """What the scenarios need of either of the two; a service is known by its name."""

    def port(self, service: str) -> int:
        """Where it listens."""

    def state(self, service: str) -> str:
        """The only connection's: ``connecting``, ``open``, another, or ``none`` if it is over."""

    def kill(self, service: str) -> None:
        """Close its connections, as an operator does."""


class Stage:
    """One service of a proxy, and its backend; a context manager that closes all sockets.

    :param listener: where the backend listens.
    """

    def __init__(self, proxy: Proxy, service: str, listener: socket.socket) -> None:
        self._proxy = proxy
        self._service = service
        self._listener = listener
        self._cleanup = ExitStack()

    def __enter__(self) -> Stage:
        self._listener.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def client(self) -> socket.socket:
        """A client that is connected to the proxy."""
        return self._cleanup.enter_context(connect(self._proxy.port(self._service)))

    def backend(self) -> socket.socket:
        """The backend's side of the connection."""
        backend, _ = self._listener.accept()
        backend.settimeout(HANG_SECONDS)
        return self._cleanup.enter_context(backend)

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """A client and its backend, once the proxy knows that both are connected."""
        pair = self.client(), self.backend()
        until(lambda: self.state() != "connecting", "an established connection")
        return pair

    def talk(self) -> tuple[socket.socket, socket.socket]:
        """The same, after bytes have gone both ways."""
        client, backend = self.pair()
        for sender, receiver in ((client, backend), (backend, client)):
            sender.sendall(b"hello")
            assert receive(receiver, 5) == b"hello"
        return client, backend

    def client_of_silent_backend(self) -> socket.socket:
        """A client of a backend whose host answers nothing at all, while that is dialled."""
        self._listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, _NO_PACKET)
        self._cleanup.callback(self.let_backend_answer)
        client = self.client()
        until(lambda: self.state() == "connecting", "a connection under way")
        return client

    def let_backend_answer(self) -> None:
        """End what :meth:`client_of_silent_backend` began."""
        with suppress(FileNotFoundError):  # it has been ended already
            self._listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def refuse_at_backend(self) -> None:
        """Have the backend listen no more."""
        self._listener.shutdown(socket.SHUT_RDWR)

    def state(self) -> str:
        """Implements ``Proxy.state``."""
        return self._proxy.state(self._service)

    def kill(self) -> None:
        """Close the connection, as an operator does."""
        self._proxy.kill(self._service)

    def send_much(self, sender: socket.socket) -> None:
        """Have a thread send until the connection is over."""
        self._cleanup.enter_context(ThreadPoolExecutor(1)).submit(send_until_broken, sender)


def send_until_broken(sender: socket.socket) -> None:
    """Send more than the buffers on the way ever hold; its reader must end the connection."""
    with pytest.raises(ConnectionError):
        sender.sendall(bytes(MUCH_BYTES))


def wait_for_end(sock: socket.socket) -> None:
    """Wait until a connection has ended from the other side, in whatever way."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def half_close(sock: socket.socket, other: socket.socket) -> None:
    """End one direction, and wait until that has come through."""
    sock.shutdown(socket.SHUT_WR)
    assert receive(other, 1) == b""


def answer_if_possible(sock: socket.socket) -> None:
    """Send something to a side that is gone, as HAProxy learns only so of a reset after an end."""
    try:
        sock.sendall(b"answer")
    except ConnectionError:  # we have passed the reset on already
        return
    wait_for_end(sock)


# -- the scenarios; a client and a backend are closed at the end of each


@attrs.frozen
class Scenario:
    """The steps of a scenario, its expected results, and the limits in force."""

    play: Callable[[Stage], None]
    code: str
    reason: str
    haproxy: tuple[str, ...]
    monconn: dict[str, Any]

    @property
    def name(self) -> str:
        """Of the service as well."""
        return self.play.__name__


SCENARIOS: list[Scenario] = []
Play = Callable[[Stage], None]


def scenario(code: str, reason: str, *haproxy: str, **monconn: Any) -> Callable[[Play], Play]:
    """Put a function into the table, with lines for HAProxy and keys for monconn."""

    def note(play: Play) -> Play:
        SCENARIOS.append(Scenario(play, code, reason, haproxy, monconn))
        return play

    return note


@scenario("--", "client_closed")
def client_ends(stage: Stage) -> None:
    client, backend = stage.talk()
    client.close()
    wait_for_end(backend)


@scenario("--", "client_closed")
def client_ends_without_any_bytes(stage: Stage) -> None:
    client, backend = stage.pair()
    client.close()
    wait_for_end(backend)


@scenario("--", "backend_closed")
def backend_ends(stage: Stage) -> None:
    client, backend = stage.talk()
    backend.close()
    wait_for_end(client)


@scenario("--", "client_closed")
def client_half_closes_and_is_answered(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(client, backend)
    backend.sendall(b"answer")
    backend.close()
    assert receive(client, 7) == b"answer"


@scenario("--", "backend_closed")
def backend_half_closes_and_client_goes_on(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(backend, client)
    client.sendall(b"answer")
    client.close()
    assert receive(backend, 7) == b"answer"


@scenario("CD", "client_reset")
def client_resets(stage: Stage) -> None:
    client, backend = stage.talk()
    reset(client)
    wait_for_end(backend)


@scenario("CD", "client_reset")
def client_resets_before_any_byte(stage: Stage) -> None:
    client, backend = stage.pair()
    reset(client)
    wait_for_end(backend)


@scenario("CD", "client_reset")
def client_resets_while_it_is_sent_to(stage: Stage) -> None:
    client, backend = stage.pair()
    stage.send_much(backend)
    receive(client, 1 << 20)
    reset(client)


@scenario("--", "client_closed")
def client_resets_after_a_half_close(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(client, backend)
    reset(client)
    answer_if_possible(backend)


@scenario("CL", "client_reset")
def client_resets_after_backend_has_ended(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(backend, client)
    reset(client)
    wait_for_end(backend)


@scenario("SD", "backend_reset")
def backend_resets(stage: Stage) -> None:
    client, backend = stage.talk()
    reset(backend)
    wait_for_end(client)


@scenario("SD", "backend_reset")
def backend_resets_before_any_byte(stage: Stage) -> None:
    client, backend = stage.pair()
    reset(backend)
    wait_for_end(client)


@scenario("SD", "backend_reset")
def backend_resets_while_it_is_sent_to(stage: Stage) -> None:
    client, backend = stage.pair()
    stage.send_much(client)
    receive(backend, 1 << 20)
    reset(backend)


@scenario("SD", "backend_reset")
def backend_resets_after_client_has_ended(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(client, backend)
    reset(backend)
    wait_for_end(client)


@scenario("--", "backend_closed")
def backend_resets_after_a_half_close(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(backend, client)
    reset(backend)
    answer_if_possible(client)


# -- before the backend is connected


@scenario("CC", "client_reset")
def client_resets_while_connecting(stage: Stage) -> None:
    reset(stage.client_of_silent_backend())
    until(lambda: stage.state() != "connecting")


@scenario("--", "client_closed")
def client_ends_while_connecting(stage: Stage) -> None:
    stage.client_of_silent_backend().close()
    stage.let_backend_answer()
    until(lambda: stage.state() != "connecting")
    if stage.state() != "none":
        stage.backend().close()


@scenario("SC", "backend_refused")
def backend_refuses(stage: Stage) -> None:
    stage.refuse_at_backend()
    wait_for_end(stage.client())


@scenario("sC", "connect_timeout", f"timeout connect {SHORT}", connect_timeout=SHORT)
def backend_does_not_answer_the_call(stage: Stage) -> None:
    wait_for_end(stage.client_of_silent_backend())


# -- time limits


@scenario("cD", "read_timeout", f"timeout client {SHORT}", read_timeout=SHORT)
def client_says_nothing(stage: Stage) -> None:
    _, backend = stage.pair()
    wait_for_end(backend)


# HAProxy's limit is on the side that is waited for: if both were equal, milliseconds would decide.
@scenario("cD", "idle_timeout", f"timeout client {SHORT}", max_idle=SHORT)
def both_sides_are_silent(stage: Stage) -> None:
    _, backend = stage.pair()
    wait_for_end(backend)


@scenario("sD", "idle_timeout", f"timeout server {SHORT}", max_idle=SHORT)
def backend_does_not_answer(stage: Stage) -> None:
    client, backend = stage.pair()
    client.sendall(b"hello")
    assert receive(backend, 5) == b"hello"
    wait_for_end(client)


@scenario("cD", "idle_timeout", f"timeout client {SHORT}", max_idle=SHORT)
def client_is_silent_after_an_answer(stage: Stage) -> None:
    _, backend = stage.talk()
    wait_for_end(backend)


@scenario("cD", "write_timeout", f"timeout client {SHORT}", write_timeout=SHORT)
def client_does_not_read(stage: Stage) -> None:
    _, backend = stage.pair()
    send_until_broken(backend)


@scenario("sD", "write_timeout", f"timeout server {SHORT}", write_timeout=SHORT)
def backend_does_not_read(stage: Stage) -> None:
    client, _ = stage.pair()
    send_until_broken(client)


@scenario("sD", "idle_timeout", f"timeout server {SHORT}", max_idle=SHORT)
def client_half_closes_and_backend_is_silent(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(client, backend)
    wait_for_end(client)


@scenario("sD", "half_close_timeout", f"timeout server-fin {SHORT}", half_close_timeout=SHORT)
def client_half_closes_and_backend_stays(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(client, backend)
    wait_for_end(client)


@scenario("cL", "idle_timeout", f"timeout client {SHORT}", max_idle=SHORT)
def backend_ends_and_client_is_silent(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(backend, client)
    wait_for_end(backend)


@scenario("cL", "half_close_timeout", f"timeout client-fin {SHORT}", half_close_timeout=SHORT)
def backend_ends_and_client_stays(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(backend, client)
    wait_for_end(backend)


# -- the operator, and refused clients


@scenario("KD", "operator")
def operator_closes(stage: Stage) -> None:
    client, _ = stage.talk()
    stage.kill()
    wait_for_end(client)


@scenario("KC", "operator")
def operator_closes_while_connecting(stage: Stage) -> None:
    client = stage.client_of_silent_backend()
    stage.kill()
    wait_for_end(client)


@scenario("KL", "operator")
def operator_closes_after_backend_has_ended(stage: Stage) -> None:
    client, backend = stage.talk()
    half_close(backend, client)
    stage.kill()
    wait_for_end(backend)


@scenario("PR", "blocked", "tcp-request content reject", **BLOCKED)
def client_is_refused(stage: Stage) -> None:
    wait_for_end(stage.client())


# -- the two proxies


class HAProxy:
    """A running HAProxy, queried by its statistics socket; its log goes to a socket of the test's.

    :param path: the program.
    :param backends: the backend's port, by service.
    """

    _STATES = {"5": "connecting", "8": "open"}  # SC_ST_… in its source

    def __init__(self, path: str, folder: Path, backends: dict[str, int]) -> None:
        self._log = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._log.bind(("127.0.0.1", 0))
        self._log.settimeout(HANG_SECONDS)
        # Inherited listeners: a free port that was only looked up might be taken before it binds.
        listeners = {service: socket.create_server(("127.0.0.1", 0)) for service in backends}
        self._ports = {name: each.getsockname()[1] for name, each in listeners.items()}
        config = HAPROXY_CONFIG.format(log_port=self._log.getsockname()[1], folder=folder)
        for each in SCENARIOS:
            ports = {"fd": listeners[each.name].fileno(), "backend_port": backends[each.name]}
            config += HAPROXY_SERVICE.format(name=each.name, **ports)
            config += "".join(f"    {line}\n" for line in each.haproxy)
        (folder / "haproxy.cfg").write_text(config)
        self._stats = folder / "stats"
        self._program = Program(
            [path, "-db", "-f", folder / "haproxy.cfg"],
            pass_fds=[each.fileno() for each in listeners.values()],
        )
        for each_listener in listeners.values():
            each_listener.close()
        until(self._stats.exists, "HAProxy")

    def port(self, service: str) -> int:
        """Implements ``Proxy.port``."""
        return int(self._ports[service])

    def _ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(HANG_SECONDS)
            sock.connect(str(self._stats))
            sock.sendall(command.encode() + b"\n")
            return receive(sock, 1 << 20).decode()

    def _session(self, service: str) -> str:
        """The line about the service's only session; empty if there is none."""
        lines = self._ask("show sess").splitlines()
        return next((line for line in lines if f" fe={service} " in line), "")

    def state(self, service: str) -> str:
        """Implements ``Proxy.state``."""
        found = re.search(r" scb=\[(\d+),", self._session(service))
        return self._STATES.get(found[1], "other") if found else "none"

    def kill(self, service: str) -> None:
        """Implements ``Proxy.kill``."""
        self._ask(f"shutdown session {self._session(service).partition(':')[0]}")

    def code(self, service: str) -> str:
        """How the service's only connection ended."""
        line = ""
        while f" {service} {service}/" not in line:
            line = self._log.recv(4096).decode()
        return re.search(r" \d+ (\S\S) \d+/\d+/", line)[1]  # type: ignore[index]

    def close(self) -> None:
        """End it."""
        self._program.close()
        self._log.close()


class Ours:
    """A running monconn, queried by its control port.

    :param backends: the backend's port, by service.
    """

    def __init__(self, folder: Path, backends: dict[str, int]) -> None:
        services = {
            each.name: {
                "listen": "127.0.0.1:0",
                "backend": f"127.0.0.1:{backends[each.name]}",
                **each.monconn,
            }
            for each in SCENARIOS
        }
        services["unheard"] = {"listen": "127.0.0.1:0", "backend": ":1", **BLOCKED}
        control = f"unix:{folder / 'control'}"
        config = {"services": services, "control": {"listen": control}}
        (folder / "monconn.yaml").write_text(json.dumps(config))
        self._program = Monconn("monconn", ["-c", folder / "monconn.yaml"], folder)
        self._ports = {service: self._program.port(rf"\b{service}") for service in backends}
        self._client = Client(control)
        self._events = Program([SCRIPTS / "monconn", "events", "--json", "--control", control])
        until(self._reports_events, "the events")

    def _reports_events(self) -> bool:
        """Whether the end of a connection is reported."""
        connect(self._program.port(r"\bunheard")).close()
        return "unheard" in str(self._events.out)

    def port(self, service: str) -> int:
        """Implements ``Proxy.port``."""
        return int(self._ports[service])

    def _rows(self, service: str) -> list[dict[str, Any]]:
        return list(self._client.rows("ListConnections", service=service))

    def state(self, service: str) -> str:
        """Implements ``Proxy.state``."""
        rows = self._rows(service)
        return str(rows[0]["state"]) if rows else "none"

    def kill(self, service: str) -> None:
        """Implements ``Proxy.kill``."""
        self._client.call("CloseConnections", service=service)

    def ended(self, service: str) -> tuple[str, str]:
        """How the service's only connection ended: the code, and the reason or refusal."""
        pattern = rf'^(?=.*"event": "(closed|refused)")(?=.*"service": "{service}").*'
        event = json.loads(self._events.out.wait_for(pattern)[0])
        return event["code"], event.get("reason") or event["refusal"]

    def close(self) -> None:
        """End it."""
        self._client.close()
        self._events.close()
        self._program.close()


@attrs.frozen
class Both:
    """Both proxies, in front of the same backends."""

    haproxy: HAProxy
    ours: Ours
    backends: dict[str, socket.socket]


@pytest.fixture(scope="module")
def both(program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """The two, with a service for each scenario."""
    path = program("haproxy")
    folder = tmp_path_factory.mktemp("codes")
    with ExitStack() as cleanup:
        backends = {}
        for each in SCENARIOS:
            backends[each.name] = socket.create_server(("127.0.0.1", 0))
            cleanup.enter_context(backends[each.name]).settimeout(HANG_SECONDS)
        ports = {service: backend.getsockname()[1] for service, backend in backends.items()}
        haproxy = HAProxy(path, folder, ports)
        cleanup.callback(haproxy.close)
        ours = Ours(folder, ports)
        cleanup.callback(ours.close)
        yield Both(haproxy, ours, backends)


@pytest.mark.parametrize("each", SCENARIOS, ids=lambda each: each.name)
def test_code(both: Both, each: Scenario) -> None:
    for proxy in (both.haproxy, both.ours):
        with Stage(proxy, each.name, both.backends[each.name]) as stage:
            each.play(stage)
    theirs, ours, _ = DIFFERENT.get(each.name, (each.code, each.code, ""))
    assert both.ours.ended(each.name) == (ours, each.reason)
    assert both.haproxy.code(each.name) == theirs


def test_page_has_the_differences() -> None:
    _, _, section = PAGE.read_text().partition("## Compared with HAProxy")
    rows = re.findall(r"^\| (\w[^|`]*) \| `(..)` \| `(..)` \| (.*) \|$", section, re.MULTILINE)
    written = {scenario.replace(" ", "_"): tuple(rest) for scenario, *rest in rows}
    assert written == DIFFERENT


def test_differences_are_of_scenarios() -> None:
    """And they are differences, with our code as the scenario has it."""
    codes = {each.name: each.code for each in SCENARIOS}
    assert len(codes) == len(SCENARIOS)
    for name, (theirs, ours, _) in DIFFERENT.items():
        assert codes[name] == ours != theirs
