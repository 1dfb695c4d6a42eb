"""The control port as a Twisted service: where it listens, and with which certificates."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.ssl import Certificate, PrivateCertificate
from twisted.protocols.tls import TLSMemoryBIOFactory

from monconn.addresses import TcpAddress, UnixAddress
from monconn.clock import Clock
from monconn.config.sections import ControlConfig
from monconn.errors import ControlError, ListenError
from monconn.faces.control.peers import user_name
from monconn.faces.control.place import FIRST_NAME, control_folder, make_folder, remove_stale
from monconn.faces.control.server import ControlFactory
from monconn.log import Logger
from monconn.monitor.registry import Registry
from monconn.net.listen import Listener, ServeReactor, client_address, open_listener, serve_factory
from monconn.ops.operations import Operations
from monconn.policy.sides import Keepalive


class ControlService(Service):
    """The control port of a program.

    :param config: where to listen.
    :param registry: the monitors to serve.
    :param reactor: an ``IReactorSocket``.
    :param clock: for timeouts of clients.
    :param operations: what clients can ask for; if left out, what can be done with the registry
        alone: without devices, history and manhole.
    """

    _log = Logger()

    def __init__(
        self,
        config: ControlConfig,
        registry: Registry,
        reactor: ServeReactor,
        clock: Clock,
        operations: Operations | None = None,
    ) -> None:
        self._config = config
        self._reactor = reactor
        self._factory = ControlFactory(operations or Operations(registry, clock))
        self._listener: Listener | None = None
        self.where: str | None = None
        """How a client names it; None while there is none."""

    def privilegedStartService(self) -> None:
        """Implements ``IService.privilegedStartService``: listen.

        :raises ListenError: the configured address cannot be listened on.
        """
        if self._listener is None and self._config.listen is not None:
            self._listen(self._config.listen)

    def startService(self) -> None:
        """Implements ``IService.startService``: accept clients."""
        super().startService()
        for uid in (0, os.getuid()):  # now: it may take long, and block
            user_name(uid)
        self.privilegedStartService()  # twist does not call it
        if self._listener is None:
            self._try_default()  # once privileges are dropped: the folder is that user's
        if self._listener is not None:
            self._listener.resume()

    def stopService(self) -> None:
        """Implements ``IService.stopService``."""
        super().stopService()
        self.close_listener()

    def close_listener(self) -> None:
        """Stop listening, and abort all clients' connections; harmless the second time."""
        if self._listener is not None:
            self._listener.close()
            self._listener = self.where = None
            self._factory.close()

    def _try_default(self) -> None:
        """Listen where the command looks for sockets; forwarding must not fail if that fails."""
        try:
            self._listen_at_default()
        except (ControlError, ListenError, OSError) as error:
            self._log.warn("no control port: {error}", error=str(error))

    def _listen_at_default(self) -> None:
        folder = control_folder()
        make_folder(folder)
        with _locked(folder):
            remove_stale(folder)
            path = folder / FIRST_NAME
            if path.exists():
                path = folder / f"control-{os.getpid()}.sock"
            self._listen(UnixAddress(os.fspath(path), 0o600))

    def _listen(self, address: TcpAddress | UnixAddress) -> None:
        if isinstance(address, TcpAddress) and self._config.tls is None:
            raise ListenError(f"control: {address} needs tls, as TCP does not authenticate clients")
        factory = self._secured()
        sock = open_listener(address, keepalive=Keepalive(), default_mode=0o600)
        self.where = client_address(address, sock)
        self._listener = serve_factory(sock, self._reactor, factory)

    def _secured(self) -> Any:
        tls = self._config.tls
        if tls is None:
            return self._factory
        try:
            pem = Path(tls.key).read_bytes() + b"\n" + Path(tls.certificate).read_bytes()
            authority = Certificate.loadPEM(Path(tls.client_authority).read_bytes())
            options = PrivateCertificate.loadPEM(pem).options(authority)
        except Exception as error:  # OpenSSL's have no type in common
            raise ListenError(f"control: its certificates cannot be used: {error}") from None
        return TLSMemoryBIOFactory(options, False, self._factory)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep other processes from choosing a path in a folder meanwhile."""
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
