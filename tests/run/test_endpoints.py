"""The endpoint ``monconn:``: its strings, what it does while it listens, and real launchers."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IProtocolNegotiationFactory,
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.plugin import getPlugins
from zope.interface import implementer

import monconn
from monconn.addresses import TcpAddress, UnixAddress
from monconn.config.http import HttpConfig
from monconn.config.sections import ControlConfig
from monconn.faces.control.client import Client
from monconn.policy.sides import Keepalive
from monconn.policy.timeouts import Timeouts
from monconn.relay.sockets.loop import HAS_EPOLL
from monconn.run.endpoints import EndpointError, MonitoredEndpoint
from monconn.unixsocket import is_listening
from tests import ROOT
from tests.certificates import make_certificate
from tests.e2e.programs import (
    HANG_SECONDS,
    SCRIPTS,
    Backend,
    Program,
    connect,
    echo,
    is_refused,
    receive,
    until,
)

INNER = "tcp:0:interface=127.0.0.1"
QUOTED = r"tcp\:0\:interface\=127.0.0.1"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> monconn.Registry:
    """The library's own registry, empty."""
    monkeypatch.setattr(monconn.registry, "_monitors", {})
    return monconn.registry


def endpoint(description: str, on: Any = None) -> MonitoredEndpoint:
    made = serverFromString(MemoryReactorClock() if on is None else on, description)
    assert isinstance(made, MonitoredEndpoint)
    return made


def name(description: str) -> str:
    return endpoint(description).monitor.name


# -- the string


def test_twisted_finds_it() -> None:
    parsers = list(getPlugins(IStreamServerEndpointStringParser))
    assert [each.prefix for each in parsers].count("monconn") == 1
    assert IStreamServerEndpoint.providedBy(endpoint("monconn:tcp:8080"))


@pytest.mark.parametrize("module", ["monconn", "yaml", "twisted.internet.reactor", "OpenSSL"])
def test_the_plugin_file_imports_nothing_heavy(module: str) -> None:
    code = f"import twisted.plugins.monconn_plugin, sys; sys.exit({module!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("description", "inner"),
    [
        ("monconn:tcp:8080", "tcp:8080"),
        ("monconn:tcp:8080:interface=127.0.0.1", "tcp:8080:interface=127.0.0.1"),
        (r"monconn:tcp:8080:interface=\:\:1", r"tcp:8080:interface=\:\:1"),
        (r"monconn:tcp\:8080\:interface\=127.0.0.1", "tcp:8080:interface=127.0.0.1"),
        (r"monconn:tcp\:80\:interface=127.0.0.1", "tcp:80:interface=127.0.0.1"),
        (r"monconn:unix:/tmp/a\=b:mode=600", r"unix:/tmp/a\=b:mode=600"),
        (r"monconn:unix:/tmp/a\:b", r"unix:/tmp/a\:b"),
        (r"monconn:unix\:/tmp/a\\\:b", r"unix:/tmp/a\:b"),
    ],
)
def test_other_keywords_belong_to_the_inner_endpoint(description: str, inner: str) -> None:
    assert name(description) == inner


def test_twisteds_own_way_to_quote() -> None:
    inner = r"unix:/tmp/a\:b:mode=600:backlog=5"
    quoted = quoteStringArgument(inner)
    assert name(f"monconn:{quoted}") == inner
    assert name(f"monconn:{quoted}:mon.name=web") == "web"


@pytest.mark.parametrize("inner", ["tcp:8080", r"tcp\:8080\:interface\=127.0.0.1"])
def test_our_keywords_may_be_anywhere_after_it(inner: str) -> None:
    assert name(f"monconn:{inner}:mon.name=web") == "web"
    assert name(f"monconn:mon.name=web:{inner}") == "web"


def test_rules_and_limits() -> None:
    made = endpoint(
        "monconn:tcp:80:mon.conn_limit=10:mon.ip_limit=5:mon.max_idle=15m:mon.read_timeout=1.5"
        ":mon.write_timeout=0:mon.half_close_timeout=20:mon.max_lifetime=1h30m"
        r":mon.ip_blacklist=10.0.0.0/8,2001\:db8\:\:/32"
        r":mon.auto_block=3 of client_reset within 10s for 1h never 2001\:db8\:\:1"
    )
    rules = made.monitor.rules
    assert str(rules.auto_block) == (
        "{after: 3, of: [client_reset], within: 10s, for: 1h, never: [2001:db8::1], at_most: 1000}"
    )
    assert (rules.conn_limit, rules.ip_limit, rules.when_full) == (10, 5, "refuse")
    assert list(map(str, made.monitor.blocks())) == ["10.0.0.0/8", "2001:db8::/32"]
    assert made.monitor.timeouts == Timeouts(
        read_timeout=1.5, write_timeout=0, max_idle=900, half_close_timeout=20, max_lifetime=5400
    )


