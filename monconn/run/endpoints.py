"""The endpoint ``monconn:``, which monitors any Twisted application without a change to it.

``twistd web --listen monconn:tcp:8080:mon.name=web:mon.control=default``: what follows the prefix
is the endpoint to listen on, except for the keywords that begin with ``mon.``, which are ours.
``twisted/plugins/monconn_plugin.py`` registers it with Twisted.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, fail, maybeDeferred
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.python.failure import Failure
from zope.interface import implementer

import monconn
from monconn.addresses import (
    TcpAddress,
    UnixAddress,
    parse_listen,
    refuse_proxy_headers,
)
from monconn.clock import Clock, MonotonicClock
from monconn.config.http import HttpConfig, http_at
from monconn.config.sections import USUAL_DEVICES, ControlConfig
from monconn.errors import AddressError, DuplicateService, MonconnError, quoted
from monconn.monitor.monitor import Monitor
from monconn.policy.policy import OLDER_NAMES, SETTINGS, Policy
from monconn.run.block_files import BlockFileWatch
from monconn.wrapping import MonitoringFactory

if TYPE_CHECKING:
    from monconn.devices.service import DevicesService
    from monconn.ops.operations import Operations

_OURS = "mon."
_AROUND_US = (
    "haproxy: around monconn: has the load balancer recorded, limited and blocked in place of its"
    " clients: leave haproxy: out, and have the balancer send no PROXY header"
)
_CONTROL_PLACES = r"default, a path or unix\:PATH, the colon with its backslash"


class EndpointError(SystemExit, AddressError):
    """An endpoint string that cannot be used.

    ``twistd`` shows a traceback for whatever an endpoint raises, except for what ends the
    program: then only the message is printed. Other callers can catch it as a ``ValueError``.
    """


# -- our keywords


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text.strip()


def _control(text: str) -> ControlConfig:
    if text == "default":
        return ControlConfig()
    if "/" in text and not text.startswith("unix:"):
        text = str(UnixAddress(text))
    elif ":" not in text:  # what Twisted leaves of unix:PATH without a backslash
        raise ValueError(f"must be {_CONTROL_PLACES}, not {quoted(text)}")
    address = parse_listen(text)
    if not isinstance(address, UnixAddress):  # over TCP its peers could not be identified
        raise ValueError(f"must be {_CONTROL_PLACES}, not {quoted(text)}")
    return ControlConfig(address)


def _http(text: str) -> HttpConfig:
    if re.fullmatch("[0-9]{1,5}", text):
        return http_at(f"127.0.0.1:{text}")
    is_path = "/" in text or text.startswith("unix:")
    address = _control(text).listen if is_path else None
    if address is None:
        raise ValueError(r"must be a port of 127.0.0.1, such as 9180, a path or unix\:PATH")
    return HttpConfig(address)


_READERS: dict[str, Callable[[str], Any]] = {
    "name": _name,
    "control": _control,
    "http": _http,
    **{key: each.kind.parse for key, each in SETTINGS.items() if not each.forwarding_only},
}
_READERS |= {older: _READERS[key] for older, key in OLDER_NAMES.items()}


def _settings(ours: dict[str, str]) -> dict[str, Any]:
    settings = {}
    for key, text in ours.items():
        if key not in _READERS:
            raise EndpointError(_unknown(key))
        try:
            settings[key] = _READERS[key](text)
        except ValueError as error:
            raise EndpointError(f"monconn: {_OURS}{key}: {error}") from None
    return settings


def _unknown(key: str) -> str:
    similar = difflib.get_close_matches(key, _READERS, 1)
    advice = f"did you mean {_OURS}{similar[0]}? " if similar else ""
    known = ", ".join(f"{_OURS}{each}" for each in _READERS if each not in OLDER_NAMES)
    return f"monconn: {quoted(_OURS + key)} is not a known key: {advice}Known are {known}"


# -- the endpoint inside


def _description(args: tuple[str, ...], options: dict[str, str]) -> str:
    """The inner endpoint's string, from the parts into which Twisted has split ours."""
    first = [*args, *options, ""][0]
    if ":" in first:
        return _quoted_as_a_whole(args, options)
    if not args or not first:
        raise EndpointError("monconn: say what to listen on, such as monconn:tcp:8080")
    named = [f"{_quoted(key)}={quoteStringArgument(text)}" for key, text in options.items()]
    return ":".join([*map(_quoted, args), *named])


