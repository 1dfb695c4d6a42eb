"""A service's listener: a plain socket, or an endpoint of Twisted's."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import attrs
from OpenSSL.SSL import NO_OVERLAPPING_PROTOCOLS
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from monconn.addresses import (
    Address,
    EndpointAddress,
    TcpAddress,
    UnixAddress,
    refuse_local_names,
    refuse_proxy_headers,
    socket_address,
)
from monconn.config.config import ServiceConfig
from monconn.errors import AddressError, ListenError, Remark, os_error_text
from monconn.log import Logger
from monconn.monitor.monitor import Monitor
from monconn.monitor.subscriptions import Cancel
from monconn.net.listen import (
    Listener,
    ListenReactor,
    check_listener,
    in_words,
    is_name,
    open_listener,
)
from monconn.net.loops import Target, target_of_name
from monconn.net.sockets import local_address, set_keepalive
from monconn.net.tls import ClientTls, ServerTls, files_digest, unreadable_files
from monconn.net.tls_faults import TlsError
from monconn.policy.tls import ListenTls
from monconn.relay.forwarder import Forwarder, ForwardingFactory
from monconn.relay.paths import DataPath, DataPaths, TransportPath
from monconn.relay.sockets.loop import HAS_EPOLL

_PORT_0 = re.compile(r"(?<!\\):(port=)?0(?=:|$)")


@attrs.frozen
class TlsFiles:
    """What the files had that a service's TLS names, and what makes its connections.

    Made by :meth:`read`, which may be called in any thread.
    """

    server: ServerTls | None = None
    client: ClientTls | None = None
    digests: Mapping[str, bytes] = attrs.field(factory=dict)
    """By the key that names the files."""
    unreadable: tuple[tuple[str, str], ...] = ()
    """Files that this user may not read any more, and whose content stays in use as it was read:
    the key and the path of each."""

    @classmethod
    def read(cls, config: ServiceConfig, running: TlsFiles | None = None) -> TlsFiles:
        """Read what a configuration names.

        :param running: what is in use: it is kept where files are the same, and where they cannot
            be read since the program has given up its privileges.
        :raises ListenError: a file that ``tls`` names cannot be used.
        :raises AddressError: one that is for the backend cannot be used.
        """
        running = running or cls()
        listen, backend = listening(config)[1], config.forwarding()
        settings = {"tls": listen, "backend_tls": backend[1]}
        digests: dict[str, bytes] = {}
        unreadable: list[tuple[str, str]] = []
        in_use: dict[str, ServerTls | ClientTls] = {}
        for key, each in settings.items():
            used = running.server if key == "tls" else running.client
            if each is None:
                continue
            is_same = used is not None and used.settings == each
            paths = unreadable_files(each) if is_same else []
            digests[key] = running.digests[key] if paths else files_digest(each)
            unreadable += [(key, path) for path in paths]
            if is_same and used is not None and digests[key] == running.digests[key]:
                in_use[key] = used
        server, client = in_use.get("tls"), in_use.get("backend_tls")
        if listen is not None and server is None:
            try:
                server = ServerTls(listen)
            except TlsError as error:
                raise ListenError(f"cannot listen on {config.listen}: {error}", "tls") from error
        if backend[1] is not None:
            assert isinstance(backend[0], TcpAddress)
            if isinstance(client, ClientTls):
                client = client.for_host(backend[0].host)
            else:
                with _backend_errors(config):
                    client = ClientTls(backend[1], backend[0].host)
        assert server is None or isinstance(server, ServerTls)
        assert client is None or isinstance(client, ClientTls)
        return cls(server, client, digests, tuple(unreadable))

    def changed_from(self, before: TlsFiles) -> tuple[str, ...]:
        """The keys whose files have another content than before."""
        return tuple(
            key for key, digest in before.digests.items() if self.digests.get(key, digest) != digest
        )


class Port(Protocol):
    """Where a service listens."""

    listen: str
    """The address, with the port that a port of 0 became; empty while it is not known."""

    def start(self) -> None:
        """Accept clients; until then they wait in the kernel's queue, if they can."""

    files: TlsFiles
    """What the files of its TLS had when they were read."""

    def changed_files(self, files: TlsFiles) -> tuple[str, ...]:
        """The keys of a configuration that name files whose content is another one by now."""

    def prepare(self, config: ServiceConfig, files: TlsFiles) -> Callable[[], None]:
        """Make a data path to the backend of a configuration, without using it yet.

        :param files: those of the configuration.
        :returns: has clients that come from then on relayed over it.
        :raises AddressError: Twisted cannot use the backend's endpoint string, or a file that it or
            ``backend_tls`` names cannot be used.
        :raises ListenError: a file that ``tls`` names cannot be used.
        """

    def accept_queued(self) -> None:
        """Accept those who have connected already, whom :meth:`close` would reset."""

    def accept_in_steps(self) -> Iterator[None]:
        """The same, for :func:`monconn.turns.in_turns`."""

    def close(self) -> Deferred[Any]:
        """Listen no more; harmless the second time.

        :returns: fires when the address is free.
        """


