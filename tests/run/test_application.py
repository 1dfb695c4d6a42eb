"""From a configuration to running services, and failing starts."""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call, patch

import attrs
import pytest
import pytest_twisted
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.testing import MemoryReactorClock
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from monconn.addresses import EndpointAddress, TcpAddress, UnixAddress
from monconn.config.config import Config, ServiceConfig
from monconn.config.sections import DevicesConfig
from monconn.errors import ListenError
from monconn.monitor.registry import Registry
from monconn.policy.prefixes import ClientPrefixes
from monconn.policy.timeouts import Timeouts
from monconn.run.application import Application
from monconn.run.supervisor import PAUSES_SECONDS

LOOPBACK = TcpAddress("127.0.0.1", 0)
IN_USE = CannotListenError("any", 443, OSError(98, "Address already in use"))
HANG_SECONDS = 30.0


def service(name: str = "web", **kwargs: Any) -> ServiceConfig:
    addresses = {key: kwargs.pop(key, LOOPBACK) for key in ("listen", "backend")}
    return ServiceConfig(name, **addresses).changed(**kwargs)


def make_app(*services: ServiceConfig, **kwargs: Any) -> Application:
    from twisted.internet import reactor

    return Application(Config(services=services), reactor, **kwargs)


@pytest.fixture(autouse=True)
def one_try() -> Iterator[None]:
    """For the real listeners; pauses between several are tested with them."""
    with patch("monconn.run.supervisor.PAUSES_SECONDS", ()):
        yield


# -- from the configuration to the monitors


@pytest_twisted.inlineCallbacks
def test_each_service_has_a_monitor_with_its_rules_and_timeouts() -> Any:
    registry = Registry()
    timeouts = {
        "connect_timeout": 1.0,
        "read_timeout": 2.0,
        "write_timeout": 3.0,
        "max_idle": 4.0,
        "half_close_timeout": 5.0,
        "max_lifetime": 6.0,
    }
    blocked = ipaddress.ip_network("192.0.2.0/24")
    app = make_app(
        service(
            "web",
            backend=UnixAddress("/tmp/web"),
            conn_limit=7,
            ip_limit=8,
            when_full="refuse",
            ip_blacklist=(blocked,),
            **timeouts,
        ),
        service("ssh"),
        registry=registry,
    )
    app.startService()
    assert registry.names() == ["web", "ssh"]
    web = registry.get("web")
    assert web.timeouts == Timeouts(**timeouts)
    assert (web.rules.conn_limit, web.rules.ip_limit, web.rules.when_full) == (7, 8, "refuse")
    assert web.blocks() == [blocked]
    assert web.listen.startswith("127.0.0.1:")
    assert web.backend == "unix:/tmp/web"
    assert not registry.get("ssh").rules.conn_limit
    yield app.stopService()


@pytest_twisted.inlineCallbacks
def test_only_those_that_print_bytes_are_watched() -> Any:
    app = make_app(service("web", print_bytes=True), service("ssh"))
    app.startService()
    assert app.registry.get("web").watched
    assert not app.registry.get("ssh").watched
    yield app.stopService()


@pytest_twisted.inlineCallbacks
def test_rules_take_for_one_client_what_devices_say() -> Any:
    from twisted.internet import reactor

    services = (service("web"), service("own", prefix_v4=16))
    config = Config(services=services, devices=DevicesConfig(prefix_v4=24), control=None)
    app = Application(config, reactor)
    app.startService()
    web, own = (app.registry.get(name).admission for name in ("web", "own"))
    assert (web.prefixes, own.prefixes) == (ClientPrefixes(24, 64), ClientPrefixes(16, 64))
    app._reload_applied(attrs.evolve(config, devices=DevicesConfig(prefix_v6=56)))
    assert (web.prefixes, own.prefixes) == (ClientPrefixes(32, 56), ClientPrefixes(16, 56))
    assert app.registry.new("late").admission.prefixes == ClientPrefixes(32, 56)
    yield app.stopService()


# -- the start