def _quoted_as_a_whole(args: tuple[str, ...], options: dict[str, str]) -> str:
    # It may have been split at a "=", which quoteStringArgument leaves as it is.
    whole, *others = [*args, *(f"{key}={text}" for key, text in options.items())]
    if others:
        raise EndpointError(
            f"monconn: {quoted(others[-1])} is not a mon. keyword: it belongs inside of the"
            f" quoted endpoint {quoted(whole)}"
        )
    return whole


def _quoted(argument: str) -> str:
    return re.sub(r"([\\:=])", r"\\\1", argument)


def _inner(reactor: Any, description: str) -> Any:
    try:
        refuse_proxy_headers(description)
        return serverFromString(reactor, description)
    except EndpointError:
        raise
    except AddressError as error:
        raise EndpointError(f"monconn: {error}") from None
    except Exception as error:  # each kind of endpoint raises its own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise EndpointError(f"monconn: cannot use {quoted(description)}: {reason}") from None


def parse_stream_server(reactor: Any, *args: str, **options: str) -> MonitoredEndpoint:
    """The endpoint of a string, for ``IStreamServerEndpointStringParser``.

    :raises EndpointError: the string is not valid; its message is one line.
    """
    ours = {key: options.pop(key) for key in tuple(options) if key.startswith(_OURS)}
    settings = _settings({key.removeprefix(_OURS): text for key, text in ours.items()})
    description = _description(args, options)
    name = settings.pop("name", description)
    ports = [config for key in ("control", "http") if (config := settings.pop(key, None))]
    monitor = Monitor(
        name,
        # Twisted empties the accept queue, so clients cannot be left waiting in it.
        policy=Policy.of(when_full="refuse", **settings),
        listen=description,
        clock=MonotonicClock(reactor),
    )
    return MonitoredEndpoint(_inner(reactor, description), monitor, reactor, ports)


