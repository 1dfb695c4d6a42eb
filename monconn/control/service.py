"""Opens the control port, and closes it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.ssl import Certificate, PrivateCertificate, trustRootFromCertificates
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from monconn.addresses import TcpAddress, UnixAddress
from monconn.config import ControlConfig
from monconn.control.place import FIRST_NAME, answers, control_folder, make_folder
from monconn.control.server import ControlFactory
from monconn.core.registry import Registry
from monconn.errors import ControlError, ListenError
from monconn.forward.accept import open_listener


class ControlService(Service):
    """The control port of a program.

    :param config: where to listen.
    :param registry: the monitors to serve.
    :param reactor: an ``IReactorSocket``.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    """

    _log = Logger(namespace="monconn.control")

    def __init__(self, config: ControlConfig, registry: Registry, reactor: Any, clock: Any) -> None:
        self._config = config
        self._reactor = reactor
        self._factory = ControlFactory(registry, clock)
        self._port: Any = None
        self._path: str | None = None

    def privilegedStartService(self) -> None:
        """See ``IService``: listen.

        :raises ListenError: the place that was asked for cannot be had. If none was asked for,
            that is only said: the services go before.
        """
        if self._port is not None:
            return
        if self._config.listen is not None:
            self._listen(self._config.listen)
            return
        try:
            self._listen_at_default()
        except (ControlError, ListenError, OSError) as error:
            self._log.warn("no control port: {error}", error=str(error))

    def startService(self) -> None:
        """See ``IService``."""
        super().startService()
        self.privilegedStartService()

    def stopService(self) -> Deferred[Any] | None:
        """See ``IService``."""
        super().stopService()
        return self.close_listener()

    def close_listener(self) -> Deferred[Any] | None:
        """Let go of all clients, and listen no more; harmless the second time."""
        if self._port is None:
            return None
        port, self._port = self._port, None
        self._factory.close()
        if self._path is not None:
            _unlink_quietly(self._path)
        return maybeDeferred(port.stopListening)

    @property
    def where(self) -> str | None:
        """How a client names it; None while there is none."""
        if self._port is None:
            return None
        if self._path is not None:
            return f"unix:{self._path}"
        host = self._port.getHost()
        return str(TcpAddress(host.host, host.port))

    def _listen_at_default(self) -> None:
        folder = control_folder()
        make_folder(folder)
        with _locked(folder):
            path = folder / FIRST_NAME
            if answers(path):
                path = folder / f"control-{os.getpid()}.sock"
            self._listen(UnixAddress(os.fspath(path), 0o600))

    def _listen(self, address: TcpAddress | UnixAddress) -> None:
        if isinstance(address, UnixAddress):
            address = UnixAddress(address.path, 0o600 if address.mode is None else address.mode)
            self._path = address.path
        sock = open_listener(address, pauses_seconds=())
        try:
            factory = self._secured(self._factory)
            self._port = self._reactor.adoptStreamPort(sock.fileno(), sock.family, factory)
        finally:
            sock.close()  # Twisted has made a descriptor of its own

    def _secured(self, factory: ControlFactory) -> Any:
        tls = self._config.tls
        if tls is None:
            return factory
        try:
            pem = Path(tls.key).read_bytes() + b"\n" + Path(tls.certificate).read_bytes()
            authority = Certificate.loadPEM(Path(tls.client_authority).read_bytes())
            options = PrivateCertificate.loadPEM(pem).options(
                trustRootFromCertificates([authority])
            )
        except Exception as error:  # OpenSSL's have no type in common
            raise ListenError(f"control: its certificates cannot be used: {error}") from None
        return TLSMemoryBIOFactory(options, False, factory)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let nobody else choose a place in a folder meanwhile."""
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _unlink_quietly(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        pass
