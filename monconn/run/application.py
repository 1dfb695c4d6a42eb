"""A whole configuration as one Twisted service: forwarding services, sinks, admin interfaces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred, DeferredList, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from monconn.addresses import Network
from monconn.background import run_in_thread
from monconn.clock import MonotonicClock
from monconn.config.config import Config, ConfigFile
from monconn.config.explain import Origin, Section, origin_of, sections
from monconn.config.sections import (
    DevicesConfig,
    HistoryConfig,
    JsonLogConfig,
)
from monconn.devices.service import DevicesService
from monconn.errors import ListenError, MonconnError
from monconn.log import Logger
from monconn.model.actions import Actor
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.ops.captures import FOLLOWED as CAPTURE_KEYS
from monconn.ops.operations import Operations
from monconn.ops.reload import ReloadResult
from monconn.run.block_files import BlockFileWatch
from monconn.run.captures import CaptureService
from monconn.run.chosen import chosen_at_start
from monconn.run.notify import make_notify
from monconn.run.observers import CustomObservers
from monconn.run.reload import LiveSection, Reloader
from monconn.run.state import StateService
from monconn.run.supervisor import Supervisor, log_failure, write_to_stdout
from monconn.sinks.closelog import CloseLog
from monconn.sinks.debuglog import DebugLog
from monconn.sinks.hexdump import HexDump
from monconn.turns import TurnMeter, TurnWatch
from monconn.units import format_duration

T = TypeVar("T", bound=Service)

PROGRESS_SECONDS = 30.0
"""How often a stop that waits for live connections says so."""
_FLUSH_SECONDS = 1.0
_SERVICES_SHOWN = 5


class Application(MultiService):
    """Every service of a configuration, with what they share.

    The forwarding services are the supervisor's; the others are children.

    :param config: what to run.
    :param reactor: the reactor to run on.
    :param registry: where the services' monitors are added.
    :param show: takes the text of hex dumps; called in a thread.
    :param failed: called with the error of a listener that failed only once the reactor ran.
    :param debug: log what happens to each connection.
    :param file: where the configuration is from, so that it can be read again; None if it is from
        no file.
    """

    _log = Logger()

    def __init__(
        self,
        config: Config,
        reactor: Any,
        registry: Registry | None = None,
        *,
        file: ConfigFile | None = None,
        show: Callable[[str], object] | None = None,
        failed: Callable[[ListenError], object] | None = None,
        debug: bool = False,
    ) -> None:
        super().__init__()
        self._clock = MonotonicClock(reactor)
        self.registry = Registry(self._clock) if registry is None else registry
        self.close_log = CloseLog(self._clock)
        """Writes a line for each connection that ends."""
        self._hex_dump = HexDump(show or write_to_stdout)
        self._failed: Callable[[Any], object] = failed or log_failure
        self.config = config
        """What runs; what a reload has read and needs a restart is not in it."""
        self.supervisor = Supervisor(
            reactor,
            self.registry,
            clock=self._clock,
            hex_dump=self._hex_dump,
            failed=self._failed,
        )
        self._has_listeners = False
        self._stop_began: float | None = None
        self._shared = (self.registry, reactor, self._clock)
        # Sinks start before the first client can connect, and stop after the last connection.
        self._observers = CustomObservers(config, self.registry, self._clock)
        self._state: StateService | None = None
        if config.state is not None:
            run = partial(run_in_thread, reactor, "monconn state")
            state = StateService(config.state, self.registry, self._clock, run)
            self._state = self._add(state)
        self._devices = self._add(DevicesService(config.devices, self.registry, self._clock))
        self.registry.when_added(self._count_by_device)
        self.count_by_device()
        self._history = self._add_history(config.history)
        self._json_log = self._add_json_log(config.json_log)
        self.notify = self._add(make_notify(config, *self._shared))
        """Sends events to outputs; a changed section is put in force by ``apply_config``."""
        if debug:
            self.registry.observe(DebugLog(self.registry))
        self.registry.observe(self.close_log)
        self._metrics = self._add_metrics(config)
        self._turns: TurnMeter | None = getattr(reactor, "turn_meter", None)  # a MonconnReactor's
        self._turn_watch: TurnWatch | None = None
        self._manhole: Any = None
        self._http: Any = None
        self.operations = Operations(
            self.registry,
            self._clock,
            devices=self._devices,
            history=self._history,
            manhole=lambda: getattr(self._manhole, "where", None),
            keeps_blocks=lambda: self._state is not None and self._state.keeps(),
            capture=config.capture,
            origin_of=self._origin_of,
            notify=self.notify,
        )
        """All queries about, and actions on, the services."""
        self._add(CaptureService(self.operations.captures))
        self._add(BlockFileWatch(self.registry, reactor, self._clock))
        self._reloader = Reloader(
            file,
            config,
            self.supervisor,
            self._sections(config),
            applied=self._reload_applied,
            report=self.operations.report_reload,
            is_stopping=lambda: not self.running,
            reactor=reactor,
            clock=self._clock,
        )
        self.operations.reloader = self._reloader.reload
        if file is not None:
            self.operations.configuration = self._explain
        self._add_admin_interfaces(config, "" if file is None else file.path)

    def _add(self, service: T) -> T:
        service.setServiceParent(self)
        return service

    def count_by_device(self) -> None:
        """Have the rules of all services take for one client what ``devices:`` says is one device
        by its address; again once that is changed."""
        for monitor in self.registry:
            self._count_by_device(monitor)

    def _count_by_device(self, monitor: Monitor) -> None:
        devices = self.config.devices
        monitor.use_prefixes(devices.prefix_v4, devices.prefix_v6)

    # Each imports what it needs only if it is configured.

    def _add_history(self, config: HistoryConfig | None) -> Any:
        if config is None:
            return None
        from monconn.sinks.history.service import HistoryService

        history = HistoryService(config, *self._shared)
        history.keep_devices(self._devices)
        return self._add(history)

    def _add_json_log(self, config: JsonLogConfig | None) -> Any:
        if config is None:
            return None
        from monconn.sinks.jsonlog import JsonLogService

        return self._add(JsonLogService(config, *self._shared))

    def _add_metrics(self, config: Config) -> Any:
        if config.metrics is None and (config.http is None or not config.http.metrics):
            return None
        from monconn.sinks.metrics.service import MetricsService

        return self._add(
            MetricsService(
                config.metrics,
                *self._shared,
                self._dropped,
                self.supervisor.descriptors,
                lambda: self.operations.captures.totals(),
                self.notify.totals,
            )
        )

    def _dropped(self) -> dict[str, int]:
        """How much each observer has dropped, by its name."""
        observers = {
            "hex_dump": self._hex_dump,
            "json_log": self._json_log,
            "history": self._history,
        }
        own = {name: each.dropped for name, each in observers.items() if each is not None}
        if self._state is not None:
            own["state"] = self._state.failures
        return own | self._observers.dropped()

    def _add_admin_interfaces(self, config: Config, config_path: str) -> None:
        """The manhole, the HTTP API, and the control ports."""
        if config.manhole is not None:
            from monconn.faces.manhole.service import ManholeService

            self._manhole = self._add(
                ManholeService(config.manhole, *self._shared, self.operations)
            )
        if config.http is not None:
            from monconn.faces.http.service import HttpService

            metrics = self._metrics
            self._http = self._add(
                HttpService(
                    config.http,
                    *self._shared,
                    self.operations,
                    config_path,
                    self.is_ready,
                    metrics and metrics.answer,
                )
            )
        for control in config.control:
            from monconn.faces.control.service import ControlService

            self._add(ControlService(control, *self._shared, self.operations))

    def is_ready(self) -> bool:
        """Whether every service accepts clients."""
        is_whole = len(self.supervisor.services) == len(self.config.services)
        return bool(self.running) and is_whole and self.supervisor.is_listening()

    def privilegedStartService(self) -> None:
        """Open every listener, or none, before ``twistd`` drops privileges.

        :raises MonconnError: one of them, or a file, cannot be opened.
        """
        self._or_nothing(self._open)

    def _open(self) -> None:
        super().privilegedStartService()
        failures: list[Failure] = []
        applying = self.supervisor.apply((), self.config.services).addErrback(failures.append)
        if failures:
            failures[0].raiseException()
        # Under a reactor that runs, tries to listen go on after this has returned.
        applying.addCallback(lambda _: failures and self._failed(failures[0].value))
        self._has_listeners = True

    def _or_nothing(self, start: Callable[[], object]) -> None:
        """Start something, and leave nothing open if it fails."""
        try:
            start()
        except MonconnError:
            self.supervisor.stop()
            for service in self:
                maybeDeferred(getattr(service, "close_listener", service.stopService))
            raise

    def startService(self) -> None:
        """Start every child.

        :raises MonconnError: a listener or a file cannot be opened; then nothing is left open.
        """
        if not self._has_listeners:  # twist does not call privilegedStartService
            self.privilegedStartService()
        self._or_nothing(super().startService)
        if self._turns is not None:
            self._turn_watch = TurnWatch(self._turns)
            self._turn_watch.start()

    def stopService(self) -> Deferred[Any]:
        """Stop the forwarding services, then the sinks and the admin interfaces.

        So the control port is available until the last connection has ended.

        :returns: fires when all is stopped.
        """
        Service.stopService(self)
        self._has_listeners = False
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._stop_began = self._clock.seconds()
        progress = LoopingCall(self._report_progress)
        progress.clock = self._clock  # type: ignore[assignment]  # uses its two methods only
        progress.start(PROGRESS_SECONDS, now=False)
        try:
            await self.supervisor.stop()
        finally:
            progress.stop()
            self._stop_began = None
        self.close_log.flush()
        self._hex_dump.stop(_FLUSH_SECONDS)
        await self._observers.stop(_FLUSH_SECONDS)
        await DeferredList([maybeDeferred(each.stopService) for each in self])
        if self._turn_watch is not None:
            self._turn_watch.stop()

    def reload(self, actor: Actor, *, dry_run: bool = False) -> Deferred[ReloadResult]:
        """Read the configuration's file again, and apply what is different: all of it, or nothing.

        No connection ends because of it but those of newly blocked networks. What is read only at
        the start is not touched, and is among the changes each time until there is one.

        :param actor: who asks for it.
        :param dry_run: only find what would be done.
        :returns: fires with what has changed, or fails, and then nothing has: with a
            :class:`ConfigError` if the file has problems, or another :class:`MonconnError`.
        """
        return self._reloader.reload(actor, dry_run=dry_run)

    def reload_for_signal(self, name: str) -> None:
        """Reload as a signal asks for it; the log has what comes of it."""
        reloading = self.reload(Actor.signal(name))
        reloading.addErrback(lambda failure: failure.trap(MonconnError))  # it is in the log

    def _reload_applied(self, config: Config) -> None:
        self.config = config
        self.count_by_device()
        if self._http is not None:
            self._http.renew_certificate()

    def _sections(self, config: Config) -> dict[str, LiveSection]:
        """The sections that can follow another configuration while everything runs."""
        devices = frozenset(each.name for each in attrs.fields(DevicesConfig))
        sections = {
            "devices": LiveSection(devices, self._devices.apply_config),
            "notify": LiveSection(frozenset({"notify"}), self.notify.apply_config),
        }
        if config.capture is not None:
            captures = self.operations.captures
            sections["capture"] = LiveSection(
                CAPTURE_KEYS, captures.apply_config, captures.check_config
            )
        if self._history is not None:
            from monconn.sinks.history import service as history

            sections["history"] = LiveSection(history.FOLLOWED, self._history.apply_config)
        if self._json_log is not None:
            from monconn.sinks import jsonlog

            sections["json_log"] = LiveSection(jsonlog.FOLLOWED, self._json_log.apply_config)
        return sections

    def _origin_of(
        self, service: str, key: str, value: Any, network: Network | None
    ) -> Origin | None:
        """Where a service's setting is written; None if it is not in the file as it is in force."""
        if self._reloader.file is None:
            return None
        return origin_of(self._reloader.file, service, key, value, network)

    def _explain(self) -> Iterator[Section]:
        """The settings that run."""
        assert self._reloader.file is not None
        return sections(self._reloader.file, chosen_at_start(self._reloader.file))

    def log_descriptors(self, before: int) -> None:
        """Say how many connections there may be.

        :param before: the limit on descriptors before it was raised.
        """
        self._log.info("{limit}", limit=self.supervisor.descriptors.describe(before))

    def signal_received(self, name: str, again: bool) -> None:
        """Report a signal that stops the program.

        :param name: such as ``SIGTERM``.
        :param again: whether the program was stopping already: then it ends at once.
        """
        self.operations.report_stop(Actor.signal(name), at_once=again)
        if not again and (waiting := self._waited_for()):
            self._log.info("{waiting}; a second signal ends them at once", waiting=waiting)

    def _waited_for(self) -> str:
        """What a stop waits for, and how long; empty for nothing."""
        services = [
            f"{monitor.name} {len(monitor)} (at most {format_duration(self._rest_of(monitor))})"
            for monitor in self.registry
            if len(monitor) and monitor.policy.wait_timeout
        ]
        if len(services) > _SERVICES_SHOWN:
            services[_SERVICES_SHOWN:] = [f"and {len(services) - _SERVICES_SHOWN} more services"]
        return f"waiting for live connections: {', '.join(services)}" if services else ""

    def _rest_of(self, monitor: Monitor) -> float:
        """For how many seconds a stop still waits for the connections of a service."""
        waited = 0.0 if self._stop_began is None else self._clock.seconds() - self._stop_began
        return max(0.0, monitor.policy.wait_timeout - waited)

    def _report_progress(self) -> None:
        if waiting := self._waited_for():
            self._log.info("still {waiting}", waiting=waiting)

    def stop_now(self) -> None:
        """End every connection at once, as a second signal asks for."""
        for monitor in self.registry:
            monitor.stop_now()