@implementer(IStreamServerEndpoint)
class MonitoredEndpoint:
    """Listens on another endpoint, with a monitor around whatever factory it is given.

    While it listens, its monitor is in ``monconn.registry`` and its control port is open.

    :param inner: the endpoint to listen on.
    :param monitor: the service's monitor.
    :param reactor: for the control port.
    :param admin_ports: where its control port is, and its HTTP API.
    """

    def __init__(
        self,
        inner: Any,
        monitor: Monitor,
        reactor: Any,
        admin_ports: Sequence[ControlConfig | HttpConfig] = (),
    ) -> None:
        self.monitor = monitor
        self._inner = inner
        self._reactor = reactor
        self._admin_ports = tuple(admin_ports)
        self._ports = 0

    def listen(self, protocolFactory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen with a monitor around the factory.

        :returns: fires with the inner endpoint's port, or fails as that does; or with an
            :class:`EndpointError` if the name or the control port cannot be had.
        """
        if type(protocolFactory).__module__.startswith("twisted.protocols.haproxy"):
            return fail(EndpointError(f"monconn: {_AROUND_US}"))
        try:
            self._begin()
        except DuplicateService as error:
            return fail(EndpointError(f"monconn: {error}: give this one another mon.name"))
        except (MonconnError, OSError) as error:
            return fail(EndpointError(f"monconn: {error}"))
        self.monitor.backend = type(protocolFactory).__name__
        factory = _EndpointFactory(self.monitor, protocolFactory, self._end)
        listening: Deferred[IListeningPort] = maybeDeferred(self._inner.listen, factory)
        return listening.addCallbacks(self._listening, _failed, errbackArgs=(factory,))

    def _listening(self, port: IListeningPort) -> IListeningPort:
        host: Any = port.getHost()
        if hasattr(host, "port"):  # the actual port, also if 0 was configured
            self.monitor.listen = str(TcpAddress(host.host, host.port))
        return port

    def _begin(self) -> None:
        if not self._ports:
            monconn.registry.add(self.monitor)
            _watches.acquire(self._reactor)
        acquired = []
        try:
            for each in self._admin_ports:
                _admin_ports.acquire(each, self._reactor)
                acquired.append(each)
        except BaseException:
            for each in acquired:
                _admin_ports.release(each, self._reactor)
            self._forget()
            raise
        self._ports += 1

    def _end(self) -> None:
        self._ports -= 1
        self._forget()
        for each in self._admin_ports:
            _admin_ports.release(each, self._reactor)

    def _forget(self) -> None:
        is_known = any(each is self.monitor for each in monconn.registry)
        if not self._ports and is_known:
            monconn.registry.delete(self.monitor.name)
            _watches.release(self._reactor)


def _failed(failure: Failure, factory: _EndpointFactory) -> Failure:
    factory.end()
    return failure


class _EndpointFactory(MonitoringFactory):
    """Detects when its port is closed: Twisted then calls ``doStop``, for every kind of port.

    :param ended: called once, when the port is closed.
    """

    noisy = False  # the wrapped factory logs the same

    def __init__(
        self, monitor: Monitor, wrapped: IProtocolFactory, ended: Callable[[], object]
    ) -> None:
        super().__init__(monitor, wrapped, is_client=False)
        self._ended: Callable[[], object] | None = ended

    def stopFactory(self) -> None:
        """The port is closed."""
        super().stopFactory()
        self.end()

    def end(self) -> None:
        """Call ``ended``; harmless the second time."""
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended()


# -- files of blocked networks


class _Watches:
    """What watches the files of blocked networks, for each reactor, while an endpoint listens."""

    def __init__(self) -> None:
        self._watches: dict[Any, BlockFileWatch] = {}
        self._users: Counter[Any] = Counter()

    def acquire(self, reactor: Any) -> None:
        """Watch, unless that is done already; without any file it costs nothing."""
        if not self._users[reactor]:
            watch = BlockFileWatch(monconn.registry, reactor, MonotonicClock(reactor))
            self._watches[reactor] = watch
            watch.startService()
        self._users[reactor] += 1

    def release(self, reactor: Any) -> None:
        """Watch no more, if this was the last that listens."""
        self._users[reactor] -= 1
        if not self._users[reactor]:
            del self._users[reactor]
            self._watches.pop(reactor).stopService()


# Global for the same reason as the ports of admin interfaces.
_watches = _Watches()


# -- control ports and HTTP


@attrs.define
class _Program:
    """What the ports for admin interfaces under one reactor have in common.

    :param devices: stay once the last of them is closed: one that is opened again has the same.
    """

    devices: DevicesService
    operations: Operations | None = None
    services: dict[ControlConfig | HttpConfig, Any] = attrs.field(factory=dict)
    users: Counter[ControlConfig | HttpConfig] = attrs.field(factory=Counter)

    def end_streams(self) -> Deferred[Any]:
        """Have HTTP clients take the ends of their streams: a reactor that stops waits for them
        here, and not once their port is closed."""
        pages = [each for config, each in self.services.items() if isinstance(config, HttpConfig)]
        return DeferredList([each.stopService() for each in pages])


class _AdminPorts:
    """The control ports and HTTP APIs of endpoints; those that name the same one share it."""

    def __init__(self) -> None:
        self._programs: dict[Any, _Program] = {}

    def acquire(self, config: ControlConfig | HttpConfig, reactor: Any) -> None:
        """Open a port, unless it is open.

        :raises ListenError: it cannot be had.
        :raises FileError: a file of who may use it cannot be used.
        """
        from monconn.devices.service import DevicesService  # only if one is wanted
        from monconn.ops.operations import Operations

        clock = MonotonicClock(reactor)
        program = self._programs.get(reactor)
        if program is None:
            devices = DevicesService(USUAL_DEVICES, monconn.registry, clock)
            program = self._programs[reactor] = _Program(devices)
            reactor.addSystemEventTrigger("before", "shutdown", program.end_streams)
        if config not in program.services:
            if program.operations is None:
                program.operations = Operations(monconn.registry, clock, devices=program.devices)
            program.services[config] = _started(config, reactor, clock, program.operations)
            if not program.devices.running:
                program.devices.startService()
        program.users[config] += 1

    def release(self, config: ControlConfig | HttpConfig, reactor: Any) -> None:
        """Close a port, if this was its last user."""
        program = self._programs[reactor]
        program.users[config] -= 1
        if not program.users[config]:
            program.services.pop(config).stopService()
            if program.operations is not None and not program.services:
                program.operations.captures.end_all()  # nobody else could any more
                program.operations = None
                program.devices.stopService()


def _started(
    config: ControlConfig | HttpConfig, reactor: Any, clock: Clock, operations: Operations
) -> Any:
    """The service of a port, once it listens."""
    if isinstance(config, HttpConfig):
        from monconn.faces.http.service import HttpService

        made: Any = HttpService(config, monconn.registry, reactor, clock, operations)
    else:
        from monconn.faces.control.service import ControlService  # and AMP

        made = ControlService(config, monconn.registry, reactor, clock, operations)
    try:
        made.startService()
    except BaseException:
        made.stopService()
        raise
    return made


# Global, as Twisted makes each endpoint from a string alone, and they have nothing else in common.
_admin_ports = _AdminPorts()
