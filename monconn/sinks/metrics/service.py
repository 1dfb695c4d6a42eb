"""Figures for Prometheus, which comes and asks for them."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from twisted.application.service import Service
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from monconn.addresses import TcpAddress, UnixAddress
from monconn.config.sections import MetricsConfig
from monconn.errors import ListenError
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.sinks.metrics.figures import LagMeter, Sample, ServiceFigures, ServiceSample

if TYPE_CHECKING:  # needs prometheus-client
    from monconn.sinks.metrics.http import MetricsFactory

_BACKLOG = 64
_MISSING = "metrics need prometheus-client: pip install 'monconn[metrics]'"


class MetricsService(Service):
    """Answers ``/metrics`` over HTTP with the figures of every service.

    :param config: where to listen.
    :param registry: the monitors to tell of.
    :param reactor: an ``IReactorTCP``, ``IReactorUNIX`` and ``IReactorThreads``.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    :param drops: says how much each observer has left out, by its name.
    """

    _log = Logger()

    def __init__(
        self,
        config: MetricsConfig,
        registry: Registry,
        reactor: Any,
        clock: Any,
        drops: Callable[[], Mapping[str, int]],
    ) -> None:
        self._config = config
        self._registry = registry
        self._reactor = reactor
        self._clock = clock
        self._drops = drops
        self._lag = LagMeter(clock)
        self._started_at = time.time()
        self._port: Any = None
        self._factory: MetricsFactory | None = None
        # By the monitor and not by name: another one of the same name begins at 0.
        self._figures: WeakKeyDictionary[Monitor, ServiceFigures] = WeakKeyDictionary()
        self.where: str | None = None
        """``HOST:PORT`` or ``unix:PATH``; None while it does not listen."""
        for monitor in registry:
            self._watch(monitor)
        registry.when_added(self._watch)

    def _watch(self, monitor: Monitor) -> None:
        if monitor not in self._figures:
            self._figures[monitor] = figures = ServiceFigures()
            monitor.add_observer(figures)

    # -- IService

    def privilegedStartService(self) -> None:
        """See ``IService``: listen.

        :raises ListenError: the place cannot be had, or the library is missing.
        """
        if self._port is not None:
            return
        self._factory = self._make_factory()
        self._port = self._listen(self._config.listen, self._factory)
        self.where = self._where(self._config.listen)
        self._log.info("metrics at {url}", url=self._url(self.where))

    def startService(self) -> None:
        """See ``IService``."""
        super().startService()
        self.privilegedStartService()  # which twist knows nothing of
        self._lag.start()

    def stopService(self) -> Any:
        """See ``IService``.

        :returns: fires when the port is closed.
        """
        super().stopService()
        self._lag.stop()
        port, self._port, self.where = self._port, None, None
        if port is None:
            return None
        if self._factory is not None:
            self._factory.close()
        return port.stopListening()

    def _make_factory(self) -> MetricsFactory:
        try:
            from monconn.sinks.metrics.http import MetricsFactory
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "prometheus_client":
                raise
            raise ListenError(_MISSING) from None
        return MetricsFactory(self.sample, self._reactor, self._clock)

    def _listen(self, address: TcpAddress | UnixAddress, factory: MetricsFactory) -> Any:
        try:
            if isinstance(address, UnixAddress):
                return self._listen_unix(address, factory)
            interface = address.host or _every_interface()
            return self._reactor.listenTCP(address.port, factory, _BACKLOG, interface)
        except CannotListenError as error:
            raise _cannot_listen(address, error.socketError) from error
        except OSError as error:
            raise _cannot_listen(address, error) from error

    def _listen_unix(self, address: UnixAddress, factory: MetricsFactory) -> Any:
        _remove_stale(address.path)
        mode = 0o600 if address.mode is None else address.mode
        return self._reactor.listenUNIX(address.path, factory, _BACKLOG, mode)

    def _where(self, address: TcpAddress | UnixAddress) -> str:
        if isinstance(address, UnixAddress):
            return f"unix:{address.path}"
        return str(TcpAddress(address.host or "127.0.0.1", self._port.getHost().port))

    @staticmethod
    def _url(where: str) -> str:
        return where if where.startswith("unix:") else f"http://{where}/metrics"

    # -- what is told

    def sample(self) -> Sample:
        """The figures of this moment."""
        return Sample(
            services=[self._service_sample(monitor) for monitor in self._registry],
            dropped=dict(self._drops()),
            lag_seconds=self._lag.last_seconds,
            lag_max_seconds=self._lag.max_seconds,
            started_at=self._started_at,
        )

    def _service_sample(self, monitor: Monitor) -> ServiceSample:
        return ServiceSample(
            name=monitor.name,
            connections=len(monitor),
            client_ips=monitor.client_ips(),
            totals=monitor.counted(),
            figures=self._figures[monitor].copy(),
        )


def _every_interface() -> str:
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"


def _cannot_listen(address: TcpAddress | UnixAddress, error: Any) -> ListenError:
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return ListenError(f"metrics: cannot listen on {address}: {reason}")


def _remove_stale(path: str) -> None:
    """Remove a UNIX socket that a program has left behind, and nothing else."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except OSError:  # somebody listens
            return