def connects_to(address: TcpAddress | UnixAddress) -> bool:
    where: str | tuple[str, int]
    if isinstance(address, UnixAddress):
        family, where = socket.AF_UNIX, address.path
    else:
        family, where = socket.AF_INET, (address.host, address.port)
    with socket.socket(family) as client:
        return client.connect_ex(where) == 0


def port_of(app: Application, name: str) -> TcpAddress:
    host, _, port = app.registry.get(name).listen.rpartition(":")
    return TcpAddress(host, int(port))


@pytest_twisted.inlineCallbacks
@pytest.mark.parametrize("has_privileged_start", [True, False])  # twistd has, twist has not
def test_a_start_opens_every_listener_and_a_stop_closes_it(
    has_privileged_start: bool, tmp_path: Path
) -> Any:
    path = UnixAddress(str(tmp_path / "web.sock"))
    app = make_app(service("path", listen=path), service("port"))
    if has_privileged_start:
        app.privilegedStartService()
    app.startService()
    port = port_of(app, "port")
    assert port.port  # that the kernel chose
    assert connects_to(path)
    assert connects_to(port)
    yield app.stopService()
    assert not connects_to(port)
    assert not Path(path.path).exists()


@pytest.mark.parametrize("start", [Application.privilegedStartService, Application.startService])
def test_a_start_that_fails_leaves_nothing_open(
    start: Callable[[Application], None], tmp_path: Path
) -> None:
    path = UnixAddress(str(tmp_path / "web.sock"))
    nowhere = UnixAddress(str(tmp_path / "no such folder" / "web.sock"))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = TcpAddress("127.0.0.1", other.getsockname()[1])
    app = make_app(
        service("path", listen=path), service("port", listen=port), service("no", listen=nowhere)
    )
    with pytest.raises(ListenError, match=r"cannot listen on unix:.*: no such file"):
        start(app)
    assert not connects_to(port)
    assert not Path(path.path).exists()
    assert app.registry.names() == []


@pytest_twisted.inlineCallbacks
def test_a_second_stop_signal_ends_every_connection() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as backend:
        address = TcpAddress("127.0.0.1", backend.getsockname()[1])
        app = make_app(service("web", backend=address, wait_timeout=600.0))
        app.startService()
        client = yield deferToThread(_served_client, port_of(app, "web"), backend)
        with client:
            stopped = app.stopService()
            assert not stopped.called
            app.stop_now()
            yield stopped
    (record,) = app.registry.get("web").closed_records
    assert record.reason == "stopping"


def _served_client(address: TcpAddress, backend: socket.socket) -> socket.socket:
    client = socket.create_connection((address.host, address.port), timeout=HANG_SECONDS)
    backend.settimeout(HANG_SECONDS)
    backend.accept()[0].close()
    return client


# -- endpoints of others


class FakePort:
    def __init__(self, address: object) -> None:
        self._address = address
        self.stopped = False

    def getHost(self) -> object:
        return self._address

    def stopListening(self) -> None:
        self.stopped = True


@pytest.fixture
def endpoint() -> Iterator[Mock]:
    """What every endpoint string provides."""
    made = Mock(spec=["listen"])
    with patch("monconn.run.ports.serverFromString", return_value=made):
        yield made


@pytest.fixture
def sleep() -> Iterator[Mock]:
    with (
        patch("monconn.run.supervisor.PAUSES_SECONDS", PAUSES_SECONDS),
        patch("monconn.run.supervisor.time.sleep") as mock,
    ):
        yield mock


def app_before_the_reactor_runs(*services: ServiceConfig, **kwargs: Any) -> Application:
    return Application(Config(services=services), MemoryReactorClock(), **kwargs)


def foreign(description: str = "ssl:443:privateKey=k.pem:backlog=5") -> ServiceConfig:
    return service("foreign", listen=EndpointAddress(description), when_full="wait")


def test_a_taken_address_is_free_at_the_second_attempt(sleep: Mock) -> None:
    other = socket.create_server(("127.0.0.1", 0))
    address = TcpAddress("127.0.0.1", other.getsockname()[1])
    sleep.side_effect = lambda seconds: other.close()
    app = app_before_the_reactor_runs(service(listen=address))
    app.privilegedStartService()
    assert app.registry.get("web").listen == str(address)
    assert sleep.call_args_list == [call(0.5)]
    app.supervisor.stop()


