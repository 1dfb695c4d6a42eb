"""The manhole as a service: opens its listener, and closes it."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Protocol

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from monconn.addresses import TcpAddress, UnixAddress, is_loopback
from monconn.clock import Clock
from monconn.errors import FileError, ListenError, Remark
from monconn.log import Logger
from monconn.monitor.registry import Registry
from monconn.net.listen import (
    Listener,
    ServeReactor,
    check_listener,
    open_listener,
    serve_factory,
    wait_while_full,
)
from monconn.ops.operations import Operations
from monconn.policy.sides import Keepalive


class ManholeSettings(Protocol):
    """The configuration of a manhole."""

    @property
    def listen(self) -> TcpAddress | UnixAddress:
        """Where; on loopback or on a UNIX socket."""

    @property
    def authorized_keys(self) -> str:
        """The path of the file of public keys that are accepted."""

    @property
    def host_key(self) -> str | None:
        """The path of the host key; None for the usual one in the user's state folder."""


class ManholeService(Service):
    """The SSH manhole of a program.

    Conch is imported when it opens, so that a program without one does not pay for it.

    :param config: where to listen, and the files of keys.
    :param registry: the monitors.
    :param reactor: an ``IReactorFDSet`` and ``IReactorSocket``.
    :param clock: for the timeouts of clients.
    :param operations: what users can ask and do; if left out, what can be done with the registry
        alone.
    """

    _log = Logger()

    def __init__(
        self,
        config: ManholeSettings,
        registry: Registry,
        reactor: ServeReactor,
        clock: Clock,
        operations: Operations | None = None,
    ) -> None:
        self._config = config
        self._operations = operations or Operations(registry, clock)
        self._reactor = reactor
        self._clock = clock
        self._factory: Any = None
        self._listener: Listener | None = None
        self.where: str | None = None
        """Its address, as ``HOST:PORT`` or ``unix:PATH``; None while it is closed."""

    def privilegedStartService(self) -> None:
        """Implements ``IService.privilegedStartService``: listen.

        :raises ListenError: it cannot be opened, or only unsafely.
        """
        if self._listener is not None:
            return
        try:
            self._listen()
        except ListenError as error:
            raise ListenError(f"manhole: {error}", error.key) from error
        self._log.info("manhole at {where}", where=self.where)

    def startService(self) -> None:
        """Implements ``IService.startService``."""
        super().startService()
        self.privilegedStartService()

    def stopService(self) -> Deferred[Any] | None:
        """Implements ``IService.stopService``."""
        super().stopService()
        return self.close_listener()

    def close_listener(self) -> Deferred[Any] | None:
        """End all sessions, and listen no more; harmless the second time.

        :returns: fires when the last of them has ended.
        """
        if self._listener is None:
            return None
        self._listener.close()
        self._listener = self.where = None
        self._factory.doStop()
        return self._factory.close()  # type: ignore[no-any-return]

    def _listen(self) -> None:
        address = _checked_address(self._config)
        factory = self._make_factory()
        sock = open_listener(address, keepalive=Keepalive())
        if sock.family != socket.AF_UNIX and not is_loopback(sock.getsockname()[0]):
            sock.close()  # "localhost" resolves to whatever /etc/hosts says
            raise ListenError(_reachable(address))
        self.where = _address_text(sock)
        self._factory = factory
        factory.doStart()
        self._listener = serve_factory(sock, self._reactor, factory, factory.batch)
        wait_while_full(self._listener, factory.is_full, factory.retry_seconds)
        self._listener.resume()

    def _make_factory(self) -> Any:
        authorized = _authorized_keys(self._config)
        from monconn.faces.manhole import keys
        from monconn.faces.manhole.server import ManholeFactory

        host_key = keys.host_key(_host_key_path(self._config))
        return ManholeFactory(host_key, authorized, self._operations, self._clock)


def check_manhole(config: ManholeSettings) -> list[Remark]:
    """Find what the start of :class:`ManholeService` would fail with, without listening.

    :returns: lines of ``authorized_keys`` that are not used.
    :raises ListenError: it could not be opened, or only unsafely.
    """
    try:
        address = _checked_address(config)
        authorized = _authorized_keys(config)
        from monconn.faces.manhole import keys

        keys.check_host_key(_host_key_path(config))
        unused = [Remark(each, key="authorized_keys") for each in authorized.unused]
        return [*unused, *check_listener(address)]
    except ListenError as error:
        raise ListenError(f"manhole: {error}", error.key) from error


def _checked_address(config: ManholeSettings) -> TcpAddress | UnixAddress:
    address = config.listen
    if isinstance(address, UnixAddress):
        return UnixAddress(address.path, 0o600)
    if not is_loopback(address.host):
        raise ListenError(_reachable(address))
    return address


def _authorized_keys(config: ManholeSettings) -> Any:
    """The keys that may log in.

    :raises ListenError: Conch is missing, there is no usable key, or others could have written the
        file.
    """
    try:
        import twisted.conch.manhole_ssh  # noqa: F401  which imports cryptography, too
    except ImportError:
        raise ListenError("needs Conch: pip install 'monconn[manhole]'") from None
    from monconn.faces.manhole import keys

    path = os.path.expanduser(config.authorized_keys)
    try:
        authorized = keys.AuthorizedKeys(path)
        found = authorized.blobs()
    except FileError as error:
        raise ListenError(f"authorized_keys {error}", "authorized_keys") from None
    if not found:
        raise ListenError(f"authorized_keys {path}: has no usable key", "authorized_keys")
    return authorized


def _host_key_path(config: ManholeSettings) -> Path:
    from monconn.faces.manhole import keys

    own = config.host_key
    return keys.default_host_key() if own is None else Path(os.path.expanduser(own))


def _reachable(address: TcpAddress | UnixAddress) -> str:
    return (
        f"{address} can be reached from other machines:"
        " write 127.0.0.1:PORT, [::1]:PORT or unix:PATH"
    )


def _address_text(sock: socket.socket) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return str(TcpAddress(name[0], name[1]))