class SocketPort:
    """Listens on a plain socket.

    :param config: where to listen and where to forward to.
    :param monitor: the service's monitor.
    :param paths: makes the data paths to the backend.
    :param reactor: clients are accepted in its thread.
    :param files: those of its TLS, if they were read already.
    :param ip: the address of the host to listen on, if that was looked up already.
    :raises ListenError: the address cannot be listened on; tried once.
    """

    _log = Logger()

    def __init__(
        self,
        config: ServiceConfig,
        monitor: Monitor,
        paths: DataPaths,
        reactor: ListenReactor,
        files: TlsFiles | None = None,
        ip: str = "",
    ) -> None:
        address = listening(config)[0]
        assert isinstance(address, (TcpAddress, UnixAddress))
        if ip:
            assert isinstance(address, TcpAddress)
            address = attrs.evolve(address, host=ip)
        self._monitor = monitor
        self._paths = paths
        self.files = TlsFiles.read(config) if files is None else files
        path = self._path(config, self.files)
        self._sock = open_listener(address, keepalive=config.policy.keepalive.client)
        self._forwarder = Forwarder(monitor, path, local=local_address(self._sock))
        self.listen = _bound_address(config.listen, self._sock)
        self._listener = Listener(
            self._sock,
            reactor,
            self._forwarder.accepted,
            self._forwarder.must_wait,
            descriptors=paths.descriptors,
        )
        self._cancel: Cancel | None = None
        self._forget = paths.loops.listens(target_of_name(self._sock.getsockname()))

    def start(self) -> None:
        """Accept clients, also again whenever there is room after the service was full."""
        if self._cancel is None:
            self._cancel = self._monitor.room.subscribe(self._listener.resume)
            self._paths.descriptors.has_room()  # counts what is open before there are connections
        self._listener.resume()

    def _path(self, config: ServiceConfig, files: TlsFiles) -> DataPath:
        for warning in () if files.server is None else files.server.warnings:
            self._log.warn("{service}: {warning}", service=config.name, warning=warning)
        with _backend_errors(config):
            return self._paths.between(
                self._monitor,
                listening(config)[0],
                config.backend,
                tls=files.server,
                backend_tls=files.client or config.backend_tls,
            )

    def changed_files(self, files: TlsFiles) -> tuple[str, ...]:
        """Those of certificates, keys and authorities."""
        return files.changed_from(self.files)

    def prepare(self, config: ServiceConfig, files: TlsFiles) -> Callable[[], None]:
        """Make a data path as configured, with the certificates that are in their files now."""
        path, keepalive = self._path(config, files), config.policy.keepalive.client

        def use() -> None:
            set_keepalive(self._sock, keepalive)  # accepted sockets inherit it from the listener
            self.files = files
            self._forwarder.use(path)
            self._listener.must_wait = self._forwarder.must_wait

        return use

    def accept_queued(self) -> None:
        """Accept those in the kernel's queue, as far as the service has room."""
        self._listener.accept_queued()

    def accept_in_steps(self) -> Iterator[None]:
        """The same in steps."""
        return self._listener.accept_in_steps()

    def close(self) -> Deferred[Any]:
        """Close the socket, and remove its file if it has one."""
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        self._forget()
        self._forget = _nothing
        self._listener.close()
        return succeed(None)