def test_rules_of_clients_and_rates(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("192.0.2.1\n")
    two.write_text("192.0.2.2\n")
    rules = endpoint(
        r"monconn:tcp:80:mon.allow=10.0.0.0/8,2001\:db8\:\:/32:mon.block=10.1.0.0/16"
        f":mon.block_files={one},{two}:mon.per_ip_limit=3:mon.rate=20/s burst 50"
        ":mon.per_ip_rate=100/m:mon.dry_run=rate,allow"
    ).monitor.policy.rules
    assert list(map(str, rules.allow)) == ["10.0.0.0/8", "2001:db8::/32"]
    assert list(map(str, rules.block)) == ["10.1.0.0/16"]
    assert list(map(str, rules.block_files)) == [str(one), str(two)]
    assert (rules.per_ip_limit, str(rules.rate), str(rules.per_ip_rate)) == (
        *(3, "20/s burst 50", "100/m"),
    )
    assert rules.dry_run == ("allow", "rate")


def test_files_of_networks_are_watched_while_it_listens(
    registry: monconn.Registry, tmp_path: Path
) -> None:
    file = tmp_path / "blocked"
    file.write_text("192.0.2.1\n")
    memory = MemoryReactorClock()
    made = endpoint(f"monconn:tcp:8080:mon.name=web:mon.block_files={file}", memory)
    assert [str(each) for each in made.monitor.blocks()] == ["192.0.2.1/32"]
    assert not memory.getDelayedCalls()
    now(made.listen(Factory.forProtocol(Protocol)))
    assert len(memory.getDelayedCalls()) == 1
    factory = memory.tcpServers[0][1]
    factory.doStart()
    factory.doStop()
    assert not memory.getDelayedCalls()


def test_defaults_are_the_librarys() -> None:
    monitor = endpoint("monconn:tcp:80").monitor
    assert monitor.timeouts == Timeouts()
    assert (monitor.rules.conn_limit, monitor.rules.ip_limit, monitor.blocks()) == (0, 0, [])


def test_keepalive_is_the_factorys() -> None:
    memory = MemoryReactorClock()
    now(endpoint("monconn:tcp:80:mon.keepalive=false", memory).listen(Negotiating()))
    factory: Any = memory.tcpServers[0][1]
    assert not factory.has_keepalive()


def test_keepalive_and_unreachable_timeout() -> None:
    given = "mon.keepalive=30s,10,3:mon.unreachable_timeout=20s"
    policy = endpoint(f"monconn:tcp:80:{given}").monitor.policy
    assert policy.keepalive.client == Keepalive(idle=30, interval=10, count=3)
    assert policy.timeouts.unreachable_timeout.client == 20


@pytest.mark.parametrize("key", ["when_full", "connect_timeout", "wait_timeout", "print_bytes"])
def test_settings_of_forwarders_only_are_no_keywords(key: str) -> None:
    with pytest.raises(ValueError, match="is not a known key"):
        endpoint(f"monconn:tcp:80:mon.{key}=wait")


@pytest.mark.parametrize(
    ("place", "config"),
    [
        ("default", ControlConfig()),
        ("/run/c.sock", ControlConfig(UnixAddress("/run/c.sock"))),
        (r"/run/a\=b\:c", ControlConfig(UnixAddress("/run/a=b:c"))),
        (r"unix\:/run/c.sock", ControlConfig(UnixAddress("/run/c.sock"))),
        (r"unix\:c.sock\:mode=660", ControlConfig(UnixAddress("c.sock", 0o660))),
    ],
)
def test_places_of_the_control_port(place: str, config: ControlConfig) -> None:
    assert endpoint(f"monconn:tcp:80:mon.control={place}")._admin_ports == (config,)


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("9180", TcpAddress("127.0.0.1", 9180)),
        ("/run/h.sock", UnixAddress("/run/h.sock")),
        (r"unix\:h.sock\:mode=660", UnixAddress("h.sock", 0o660)),
    ],
)
def test_places_of_the_page(place: str, address: TcpAddress | UnixAddress) -> None:
    assert endpoint(f"monconn:tcp:80:mon.http={place}")._admin_ports == (HttpConfig(address),)


