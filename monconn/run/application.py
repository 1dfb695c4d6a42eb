"""From a configuration to running services: the only place where the parts are put together."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from OpenSSL.SSL import NO_OVERLAPPING_PROTOCOLS
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.logger import Logger
from twisted.python.failure import Failure

from monconn.addresses import EndpointAddress, TcpAddress, UnixAddress
from monconn.clock import MonotonicClock
from monconn.config.config import Config, ServiceConfig
from monconn.config.sections import (
    HistoryConfig,
    JsonLogConfig,
    MetricsConfig,
    ObserverConfig,
)
from monconn.devices.devices import DevicesService
from monconn.errors import ListenError, MonconnError, ObserverError
from monconn.monitor.interfaces import IObserver
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.net.listen import PAUSES_SECONDS, Listener, open_listener
from monconn.policy.networks import NetworkSet
from monconn.policy.rules import Rules
from monconn.policy.timeouts import Timeouts
from monconn.relay.forwarder import Forwarder, ForwardingFactory
from monconn.relay.paths import DataPaths
from monconn.sinks.closelog import CloseLog
from monconn.sinks.hexdump import HexDump

T = TypeVar("T", bound=Service)

_FLUSH_SECONDS = 1.0
_PORT_0 = re.compile(r"(?<!\\):(port=)?0(?=:|$)")


class Application(MultiService):
    """Every service of a configuration, with what they share.

    :param config: what to run.
    :param reactor: the reactor to run on.
    :param registry: where to keep the monitors.
    :param show: takes the text of hex dumps; called in a thread.
    :param failed: told of a listener that failed only once the reactor ran.
    """

    def __init__(
        self,
        config: Config,
        reactor: Any,
        registry: Registry | None = None,
        *,
        show: Callable[[str], object] | None = None,
        failed: Callable[[ListenError], object] | None = None,
    ) -> None:
        super().__init__()
        self.registry = Registry() if registry is None else registry
        self._clock = MonotonicClock(reactor)
        self._close_log = CloseLog(self._clock)
        self._hex_dump = HexDump(show or _write_to_stdout)
        self._has_listeners = False
        self._roads = DataPaths(reactor, self._clock)
        self._shared = (self.registry, reactor, self._clock)
        # What keeps things stands before the first client comes, and until after the last.
        self._add_observers(config)
        self._devices = self._add(DevicesService(config.devices, *self._shared))
        self._history = self._add_history(config.history)
        self._json_log = self._add_json_log(config.json_log)
        for service_config in config.services:
            monitor = self._monitor(service_config)
            service = ForwardService(
                service_config, monitor, self._roads, reactor, failed or _log_failure
            )
            service.setServiceParent(self)
        self._add_metrics(config.metrics)
        self._add_admin_interfaces(config)

    def _add(self, service: T) -> T:
        service.setServiceParent(self)
        return service

    # Each imports what it needs only if it is wanted.

    def _add_observers(self, config: Config) -> None:
        for each in config.observers:
            self.registry.observe(_made(each))

    def _add_history(self, config: HistoryConfig | None) -> Any:
        if config is None:
            return None
        from monconn.sinks.history.service import HistoryService

        return self._add(HistoryService(config, *self._shared))

    def _add_json_log(self, config: JsonLogConfig | None) -> Any:
        if config is None:
            return None
        from monconn.sinks.jsonlog import JsonLogService

        return self._add(JsonLogService(config, *self._shared))

    def _add_metrics(self, config: MetricsConfig | None) -> None:
        if config is not None:
            from monconn.sinks.metrics.service import MetricsService

            self._add(MetricsService(config, *self._shared, self._dropped))

    def _dropped(self) -> dict[str, int]:
        """What each observer has left out, by its name."""
        observers = {
            "hex_dump": self._hex_dump,
            "json_log": self._json_log,
            "history": self._history,
        }
        return {name: each.dropped for name, each in observers.items() if each is not None}

    def _add_admin_interfaces(self, config: Config) -> None:
        """The manhole and the control port."""
        if config.manhole is None and config.control is None:
            return
        from monconn.ops.operations import Operations

        manhole = None
        operations = Operations(
            self.registry,
            self._clock,
            devices=self._devices,
            history=self._history,
            manhole=lambda: getattr(manhole, "where", None),
        )
        if config.manhole is not None:
            from monconn.faces.manhole.service import ManholeService

            manhole = self._add(ManholeService(config.manhole, *self._shared, operations))
        if config.control is not None:
            from monconn.faces.control.service import ControlService

            self._add(ControlService(config.control, *self._shared, operations))

    def _monitor(self, config: ServiceConfig) -> Monitor:
        monitor = self.registry.new(
            config.name,
            _rules(config),
            _timeouts(config),
            listen=str(config.listen),
            backend=str(config.backend),
            clock=self._clock,
        )
        monitor.add_observer(self._close_log)
        if config.print_bytes:
            monitor.add_observer(self._hex_dump)
        return monitor

    def privilegedStartService(self) -> None:
        """See ``IService``: open every listener, or none.

        :raises ListenError: one of them cannot be had.
        """
        self._or_nothing(super().privilegedStartService)
        self._has_listeners = True

    def _or_nothing(self, start: Callable[[], object]) -> None:
        """Start what there is to start, and leave nothing open if some of it fails."""
        try:
            start()
        except MonconnError:
            for service in self:
                maybeDeferred(getattr(service, "close_listener", service.stopService))
            raise

    def startService(self) -> None:
        """See ``IService``: take clients.

        :raises MonconnError: a listener or a file cannot be had; then nothing is left open.
        """
        if not self._has_listeners:  # twist knows no start with privileges
            self.privilegedStartService()
        self._or_nothing(super().startService)

    def stopService(self) -> Deferred[Any]:
        """See ``IService``: fires when the last connection has ended.

        Until then one can look in: the ways in are closed last.
        """
        Service.stopService(self)
        forwarding = [each for each in self if isinstance(each, ForwardService)]
        stopped: Deferred[Any] = DeferredList([each.stopService() for each in forwarding])
        return stopped.addBoth(self._flush)

    def stop_now(self) -> None:
        """End every connection at once, as a second signal asks for."""
        for monitor in self.registry:
            monitor.stop_now()

    def _flush(self, result: Any) -> Deferred[Any]:
        self._close_log.flush()
        self._hex_dump.stop(_FLUSH_SECONDS)
        self._roads.close()
        ways_in = [each for each in self if not isinstance(each, ForwardService)]
        return DeferredList([maybeDeferred(each.stopService) for each in ways_in])


class ForwardService(Service):
    """One forwarding service as a child of the application.

    :param config: the service's configuration.
    :param monitor: its monitor.
    :param roads: makes the road from its listener to its backend.
    :param reactor: the reactor to run on.
    :param failed: told of a listener that failed only once the reactor ran.
    """

    _log = Logger()

    def __init__(
        self,
        config: ServiceConfig,
        monitor: Monitor,
        roads: DataPaths,
        reactor: Any,
        failed: Callable[[ListenError], object],
    ) -> None:
        self.setName(config.name)
        self._config = config
        self._monitor = monitor
        self._roads = roads
        self._reactor = reactor
        self._failed = failed
        self._listener: Listener | None = None
        self._port: Any = None

    def privilegedStartService(self) -> None:
        """See ``IService``: listen, before privileges are dropped.

        :raises ListenError: the listener cannot be had.
        """
        address = self._config.listen
        if isinstance(address, EndpointAddress):
            self._listen_on_endpoint(address)
        else:
            self._listen_on_socket(address)

    def _listen_on_socket(self, address: TcpAddress | UnixAddress) -> None:
        config, monitor = self._config, self._monitor
        sock = open_listener(address, keepalive=config.keepalive)
        monitor.listen = _bound_address(config, sock)
        road = self._roads.between(
            monitor, config.listen, config.backend, keepalive=config.keepalive
        )
        forwarder = Forwarder(monitor, road)
        self._listener = Listener(sock, self._reactor, forwarder.accepted, monitor.must_wait)
        self._monitor.when_room(self._listener.resume)

    def _listen_on_endpoint(self, address: EndpointAddress) -> None:
        for pause in (*PAUSES_SECONDS, None):
            failure = self._try_endpoint(address)
            if failure is None:
                return
            if pause is None or not failure.check(CannotListenError):
                raise _listen_error(address, failure)
            time.sleep(pause)

    def _try_endpoint(self, address: EndpointAddress) -> Failure | None:
        """Begin to listen; what fails at once is returned, what fails later is told."""
        listening = maybeDeferred(self._begin_to_listen, address).addCallback(self._listening)
        failure = getattr(listening, "result", None)
        if isinstance(failure, Failure):
            listening.addErrback(lambda _: None)
            return failure
        listening.addErrback(lambda failure: self._failed(_listen_error(address, failure)))
        return None

    def _begin_to_listen(self, address: EndpointAddress) -> Deferred[Any]:
        endpoint = serverFromString(self._reactor, address.description)
        _negotiate_no_protocol(endpoint)
        config = self._config
        road = self._roads.from_endpoint(self._monitor, config.backend, keepalive=config.keepalive)
        listening: Deferred[Any] = endpoint.listen(ForwardingFactory(self._monitor, road))
        return listening

    def _listening(self, port: Any) -> None:
        self._port = port
        self._monitor.listen = _bound_description(self._monitor.listen, port.getHost())
        if self.running:
            self._say_listening()

    def startService(self) -> None:
        """See ``IService``: take clients."""
        super().startService()
        if self._listener is not None:
            self._listener.resume()
        if self._listener is not None or self._port is not None:
            # Said once the signals that stop us have their handlers, and not before.
            self._reactor.callWhenRunning(self._say_listening)

    def _say_listening(self) -> None:
        self._log.info(
            "{service}: listening on {listen}, forwarding to {backend}",
            service=self.name,
            listen=self._monitor.listen,
            backend=self._monitor.backend,
        )

    def stopService(self) -> Deferred[Any]:
        """See ``IService``: take no more clients, and wait for those that are there."""
        super().stopService()
        return DeferredList([self.close_listener(), self._monitor.stop(self._config.wait_timeout)])

    def close_listener(self) -> Deferred[Any]:
        """Listen no more; fires when that is done."""
        if self._listener is not None:
            self._listener.close()
        return maybeDeferred(self._port.stopListening) if self._port else succeed(None)


def _bound_address(config: ServiceConfig, sock: Any) -> str:
    """The listener as configured, with the port that a port of 0 became."""
    listen = config.listen
    if getattr(listen, "port", None) == 0:
        return f"{str(listen).rpartition(':')[0]}:{sock.getsockname()[1]}"
    return str(listen)


def _bound_description(description: str, host: Any) -> str:
    """The endpoint as configured, with the port that a port of 0 became."""
    port = getattr(host, "port", None)
    return description if port is None else _PORT_0.sub(rf":\g<1>{port}", description, 1)


def _negotiate_no_protocol(endpoint: Any) -> None:
    """Let in TLS clients that offer protocols (ALPN), as all of HTTP's do: none is chosen.

    Twisted would end their handshakes with an alert, and has no public way to say otherwise: a
    factory may only name the protocols that it speaks, and ours speaks what the backend does.
    """
    options = getattr(endpoint, "_sslContextFactory", None)
    if options is not None:
        options.getContext().set_alpn_select_callback(lambda *_: NO_OVERLAPPING_PROTOCOLS)


def _listen_error(address: EndpointAddress, failure: Failure) -> ListenError:
    error = getattr(failure.value, "socketError", failure.value)
    reason = getattr(error, "strerror", None) or str(error)
    return ListenError(f"cannot listen on {address}: {reason.lower()}")


def _log_failure(error: ListenError) -> None:
    Logger(namespace="monconn").error("{problem}", problem=str(error))


def _rules(config: ServiceConfig) -> Rules:
    return Rules(
        conn_limit=config.conn_limit,
        ip_limit=config.ip_limit,
        when_full="refuse" if isinstance(config.listen, EndpointAddress) else config.when_full,
        bans=NetworkSet(config.ip_blacklist),
    )


def _timeouts(config: ServiceConfig) -> Timeouts:
    return Timeouts(
        connect_timeout=config.connect_timeout,
        read_timeout=config.read_timeout,
        write_timeout=config.write_timeout,
        max_idle=config.max_idle,
        half_close_timeout=config.half_close_timeout,
        max_lifetime=config.max_lifetime,
    )


def _made(config: ObserverConfig) -> IObserver:
    """An observer of somebody's own.

    :raises ObserverError: it cannot be made, or is none.
    """
    try:
        observer = config.make(**config.options)
        missing = [each for each in IObserver if not hasattr(observer, each)]
    except (Exception, SystemExit) as error:  # somebody's class may fail in any way
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise ObserverError(f"observers: {config.use} cannot be made: {words}") from error
    if missing:
        raise ObserverError(
            f"observers: {config.use} is no observer, it has no {', '.join(sorted(missing))}:"
            " derive it from monconn.Observer"
        )
    return observer  # type: ignore[no-any-return]


def _write_to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