class EndpointPort:
    """Listens on an endpoint of Twisted's.

    :param config: where to listen and where to forward to.
    :param monitor: the service's monitor.
    :param paths: makes the data paths to the backend.
    :param reactor: the reactor to run on.
    :raises AddressError: it would take clients' addresses from PROXY headers, or is to listen on a
        host's name.
    """

    _log = Logger()

    def __init__(
        self,
        config: ServiceConfig,
        monitor: Monitor,
        paths: DataPaths,
        reactor: Any,
        files: TlsFiles | None = None,
    ) -> None:
        assert isinstance(config.listen, EndpointAddress)
        refuse_proxy_headers(config.listen.description)
        refuse_local_names(config.listen, listens=True)
        self.listen = ""
        self.files = TlsFiles.read(config) if files is None else files
        self._address = config.listen
        self._monitor = monitor
        self._paths = paths
        self._reactor = reactor
        self._factory = ForwardingFactory(monitor, self._path(config, self.files))
        self._port: Any = None
        self._closed = False
        self._cancel: Cancel = _nothing
        self._forget: Callable[[], object] = _nothing

    def open(self) -> Deferred[EndpointPort]:
        """Begin to listen.

        :returns: fires with this port once it listens, or fails with a :class:`ListenError`.
        """
        return maybeDeferred(self._listen).addCallbacks(self._listening, self._failed)

    def _listen(self) -> Deferred[Any]:
        endpoint = serverFromString(self._reactor, self._address.description)
        _negotiate_no_protocol(endpoint)
        listening: Deferred[Any] = endpoint.listen(self._factory)
        return listening

    def _listening(self, port: Any) -> EndpointPort:
        self._port = port
        self._forget = self._paths.loops.listens(_target_of_endpoint(port.getHost()))
        self.listen = _bound_description(self._address.description, port.getHost())
        self._cancel = self._monitor.when_paused(self._set_paused)
        if self._monitor.is_paused:
            self._set_paused(True)
        if self._closed:  # while it was about to listen
            self.close()
        return self

    def _set_paused(self, is_paused: bool) -> None:
        """Leave clients in the kernel's queue, or accept them again.

        Of Twisted's ports, those that are sockets (``FileDescriptor``) can do so. Of others the
        clients come on: their connections begin held.
        """
        change = "pauseProducing" if is_paused else "resumeProducing"
        call = getattr(self._port, change, None)
        if call is not None:
            call()
        elif is_paused:
            self._log.warn(
                "{service}: {listen} cannot stop accepting: clients are accepted, and held",
                service=self._monitor.name,
                listen=self.listen,
            )

    def _failed(self, failure: Failure) -> Any:
        raised: Any = failure.value
        error = in_words(
            getattr(raised, "socketError", raised), socket_address(self._address, listens=True)
        )
        raise ListenError(
            f"cannot listen on {self._address}: {os_error_text(error)}"
        ) from failure.value

    def start(self) -> None:
        """Does nothing: Twisted accepts clients as soon as it listens."""

    def _path(self, config: ServiceConfig, files: TlsFiles) -> TransportPath:
        with _backend_errors(config):
            return self._paths.from_endpoint(
                self._monitor, config.backend, backend_tls=files.client or config.backend_tls
            )

    def changed_files(self, files: TlsFiles) -> tuple[str, ...]:
        """Those of the backend's TLS; Twisted has read the listener's for good."""
        return tuple(each for each in files.changed_from(self.files) if each == "backend_tls")

    def prepare(self, config: ServiceConfig, files: TlsFiles) -> Callable[[], None]:
        """Make a data path to the backend of a configuration."""
        path = self._path(config, files)

        def use() -> None:
            self.files = files
            self._factory.use(path)

        return use

    def accept_queued(self) -> None:
        """Does nothing: Twisted has no way to do that."""

    def accept_in_steps(self) -> Iterator[None]:
        """Does nothing, too."""
        return iter(())

    def close(self) -> Deferred[Any]:
        """Have Twisted close the port."""
        self._closed = True
        self._cancel()
        self._forget()
        self._forget = _nothing
        port, self._port = self._port, None
        return succeed(None) if port is None else maybeDeferred(port.stopListening)


def open_port(
    config: ServiceConfig,
    monitor: Monitor,
    paths: DataPaths,
    reactor: Any,
    opened_late: Callable[[Deferred[EndpointPort]], object] | None = None,
    files: TlsFiles | None = None,
) -> Deferred[Any]:
    """Open a service's listener, without accepting clients if that can be helped.

    :param files: those of its TLS, if they were read already.
    :param opened_late: given the Deferred of an endpoint that does not listen at once, whose port
        is returned nevertheless; left out, it is waited for.
    :returns: fires with the :class:`Port`, or fails with a :class:`ListenError`.
    """
    address = listening(config)[0]
    if isinstance(address, TcpAddress) and reactor.running and is_name(address):
        opening_name = _open_name(config, address, monitor, paths, reactor, files)
        return Deferred.fromCoroutine(opening_name)
    if not isinstance(address, EndpointAddress):
        return maybeDeferred(SocketPort, config, monitor, paths, reactor, files)
    port = EndpointPort(config, monitor, paths, reactor, files)
    opening = port.open()
    if opened_late is not None and not opening.called:
        opened_late(opening)
        return succeed(port)
    return opening


async def _open_name(
    config: ServiceConfig,
    address: TcpAddress,
    monitor: Monitor,
    paths: DataPaths,
    reactor: Any,
    files: TlsFiles | None,
) -> SocketPort:
    try:
        _, where = await paths.address_of(monitor, address)
    except OSError as error:
        raise ListenError(f"cannot listen on {address}: {os_error_text(error)}") from error
    # Of a link-local address, the zone is the fourth part.
    ip = f"{where[0]}%{where[3]}" if len(where) > 3 and where[3] else where[0]
    return SocketPort(config, monitor, paths, reactor, files, ip)