@pytest.mark.parametrize(
    ("rest", "said"),
    [
        ("", "say what to listen on, such as monconn:tcp:8080"),
        (
            "tcp:80:mon.nmae=x",
            '"mon.nmae" is not a known key: did you mean mon.name? Known are mon',
        ),
        ("tcp:80:mon.x=x", '"mon.x" is not a known key: Known are mon.name, mon.control, mon.http'),
        ("tcp:80:mon.name=", "mon.name: must not be empty"),
        (
            "tcp:80:mon.keepalive=no",
            "mon.keepalive: must be true or false, or idle, interval and count such as",
        ),
        ("tcp:80:mon.keepalive=1.5,10,3", "mon.keepalive: must be whole seconds"),
        ("tcp:80:mon.keepalive=30,10,x", "mon.keepalive: must be a whole number such as 3"),
        ("tcp:80:mon.unreachable_timeout=soon", "mon.unreachable_timeout: must be a number of"),
        (
            "tcp:80:mon.conn_limit=-1",
            'mon.conn_limit: must be a whole number such as 100, not "-1"',
        ),
        ("tcp:80:mon.max_idle=soon", "mon.max_idle: must be a number of seconds or a text like"),
        ("tcp:80:mon.ip_blacklist=10.0.0.0/33", "mon.ip_blacklist: "),
        ("tcp:80:mon.rate=soon", "mon.rate: must be a number in a time, such as 20/s"),
        ("tcp:80:mon.dry_run=max_idle", "mon.dry_run: must be rules, of block, allow"),
        ("tcp:80:mon.block_files=/no/such", 'mon.block_files: must be files that list networks: "'),
        ("tcp:80:mon.control=", r"mon.control: must be default, a path or unix\:PATH"),
        ("tcp:80:mon.control=unix:/run/c", "mon.control: must be default, a path or "),
        ("tcp:80:mon.control=127.0.0.1:7000", "mon.control: must be default, a path or "),
        (r"tcp:80:mon.control=\:7000", "mon.control: must be default, a path or "),
        (r"tcp:80:mon.control=192.0.2.1\:7000", "mon.control: must be default, a path or "),
        (r"tcp:80:mon.control=ssl\:7000", "mon.control: must be default, a path or "),
        (r"tcp:80:mon.control=127.0.0.1\:http", "mon.control: "),
        (r"tcp:80:mon.http=192.0.2.1\:9180", "mon.http: must be a port of 127.0.0.1, such as"),
        (r"tcp:80:mon.http=99999", "mon.http: "),
        (r"tcp:80:mon.http=default", "mon.http: must be a port of 127.0.0.1, such as"),
        ("tcq:80", """cannot use "tcq:80": Unknown endpoint type: 'tcq'"""),
        ("tcp:http", 'cannot use "tcp:http": '),
        ("tcp:80:backlg=5", 'cannot use "tcp:80:backlg=5": '),
        (
            r"tcp\:80:backlog=5",
            '"backlog=5" is not a mon. keyword: it belongs inside of the quoted end',
        ),
        (
            r"tcp\:80:50",
            '"50" is not a mon. keyword: it belongs inside of the quoted endpoint "tcp:80"',
        ),
        (r"monconn\:tcp\:80\:mon.x\=1:mon.name=a", '"mon.x" is not a known key'),
        ("haproxy:tcp:80", "it would record, limit and block the load balancer instead."),
        (r"haproxy\:tcp\:80:mon.name=a", "Listen without haproxy:"),
    ],
)
def test_problems_are_reported_in_one_line(rest: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"^monconn: ") as caught:  # as Twisted's own do
        endpoint(f"monconn:{rest}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.code == str(caught.value)  # type: ignore[attr-defined]


# -- while it listens


@implementer(IProtocolNegotiationFactory)
class Negotiating(Factory):
    protocol = Protocol

    def acceptableProtocols(self) -> list[bytes]:
        return [b"h2", b"http/1.1"]


def now(deferred: Deferred[Any]) -> Any:
    """What a Deferred has already fired with."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "it has not fired"
    return results[0]


def test_it_listens_with_a_monitor_around_the_factory(registry: monconn.Registry) -> None:
    memory = MemoryReactorClock()
    made = endpoint("monconn:tcp:8080:mon.name=web", memory)
    assert registry.names() == []  # a string that is only parsed leaves nothing behind
    now(made.listen(Factory.forProtocol(Protocol)))
    ((number, factory, *_),) = memory.tcpServers
    assert number == 8080
    factory.doStart()
    assert registry.get("web") is made.monitor
    protocol: Any = factory.buildProtocol(IPv4Address("TCP", "192.0.2.7", 1234))
    protocol.makeConnection(FakeTransport(memory))
    assert [record.client for record in made.monitor.connections()] == ["192.0.2.7:1234"]
    factory.doStop()
    assert registry.names() == []


def test_a_factory_that_negotiates_is_still_one_that_does() -> None:
    memory = MemoryReactorClock()
    now(endpoint("monconn:tcp:1", memory).listen(Negotiating()))
    now(endpoint("monconn:tcp:2", memory).listen(Factory.forProtocol(Protocol)))
    first, second = (server[1] for server in memory.tcpServers)
    assert IProtocolNegotiationFactory.providedBy(first)
    assert first.acceptableProtocols() == [b"h2", b"http/1.1"]
    assert not IProtocolNegotiationFactory.providedBy(second)


def test_one_within_haproxy_does_not_listen(registry: monconn.Registry) -> None:
    around = serverFromString(MemoryReactorClock(), "haproxy:monconn:tcp:0")
    failure = now(around.listen(Factory.forProtocol(Protocol)))
    failure.trap(EndpointError)
    assert "leave haproxy: out" in failure.getErrorMessage()
    assert "\n" not in failure.getErrorMessage()
    assert list(registry) == []


def test_a_name_that_is_taken_is_reported(registry: monconn.Registry) -> None:
    memory = MemoryReactorClock()
    now(endpoint("monconn:tcp:1:mon.name=web", memory).listen(Negotiating()))
    failure = now(endpoint("monconn:tcp:2:mon.name=web", memory).listen(Negotiating()))
    assert failure.check(EndpointError)
    assert failure.getErrorMessage() == (
        "monconn: a service named 'web' exists already: give this one another mon.name"
    )
    assert (len(memory.tcpServers), registry.names()) == (1, ["web"])


def test_an_endpoint_may_listen_more_than_once(registry: monconn.Registry) -> None:
    memory = MemoryReactorClock()
    made = endpoint("monconn:tcp:0:mon.name=web", memory)
    now(made.listen(Negotiating()))
    now(made.listen(Negotiating()))
    first, second = (server[1] for server in memory.tcpServers)
    for factory in (first, second):
        factory.doStart()
    first.doStop()
    assert registry.names() == ["web"]
    second.doStop()
    assert registry.names() == []
    now(made.listen(Negotiating()))
    assert registry.names() == ["web"]


def test_one_that_was_deleted_meanwhile_leaves_its_successor(registry: monconn.Registry) -> None:
    memory = MemoryReactorClock()
    now(endpoint("monconn:tcp:0:mon.name=web", memory).listen(Negotiating()))
    memory.tcpServers[0][1].doStart()
    monconn.delete("web")
    successor = monconn.new("web")
    memory.tcpServers[0][1].doStop()
    assert list(registry) == [successor]


@implementer(IStreamServerEndpoint)
class Failing:
    def listen(self, protocolFactory: Any) -> Deferred[Any]:
        return fail(CannotListenError("", 80, OSError("in use")))


@pytest_twisted.ensureDeferred
async def test_one_that_cannot_listen_leaves_nothing_open(
    registry: monconn.Registry, tmp_path: Path
) -> None:
    path = tmp_path / "c.sock"
    made = endpoint(f"monconn:tcp:0:mon.control={path}", reactor)
    made._inner = Failing()
    with pytest.raises(CannotListenError):
        await made.listen(Negotiating())
    assert registry.names() == []
    await it_is_so(lambda: not path.exists())


def test_an_unavailable_control_port_is_reported(
    registry: monconn.Registry, tmp_path: Path
) -> None:
    memory = MemoryReactorClock()
    made = endpoint(f"monconn:tcp:0:mon.control={tmp_path}/no/c.sock", memory)
    failure = now(made.listen(Negotiating()))
    assert failure.check(EndpointError)
    assert "no such file or directory" in failure.getErrorMessage()
    assert (memory.tcpServers, registry.names()) == ([], [])


@pytest_twisted.ensureDeferred
async def test_endpoints_that_name_the_same_control_port_share_it(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    texts = [f"monconn:{INNER}:mon.name={each}:mon.control={path}" for each in ("one", "two")]
    ports: Any = [await endpoint(text, reactor).listen(Negotiating()) for text in texts]
    one, two = ports
    assert is_listening(path)
    await one.stopListening()
    await deferLater(reactor, 0)
    assert is_listening(path)
    await two.stopListening()
    await it_is_so(lambda: not path.exists())

    again: Any = await endpoint(texts[0], reactor).listen(Negotiating())
    assert is_listening(path)
    await again.stopListening()
    await it_is_so(lambda: not path.exists())


@pytest_twisted.ensureDeferred
async def test_the_page_is_served_while_one_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A control port of the same program makes links to it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    control, page = tmp_path / "c.sock", tmp_path / "h.sock"
    texts = [f"monconn:{INNER}:mon.name=one:mon.control={control}"]
    texts.append(f"monconn:{INNER}:mon.name=two:mon.http={page}")
    one, two = [cast(Any, await endpoint(text, reactor).listen(Negotiating())) for text in texts]

    def listed() -> list[str]:
        with Client(str(control)) as client:
            token = client.call("MakeToken", role="view")["token"]
        connection = http.client.HTTPConnection("localhost", timeout=HANG_SECONDS)
        with closing(connection), socket.socket(socket.AF_UNIX) as connection.sock:
            connection.sock.connect(str(page))
            headers = {"Authorization": f"Bearer {token}"}
            connection.request("GET", "/api/v1/services", headers=headers)
            rows = json.load(connection.getresponse())["rows"]
        return [row["sid"] for row in rows]

    assert await deferToThread(listed) == ["one", "two"]
    await two.stopListening()
    await it_is_so(lambda: not page.exists())
    assert is_listening(control)
    await one.stopListening()
    await it_is_so(lambda: not control.exists())


@pytest_twisted.ensureDeferred
async def test_without_the_page_there_is_no_control_port_either(
    registry: monconn.Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    path = tmp_path / "c.sock"
    ports = f"mon.control={path}:mon.http={tmp_path}/no/h.sock"
    failure = now(endpoint(f"monconn:{INNER}:{ports}", reactor).listen(Negotiating()))
    assert failure.check(EndpointError)
    assert "http: " in failure.getErrorMessage()
    assert (path.exists(), registry.names()) == (False, [])


async def it_is_so(condition: Callable[[], bool]) -> None:
    """Let the reactor run until a condition holds."""
    give_up = time.monotonic() + HANG_SECONDS
    while not condition():
        assert time.monotonic() < give_up
        await deferLater(reactor, 0.001)


class FakeTransport:
    """Just enough of a transport."""

    disconnecting = False

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.7", 1234)

    getHost = getPeer


# -- under the real launchers


@pytest.fixture
def twistd(tmp_path: Path) -> Iterator[Callable[..., Program]]:
    """Starts ``twistd -n`` in a folder of its own, and ends it."""
    started: list[Program] = []

    def start(*args: str | Path) -> Program:
        argv = [SCRIPTS / "twistd", f"--pidfile={tmp_path}/{len(started)}.pid", "-n", *args]
        env = {"XDG_RUNTIME_DIR": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state")}
        started.append(Program(argv, cwd=tmp_path, env=env))
        return started[-1]

    yield start
    for program in started:
        program.close()


@pytest.fixture
def control(tmp_path: Path) -> Iterator[Callable[[Program], Client]]:
    """Talks to the control port of what runs in the same folder, once there is one."""
    clients: list[Client] = []
    path = tmp_path / "monconn" / "control.sock"

    def ask(program: Program) -> Client:
        until(lambda: is_listening(path) or program.process.poll() is not None, f"{path}")
        assert program.process.poll() is None, f"{program.out}{program.err}"
        clients.append(Client(str(path)))
        return clients[-1]

    yield ask
    for client in clients:
        client.close()


def service(client: Client, name: str) -> dict[str, Any]:
    (row,) = client.rows("ListServices", service=name)
    found: dict[str, Any] = row
    return found


def port(client: Client, name: str) -> int:
    """Where a service listens; the control port is open a moment before."""

    def number() -> str:
        last: str = service(client, name)["listen"].rpartition(":")[2]
        return last if last.isdecimal() else ""

    return int(until(number, "the port"))


def live(client: Client) -> list[dict[str, Any]]:
    return list(client.rows("ListConnections"))


def end_in_order(program: Program) -> None:
    program.send(15)
    assert program.status() in (0, -15)  # twistd ends itself by the signal that ended it


def test_twistd_ends_the_streams_of_the_page_in_order(
    twistd: Callable[..., Program], control: Callable[[Program], Client], tmp_path: Path
) -> None:
    page = tmp_path / "h.sock"
    options = f"mon.name=web:mon.control=default:mon.http={page}"
    web = twistd("web", "--path", tmp_path, "--listen", f"monconn:{INNER}:{options}")
    token = control(web).call("MakeToken", role="view", name="t")["token"]
    connection = http.client.HTTPConnection("localhost", timeout=HANG_SECONDS)
    with closing(connection), socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.connect(str(page))
        headers = {"Authorization": f"Bearer {token}"}
        connection.request("GET", "/api/v1/live", headers=headers)
        answer = connection.getresponse()
        assert b"event: hello" in answer.read1()
        end_in_order(web)
        answer.read()  # fails if the last chunk is missing


@pytest.mark.parametrize("inner", [INNER, QUOTED])
def test_twistd_web(
    inner: str,
    twistd: Callable[..., Program],
    control: Callable[[Program], Client],
    tmp_path: Path,
) -> None:
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "hello.txt").write_text("hello\n")
    options = "mon.name=web:mon.control=default"
    web = twistd("web", "--path", tmp_path / "pages", "--listen", f"monconn:{inner}:{options}")
    asked = control(web)
    with connect(port(asked, "web")) as browser:
        browser.sendall(b"GET /hello.txt HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"hello\n"):
            answer += browser.recv(65536)
        (row,) = live(asked)
        assert row["service"] == "web"
        assert (row["up"], row["down"]) == (36, len(answer))
        here = browser.getsockname()
        assert row["client"] == f"127.0.0.1:{here[1]}"
        assert service(asked, "web")["backend"] == "Site"
        asked.call("CloseConnections", ids=[row["id"]])
        assert browser.recv(1) == b""
    until(lambda: not live(asked), "the end")
    (closed,) = asked.rows("ListConnections", closed=True)
    assert (closed["id"], closed["reason"]) == (row["id"], "operator")
    (device,) = asked.rows("ListDevices")
    assert (device["device"], device["total"]) == ("127.0.0.1", 1)
    end_in_order(web)
    assert not (tmp_path / "monconn" / "control.sock").exists()


def test_over_tls_clear_text_is_counted_and_a_protocol_negotiated(
    twistd: Callable[..., Program], control: Callable[[Program], Client], tmp_path: Path
) -> None:
    made = make_certificate(tmp_path)
    files = f"privateKey={made.key}:certKey={made.certificate}"
    listen = f"monconn:ssl:0:interface=127.0.0.1:{files}:mon.name=web:mon.control=default"
    web = twistd("web", "--path", tmp_path, "--listen", listen)
    asked = control(web)
    plain = connect(port(asked, "web"))
    with made.client_side().wrap_socket(plain, server_hostname="localhost") as browser:
        assert browser.selected_alpn_protocol() in ("h2", "http/1.1")
        browser.sendall(b"GET / HT")
        (row,) = until(lambda: [row for row in live(asked) if row["up"]], "what was sent")
        assert (row["up"], row["down"]) == (8, 0)


def test_two_endpoints_of_one_program(
    twistd: Callable[..., Program], control: Callable[[Program], Client], tmp_path: Path
) -> None:
    web = twistd(
        *("web", "--path", tmp_path),
        *("--listen", f"monconn:{INNER}:mon.name=one:mon.control=default"),
        *("--listen", f"monconn:{INNER}:mon.name=two:mon.control=default:mon.conn_limit=1"),
    )
    asked = control(web)
    until(lambda: len(list(asked.rows("ListServices"))) == 2, "the second service")
    with connect(port(asked, "two")) as first, connect(port(asked, "one")):
        until(lambda: len(live(asked)) == 2, "two connections")
        with connect(port(asked, "two")) as second:
            assert second.recv(1) == b""
        assert service(asked, "two")["refused_by"] == {"conn_limit": 1}
        asked.call("Block", network="127.0.0.1", service="two")
        assert first.recv(1) == b""


def test_a_usage_error_is_one_line(twistd: Callable[..., Program]) -> None:
    web = twistd("web", "--listen", "monconn:tcp:0:mon.nmae=web")
    assert web.status() == 1
    web.err.wait_for(r"\Amonconn: \"mon.nmae\" is not a known key: did you mean mon.name\?.*\n\Z")
    assert "Traceback" not in str(web.out) + str(web.err)


def test_an_unavailable_control_port_ends_the_program_in_one_line(
    twistd: Callable[..., Program], tmp_path: Path
) -> None:
    web = twistd("web", "--listen", f"monconn:{INNER}:mon.control={tmp_path}/no/c.sock")
    assert web.status() == 1
    web.out.wait_for(
        r"monconn: cannot listen on .*no such file or directory: there is no folder .* makes none$"
    )
    assert "Traceback" not in str(web.out) + str(web.err)


# -- an SSH server behind it


@pytest.fixture
def ssh_server(
    twistd: Callable[..., Program], program: Callable[[str], str], tmp_path: Path
) -> Program:
    pytest.importorskip("twisted.conch.tap", exc_type=ImportError)
    keys = tmp_path / "keys"
    keys.mkdir()
    keygen = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f"]
    subprocess.run([*keygen, keys / "ssh_host_ed25519_key"], check=True, timeout=HANG_SECONDS)
    listen = f"monconn:{INNER}:mon.name=ssh:mon.control=default"
    return twistd("conch", "-d", keys, "--auth", "memory:ada:secret", "--port", listen)


def test_an_ssh_handshake_reaches_the_authentication(
    ssh_server: Program,
    control: Callable[[Program], Client],
    program: Callable[[str], str],
    tmp_path: Path,
) -> None:
    asked = control(ssh_server)
    options = ["BatchMode=yes", "StrictHostKeyChecking=no", f"UserKnownHostsFile={tmp_path}/known"]
    done = subprocess.run(
        [
            *(program("ssh"), "-F", "none", "-v", "-p", str(port(asked, "ssh"))),
            *(part for option in options for part in ("-o", option)),
            *("ada@127.0.0.1", "true"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
    )
    assert "Authentications that can continue: password" in done.stderr
    assert "Permission denied" in done.stderr
    until(lambda: not live(asked), "the end")
    (row,) = asked.rows("ListConnections", closed=True)
    assert row["service"] == "ssh"
    assert min(row["up"], row["down"]) > 500  # both sides' key exchange
    assert row["reason"] in ("client_closed", "backend_closed", "client_reset")


def test_an_ssh_connection_is_closed_by_its_id(
    ssh_server: Program, control: Callable[[Program], Client]
) -> None:
    asked = control(ssh_server)
    with connect(port(asked, "ssh")) as client:
        assert client.recv(8, socket.MSG_WAITALL) == b"SSH-2.0-"
        (row,) = live(asked)
        assert row["down"] > 8
        client.sendall(b"SSH-2.0-test\r\n")
        until(lambda: live(asked)[0]["up"] == 14, "what was sent")
        asked.call("CloseConnections", ids=[row["id"]])
        while client.recv(65536):
            pass
    until(lambda: not live(asked), "the end")


# -- our reactor


@pytest.mark.skipif(not HAS_EPOLL, reason="needs epoll")
def test_twistd_runs_on_our_reactor(twistd: Callable[..., Program]) -> None:
    backend = Backend(echo)
    pair = f"127.0.0.1:0=127.0.0.1:{backend.port}"
    launched = twistd("--reactor=monconn", "monconn", "-p", pair)
    launched.out.wait_for(r"reactor class: monconn\.relay\.sockets\.reactor\.MonconnReactor")
    number = int(launched.out.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1])
    with connect(number) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
    end_in_order(launched)
    assert is_refused(number)
    backend.close()


@pytest.mark.skipif(not HAS_EPOLL, reason="needs epoll")
def test_twist_lists_our_reactor() -> None:
    done = subprocess.run(
        [SCRIPTS / "twist", "--help"], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert "monconn" in done.stdout
