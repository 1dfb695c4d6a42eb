"""Metrics for Prometheus, served over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed

from monconn import files
from monconn.addresses import TcpAddress, UnixAddress
from monconn.clock import Clock
from monconn.config.sections import MetricsConfig
from monconn.errors import ListenError, Remark
from monconn.log import Logger
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.net.descriptors import Descriptors
from monconn.net.http.messages import Answer, Request
from monconn.net.listen import (
    Listener,
    check_listener,
    client_address,
    open_listener,
    serve_factory,
    wait_while_full,
)
from monconn.policy.sides import Keepalive
from monconn.sinks.capture_files import CaptureTotals
from monconn.sinks.metrics.figures import LagMeter, Sample, ServiceFigures, ServiceSample
from monconn.sinks.notify.output import OutputTotals
from monconn.turns import TurnMeter

if TYPE_CHECKING:  # needs prometheus-client and h11
    from monconn.net.http.server import HttpFactory
    from monconn.sinks.metrics.http import MetricsPages

_LIBRARIES = {"prometheus_client": "prometheus-client", "h11": "h11"}


def check_metrics(config: MetricsConfig) -> list[Remark]:
    """Find what the start of :class:`MetricsService` would fail with, without listening.

    :raises ListenError: the address cannot be bound, or the library is missing.
    """
    check_library()
    with _errors():
        return check_listener(config.listen)


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except ListenError as error:
        raise ListenError(f"metrics: {error}") from error


def check_library() -> type[MetricsPages]:
    """Find whether what writes and serves the metrics is installed.

    :raises ListenError: it is not.
    """
    try:
        from monconn.sinks.metrics.http import MetricsPages
    except ModuleNotFoundError as error:
        missing = _LIBRARIES.get((error.name or "").partition(".")[0])
        if missing is None:
            raise
        raise ListenError(f"metrics need {missing}: pip install 'monconn[metrics]'") from None
    return MetricsPages


class MetricsService(Service):
    """Serves the figures of every service at ``/metrics``.

    :param config: where to listen; None if only others serve them, by :meth:`answer`.
    :param registry: the monitors; later ones are included.
    :param reactor: an ``IReactorFDSet``, ``IReactorSocket`` and ``IReactorThreads``.
    :param clock: monotonic time and timers.
    :param drops: returns how much each observer has dropped, by its name.
    :param descriptors: those of the services.
    :param captures: returns what was captured so far.
    :param outputs: returns what has become of each output's notifications.
    """

    _log = Logger()

    def __init__(
        self,
        config: MetricsConfig | None,
        registry: Registry,
        reactor: Any,
        clock: Clock,
        drops: Callable[[], Mapping[str, int]],
        descriptors: Descriptors | None = None,
        captures: Callable[[], CaptureTotals | None] = lambda: None,
        outputs: Callable[[], Mapping[int, OutputTotals]] = dict,
    ) -> None:
        self._outputs = outputs
        self._captures = captures
        self._descriptors = descriptors
        self._config = config
        self._registry = registry
        self._reactor = reactor
        self._clock = clock
        self._drops = drops
        self._lag = LagMeter(clock)
        self._turns: TurnMeter | None = getattr(reactor, "turn_meter", None)  # a MonconnReactor's
        self._started_at = time.time()
        self._listener: Listener | None = None
        self._pages: MetricsPages | None = None
        self._factory: HttpFactory | None = None
        # By monitor and not by name: a new monitor of the same name starts at 0.
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
        """Listen.

        :raises ListenError: the address cannot be bound, or a library is missing.
        """
        if self._pages is not None:
            return
        self._pages = check_library()(self.sample, self._reactor, self._clock)
        if self._config is not None:
            self._listen(self._config.listen, self._pages.factory())

    def _listen(self, address: TcpAddress | UnixAddress, factory: HttpFactory) -> None:
        with _errors():
            sock = open_listener(address, keepalive=Keepalive(), default_mode=0o600)
        self._factory = factory
        self.where = client_address(address, sock)
        self._listener = serve_factory(sock, self._reactor, factory, factory.batch)
        wait_while_full(self._listener, factory.is_full, factory.retry_seconds)
        self._listener.resume()
        url = self.where if isinstance(address, UnixAddress) else f"http://{self.where}/metrics"
        self._log.info("metrics at {url}", url=url)

    def startService(self) -> None:
        """Listen, unless that is done, and measure how late the reactor is."""
        super().startService()
        self.privilegedStartService()  # which twist does not call
        self._lag.start()

    def stopService(self) -> Deferred[None]:
        """Stop listening, and disconnect all clients.

        :returns: fires once they have left.
        """
        super().stopService()
        self._lag.stop()
        if self._listener is not None:
            self._listener.close()
            self._listener = self.where = None
        if self._pages is not None:
            self._pages.stop()
            self._pages = None
        return succeed(None) if self._factory is None else self._factory.close()

    def answer(self, request: Request) -> Answer:
        """The figures, for another server's client; only while it runs."""
        assert self._pages is not None
        return self._pages.metrics(request)

    # -- figures

    def sample(self) -> Sample:
        """The present figures of all services."""
        descriptors = self._descriptors
        return Sample(
            connections_possible=0 if descriptors is None else descriptors.most(),
            descriptor_waits=0 if descriptors is None else descriptors.waits,
            services=[self._service_sample(monitor) for monitor in self._registry],
            dropped=dict(self._drops()),
            lag_seconds=self._lag.last_seconds,
            lag_max_seconds=self._lag.max_seconds,
            turns=None if self._turns is None else self._turns.figures(),
            started_at=self._started_at,
            files_lost=dict(files.lost),
            unreadable_block_files=len(self._registry.unreadable_files),
            captures=self._captures(),
            outputs=dict(self._outputs()),
        )

    def _service_sample(self, monitor: Monitor) -> ServiceSample:
        return ServiceSample(
            name=monitor.name,
            connections=len(monitor),
            client_ips=monitor.client_ips(),
            clients=monitor.admission.clients,
            totals=monitor.counters.counted(),
            figures=self._figures[monitor].copy(),
            policy=monitor.policy,
            state=monitor.state,
            held_seconds={} if monitor.bandwidth is None else monitor.bandwidth.held_seconds(),
        )