def test_a_taken_address_is_tried_three_times(sleep: Mock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = TcpAddress("127.0.0.1", other.getsockname()[1])
        app = app_before_the_reactor_runs(service(listen=address))
        with pytest.raises(ListenError, match=f"^cannot listen on {address}: address already in"):
            app.privilegedStartService()
    assert sleep.call_args_list == [call(0.5), call(1.0)]


def test_a_missing_permission_is_not_tried_again(sleep: Mock) -> None:
    app = app_before_the_reactor_runs(service(listen=TcpAddress("0.0.0.0", 80)))
    denied = PermissionError(errno.EACCES, "Permission denied")
    with (
        patch("monconn.net.listen._bind", side_effect=denied),
        pytest.raises(ListenError, match=r"^cannot listen on 0\.0\.0\.0:80: permission denied: "),
    ):
        app.privilegedStartService()
    sleep.assert_not_called()


def test_a_taken_port_is_tried_three_times(endpoint: Mock, sleep: Mock) -> None:
    endpoint.listen.side_effect = lambda factory: fail(IN_USE)
    app = app_before_the_reactor_runs(foreign())
    problem = r"^cannot listen on ssl:443:privateKey=k\.pem:backlog=5: address already in use$"
    with pytest.raises(ListenError, match=problem):
        app.startService()
    assert endpoint.listen.call_count == 3
    assert [call.args for call in sleep.call_args_list] == [(0.5,), (1.0,)]


def test_a_port_that_becomes_free_is_taken(endpoint: Mock, sleep: Mock) -> None:
    port = FakePort(IPv4Address("TCP", "0.0.0.0", 443))
    endpoint.listen.side_effect = [fail(IN_USE), succeed(port)]
    app = app_before_the_reactor_runs(foreign())
    app.startService()
    assert sleep.call_count == 1
    app.stopService()
    assert port.stopped


def test_a_permanent_listen_error_is_tried_once(endpoint: Mock, sleep: Mock) -> None:
    endpoint.listen.side_effect = ValueError("No such thing")
    with pytest.raises(ListenError, match=r"cannot listen on .*: no such thing"):
        app_before_the_reactor_runs(foreign()).startService()
    sleep.assert_not_called()


def test_a_later_failure_is_reported(endpoint: Mock) -> None:
    listening: Deferred[object] = Deferred()
    endpoint.listen.return_value = listening
    failures: list[ListenError] = []
    app = app_before_the_reactor_runs(foreign(), failed=failures.append)
    app.startService()
    assert not failures
    listening.errback(Failure(OSError(99, "Too late")))
    assert [str(error) for error in failures] == [
        "cannot listen on ssl:443:privateKey=k.pem:backlog=5: too late"
    ]


def test_an_endpoint_cannot_leave_clients_waiting_and_so_refuses(endpoint: Mock) -> None:
    endpoint.listen.return_value = Deferred()
    app = app_before_the_reactor_runs(foreign())
    app.startService()
    assert app.registry.get("foreign").rules.when_full == "refuse"


@pytest.mark.parametrize(
    ("description", "address", "expected"),
    [
        ("ssl:0:backlog=5", IPv4Address("TCP", "x", 77), "ssl:77:backlog=5"),
        ("tcp:port=0:backlog=5", IPv4Address("TCP", "x", 77), "tcp:port=77:backlog=5"),
        ("tls:443:a\\:0", IPv4Address("TCP", "x", 443), "tls:443:a\\:0"),
        ("foo:0", UNIXAddress("/tmp/foo"), "foo:0"),
    ],
)
def test_the_port_chosen_for_0_is_reported(
    endpoint: Mock, description: str, address: object, expected: str
) -> None:
    endpoint.listen.return_value = succeed(FakePort(address))
    app = app_before_the_reactor_runs(foreign(description))
    app.startService()
    assert app.registry.get("foreign").listen == expected