def check_port(config: ServiceConfig) -> list[Remark]:
    """Find what :func:`open_port` would fail with, without listening and without connecting.

    What Twisted would listen on is only known for the kinds of endpoints that name a socket.

    :returns: what is worth knowing of the socket, and of certificates and keys.
    :raises ListenError: the service cannot be started.
    :raises AddressError: its backend cannot be used.
    """
    server_tls = _listening_tls(config)[1]
    remarks: list[Remark] = []
    if server_tls is not None:
        key = "listen" if config.tls is None else "tls"  # an endpoint string says it by itself
        found = [*map(Remark, server_tls.warnings), *server_tls.remarks]
        remarks += [attrs.evolve(each, key=key) for each in found]
    backend, backend_tls = config.forwarding()
    if backend_tls is not None:
        assert isinstance(backend, TcpAddress)
        with _backend_errors(config):
            found = ClientTls(backend_tls, backend.host).remarks
        key = "backend" if config.backend_tls is None else "backend_tls"
        remarks += [attrs.evolve(each, key=key) for each in found]
    return [*remarks, *check_listening(config)]


def check_listening(config: ServiceConfig) -> list[Remark]:
    """Find whether a service's address can be listened on, as :func:`check_port` does.

    :returns: what is worth knowing of the socket.
    :raises ListenError: it cannot.
    """
    address = listening(config)[0]
    where = socket_address(address, listens=True)
    return [] if where is None else check_listener(where, address)


def _listening_tls(config: ServiceConfig) -> tuple[Address, ServerTls | None]:
    """Where a service listens, and what makes the TLS connections if they are ours.

    :raises ListenError: a file that ``tls`` names cannot be used.
    """
    address, tls = listening(config)
    try:
        return address, None if tls is None else ServerTls(tls)
    except TlsError as error:
        raise ListenError(f"cannot listen on {config.listen}: {error}") from error


def listening(config: ServiceConfig) -> tuple[Address, ListenTls | None]:
    """Where a service listens, and its TLS if that is ours.

    :returns: an :class:`EndpointAddress` if Twisted listens: its TLS is used where there is no
        epoll, on which ours runs.
    :raises ListenError: that is so, and the TLS is configured in a way that Twisted's has not.
    """
    if HAS_EPOLL:
        return config.listening()
    if config.tls is not None:
        raise ListenError(
            f"cannot listen on {config.listen}: tls needs epoll, which this platform does not"
            " have: listen on ssl:PORT:privateKey=FILE:certKey=FILE"
        )
    return config.listen, None


def may_pass(error: ListenError) -> bool:
    """Whether a later try may succeed: addresses become free, and interfaces appear."""
    cause = error.__cause__
    if isinstance(cause, OSError):
        return cause.errno not in (errno.EACCES, errno.EPERM)
    return isinstance(cause, CannotListenError)


def is_in_use(error: ListenError) -> bool:
    """Whether the address has a listener already."""
    cause = getattr(error.__cause__, "socketError", error.__cause__)
    return isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE


@contextmanager
def _backend_errors(config: ServiceConfig) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each type of endpoint raises its own
        raise AddressError(f"{config.name}: cannot use {config.backend}: {error}") from error


def _nothing() -> None:
    """In the place of what is to be done once."""


def _target_of_endpoint(host: Any) -> Target:
    """What a Twisted port's address is about; an empty path, to which nothing leads, if unknown."""
    return int(host.port) if hasattr(host, "port") else target_of_name(getattr(host, "name", ""))


def _bound_address(listen: Address, sock: Any) -> str:
    if isinstance(listen, EndpointAddress):
        return _with_port(listen.description, sock.getsockname()[1])
    if isinstance(listen, TcpAddress) and listen.port == 0:
        return f"{str(listen).rpartition(':')[0]}:{sock.getsockname()[1]}"
    return str(listen)


def _bound_description(description: str, host: Any) -> str:
    port = getattr(host, "port", None)
    return description if port is None else _with_port(description, port)


def _with_port(description: str, port: int) -> str:
    return _PORT_0.sub(rf":\g<1>{port}", description, count=1)


def _negotiate_no_protocol(endpoint: Any) -> None:
    """Let in TLS clients that offer protocols (ALPN), as all of HTTP's do: none is chosen.

    Twisted would end their handshakes with an alert, and has no public way to say otherwise: a
    factory may only name the protocols that it speaks, and ours speaks what the backend does.
    """
    options = getattr(endpoint, "_sslContextFactory", None)
    if options is not None:
        options.getContext().set_alpn_select_callback(lambda *_: NO_OVERLAPPING_PROTOCOLS)
