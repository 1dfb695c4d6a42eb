"""From one set of running services to the next: start, change, drain and stop."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredLock, gatherResults, succeed

from monconn.addresses import EndpointAddress, TcpAddress, UnixAddress, parse_listen
from monconn.clock import Clock, MonotonicClock
from monconn.config.config import ServiceConfig
from monconn.config.listeners import clashes, cycles
from monconn.errors import AddressError, DuplicateService, ListenError, UnknownService, quoted
from monconn.log import Logger
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.net.descriptors import Descriptors
from monconn.policy.block_files import with_newer
from monconn.policy.policy import Policy
from monconn.relay.paths import DataPaths
from monconn.run.ports import (
    Port,
    TlsFiles,
    check_listening,
    is_in_use,
    listening,
    may_pass,
    open_port,
)
from monconn.sinks.hexdump import HexDump
from monconn.turns import in_turns

PAUSES_SECONDS = (0.5, 1.0)
"""Between the attempts to listen: the program that used the address may be about to end."""

_NAMED = 20
"""Services that a line of the log names."""
_OF_THE_PATH = {"backend", "backend_tls", "tls", "keepalive"}
"""The keys that a data path is made from."""

T = TypeVar("T")


@attrs.frozen
class Changes:
    """The result of :meth:`Supervisor.apply`."""

    started: tuple[str, ...] = ()
    """The names of services that listen now and did not before."""
    changed: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    """The keys that are different now, by the name of the service."""
    stopped: tuple[str, ...] = ()
    """The names of services that take no more clients; their connections may live on."""

    def __bool__(self) -> bool:
        return bool(self.started or self.changed or self.stopped)

    def describe(self) -> str:
        """The changes in one line for people."""
        parts = []
        if self.started:
            parts.append(f"started {_some(self.started)}")
        if self.changed:
            keys = [f"{name} ({', '.join(keys)})" for name, keys in self.changed.items()]
            parts.append(f"changed {_some(keys)}")
        if self.stopped:
            parts.append(f"stopped {_some(self.stopped)}")
        return "; ".join(parts) or "nothing changed"


@attrs.define(eq=False)
class _Service:
    """A service that listens."""

    config: ServiceConfig
    monitor: Monitor
    port: Port
    has_lost_address: bool = False
    """Whether its listener was closed for others, and could not be opened again."""

    def bound(self) -> ServiceConfig:
        """The configuration with the port that a port of 0 became."""
        listen = self.config.listen
        is_fixed = isinstance(listen, UnixAddress) or (
            isinstance(listen, TcpAddress) and listen.port
        )
        if is_fixed or not self.port.listen:
            return self.config
        return attrs.evolve(self.config, listen=parse_listen(self.port.listen))

    def current(self) -> ServiceConfig:
        """The configuration, with its files of networks as they were read last."""
        policy, in_force = self.config.policy, self.monitor.policy.rules.block_files
        newer = with_newer(policy.rules.block_files, in_force)
        if newer == policy.rules.block_files:
            return self.config
        rules = attrs.evolve(policy.rules, block_files=newer)
        return attrs.evolve(self.config, policy=attrs.evolve(policy, rules=rules))

    def changed_keys(self, new: ServiceConfig, files: TlsFiles) -> tuple[str, ...]:
        """The keys that will be different with another configuration.

        Those whose files have another content by now are among them, such as a renewed certificate.
        """
        before, after = _settings(self.current()), _settings(new)
        changed_files = self.port.changed_files(files)
        return tuple(
            key
            for key in after
            if before[key] != after[key]
            or key in changed_files
            or (key == "listen" and self.has_lost_address)
        )


@attrs.frozen
class _Difference:
    """What is to be done to come from some services to others.

    :param after: the services to come, by their names.
    :param files: those of their TLS.
    :param gone: the names of those that are not among them.
    :param fresh: those that do not run.
    :param changed: the keys that are different, of those that go on.
    :param moved: those of them that will listen elsewhere.
    """

    after: dict[str, ServiceConfig]
    files: dict[str, TlsFiles]
    gone: list[str]
    fresh: dict[str, ServiceConfig]
    changed: dict[str, tuple[str, ...]]
    moved: dict[str, ServiceConfig]

    @property
    def prepared_names(self) -> list[str]:
        """The names of those that stay where they listen, and need another data path."""
        return [
            name
            for name, keys in self.changed.items()
            if name not in self.moved and not _OF_THE_PATH.isdisjoint(keys)
        ]

    def changes(self) -> Changes:
        """The same for others."""
        return Changes(tuple(self.fresh), self.changed, tuple(self.gone))


class Supervisor:
    """Runs forwarding services, and brings them from one configuration to another.

    Usable inside of any Twisted program. Everything is called in the reactor's thread.

    :param reactor: the reactor to run on.
    :param registry: where the services' monitors are added; one of its own if left out.
    :param clock: gives monotonic ``seconds()`` and ``callLater``.
    :param hex_dump: shows the payload of services with ``print_bytes``; on standard output if
        left out.
    :param failed: called with the :class:`ListenError` of an endpoint that was started before the
        reactor ran, and failed only then.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        registry: Registry | None = None,
        *,
        clock: Clock | None = None,
        hex_dump: HexDump | None = None,
        failed: Callable[[ListenError], object] | None = None,
    ) -> None:
        self.registry = Registry() if registry is None else registry
        self._reactor = reactor
        self._clock = MonotonicClock(reactor) if clock is None else clock
        self._hex_dump = HexDump(write_to_stdout) if hex_dump is None else hex_dump
        self._failed = failed or log_failure
        self._paths = DataPaths(reactor, self._clock)
        self._running: dict[str, _Service] = {}
        self._retired: dict[str, Monitor] = {}  # stopped; in the registry until it is drained
        self._when_drained: list[Deferred[None]] = []
        self._stopping = False
        self._stops = 0  # those that are not done yet
        self._lock = DeferredLock()  # one change at a time

    @property
    def descriptors(self) -> Descriptors:
        """What the services may have of them, together."""
        return self._paths.descriptors

    @property
    def services(self) -> tuple[ServiceConfig, ...]:
        """The configurations of the services that run."""
        return tuple(service.current() for service in self._running.values())

    def is_listening(self) -> bool:
        """Whether every service accepts clients."""
        return all(
            each.port.listen and not each.has_lost_address for each in self._running.values()
        )

    def files_of(self, name: str) -> TlsFiles | None:
        """What the files of a service's TLS had; None if no such service runs."""
        service = self._running.get(name)
        return None if service is None else service.port.files

    def apply(
        self,
        old: Iterable[ServiceConfig],
        new: Iterable[ServiceConfig],
        files: Mapping[str, TlsFiles] | None = None,
    ) -> Deferred[Changes]:
        """Bring services from one configuration to another: all of it, or nothing.

        To start is to apply ``new`` to ``()``, to stop is to apply ``()`` to ``old``. Services are
        the same if their names are. Of one that goes on:

        - settings of its policy are in force at once, for live connections, too
          (:meth:`Monitor.apply`);
        - ``backend``, ``backend_tls`` and ``tls`` hold for clients that come from then on; files of
          certificates and keys are read again, and a new content is a change;
        - for another ``listen`` a new listener is opened and the old one closed; connections and
          counters go on.

        A service that is gone closes its listener, waits for its connections as long as its
        ``wait_timeout`` and then ends them with the reason ``stopping``; after that its monitor
        leaves the registry. If its name comes back, so does its monitor, and connections that are
        still there go on.

        While the reactor runs nothing here sleeps: an address in use is tried again by timers, and
        a host to listen on that is a name is looked up in a thread of its own.
        Before, the tries are made at once, so that what is returned has fired already.

        :param old: the services that are to become ``new``; services applied by other
            code are left alone.
        :param new: the services to run.
        :param files: those of the new services' TLS, by the services' names; what is not there is
            read here, in the reactor's thread.
        :returns: fires when the new configuration is in force, with what was changed; or fails
            with a :class:`MonconnError`, and then nothing has changed. To cancel it does not stop
            the change. See :meth:`drained` for
            the connections of services that were stopped.
        """
        before, after = tuple(old), tuple(new)

        async def apply_next() -> Changes:
            if self._stops and after:
                raise ListenError("the services are stopping: none is started any more")
            return await self._apply(before, after, files or {})

        async def apply() -> Changes:
            try:
                changes: Changes = await self._lock.run(
                    lambda: Deferred.fromCoroutine(apply_next())
                )
                return changes
            finally:
                self._check_drained()

        return _detached(Deferred.fromCoroutine(apply()))

    def stop(self) -> Deferred[None]:
        """Stop every service, as applying nothing does, and wait for the last connection.

        The monitors stay in the registry, so that what they have counted can be stored. Until it is
        done, :meth:`apply` starts nothing.
        """

        async def apply_nothing() -> None:
            self._stopping = True
            try:
                await self._apply(self.services, (), {})
            finally:
                self._stopping = False

        async def stop() -> None:
            self._stops += 1
            try:
                await self._lock.run(lambda: Deferred.fromCoroutine(apply_nothing()))
                await self.drained()
            finally:
                self._stops -= 1

        return _detached(Deferred.fromCoroutine(stop()))

    def drained(self) -> Deferred[None]:
        """Fires when no stopped service has a connection any more."""
        done: Deferred[None] = Deferred()
        self._when_drained.append(done)
        self._check_drained()
        return done

    # -- applying

    def preview(
        self,
        old: Iterable[ServiceConfig],
        new: Iterable[ServiceConfig],
        files: Mapping[str, TlsFiles],
    ) -> tuple[Changes, Callable[[], None]]:
        """Find what :meth:`apply` would change, without changing anything.

        :returns: the changes; and what checks that the new listeners can be opened, which may be
            called in any thread, and raises a :class:`ListenError` if not.
        :raises MonconnError: as :meth:`apply` would fail, before it opens anything.
        """
        difference = self._difference(tuple(old), tuple(new), files)
        for name in difference.prepared_names:
            self._running[name].port.prepare(difference.after[name], difference.files[name])
        leaving = [self._running[name] for name in [*difference.gone, *difference.moved]]

        def check() -> None:
            for config in (difference.fresh | difference.moved).values():
                try:
                    check_listening(config)
                except ListenError as error:
                    error.service = config.name
                    is_ours = any(_may_clash(each.bound(), config) for each in leaving)
                    if not (is_ours and is_in_use(error)):
                        raise

        return difference.changes(), check

    def _difference(
        self,
        old: tuple[ServiceConfig, ...],
        new: tuple[ServiceConfig, ...],
        files: Mapping[str, TlsFiles],
    ) -> _Difference:
        """What is to be done, without doing it.

        :raises MonconnError: two services do not go together, or a file cannot be used.
        """
        after = self._checked(old, new)
        read = {
            name: files[name] if name in files else TlsFiles.read(each, self.files_of(name))
            for name, each in after.items()
        }
        changed = {
            name: keys
            for name, each in after.items()
            if name in self._running
            and (keys := self._running[name].changed_keys(each, read[name]))
        }
        return _Difference(
            after,
            read,
            gone=[each.name for each in old if each.name not in after],
            fresh={name: each for name, each in after.items() if name not in self._running},
            changed=changed,
            moved={name: after[name] for name, keys in changed.items() if "listen" in keys},
        )

    async def _apply(
        self,
        old: tuple[ServiceConfig, ...],
        new: tuple[ServiceConfig, ...],
        files: Mapping[str, TlsFiles],
    ) -> Changes:
        difference = self._difference(old, new, files)
        after, files = difference.after, difference.files
        gone, fresh, changed = difference.gone, difference.fresh, difference.changed
        moved = difference.moved
        prepared = {
            name: self._running[name].port.prepare(after[name], files[name])
            for name in difference.prepared_names
        }
        monitors = {name: self._monitor_of(each) for name, each in (fresh | moved).items()}
        leaving = [self._running[name] for name in [*gone, *moved]]
        ports = await self._open_all({**moved, **fresh}, monitors, leaving, files)
        await self._accept_queued(self._running[name] for name in moved)
        # From here on nothing can fail.
        closing = [self._retire(name) for name in gone]
        for name in changed:
            closing.append(self._change(after[name], ports.get(name), prepared.get(name)))
        for name, config in fresh.items():
            self._start(config, monitors[name], ports[name])
        await gatherResults(closing)
        changes = difference.changes()
        if changed or (gone and after):
            self._log.debug("services: {changes}", changes=changes.describe())
        return changes

    def _checked(
        self, old: tuple[ServiceConfig, ...], new: tuple[ServiceConfig, ...]
    ) -> dict[str, ServiceConfig]:
        """The new services by their names.

        :raises UnknownService: one of the old ones does not run.
        :raises DuplicateService: two have one name, or other code uses it.
        :raises ListenError: two listen at the same place.
        :raises AddressError: one leads back to its own listener.
        """
        for config in old:
            if config.name not in self._running:
                raise UnknownService(f"no service named {quoted(config.name)} runs")
        old_names = {config.name for config in old}
        after: dict[str, ServiceConfig] = {}
        for config in new:
            is_others = (config.name in self._running and config.name not in old_names) or (
                config.name in self.registry.names()
                and self.registry.get(config.name) is not self._known_monitor(config.name)
            )
            if config.name in after or is_others:
                raise DuplicateService(f"a service named {config.name!r} exists already")
            after[config.name] = config
        for name, message in clashes(new):
            raise ListenError(f"{name}: {message}", service=name)
        others = [
            each.bound()
            for name, each in self._running.items()
            if name not in after and name not in old_names
        ]
        for name, message in cycles([*others, *map(self._bound, new)]):
            raise AddressError(f"{name}: {message}")
        return after

    def _bound(self, config: ServiceConfig) -> ServiceConfig:
        """A new configuration of a service, with the port that a port of 0 has become already."""
        service = self._running.get(config.name)
        if service is None or service.config.listen != config.listen:
            return config
        return attrs.evolve(config, listen=service.bound().listen)

    def _known_monitor(self, name: str) -> Monitor | None:
        """The monitor of a service that runs here, or that still waits for its connections."""
        if name in self._running:
            return self._running[name].monitor
        return self._retired.get(name) or self.registry.gone.get(name)

    def _monitor_of(self, config: ServiceConfig) -> Monitor:
        """The service's monitor, if it has or had one, so that its counters go on; or a new one."""
        return self._known_monitor(config.name) or Monitor(
            config.name,
            policy=_policy_of(config),
            listen=str(config.listen),
            backend=str(config.backend),
            clock=self._clock,
        )

    async def _open_all(
        self,
        configs: Mapping[str, ServiceConfig],
        monitors: Mapping[str, Monitor],
        leaving: list[_Service],
        files: Mapping[str, TlsFiles],
    ) -> dict[str, Port]:
        """Open listeners, or none of them.

        An address in use may be that of a listener which is to be closed. If so, that one is closed
        before, and opened again if something still cannot be had.

        :param leaving: the services whose listeners are to be closed.
        :raises ListenError: an address cannot be listened on; then all is as before.
        """
        ports: dict[str, Port] = {}
        released: list[_Service] = []
        name = ""
        try:
            for name, config in configs.items():
                holders = [
                    service
                    for service in leaving
                    if service not in released and _may_clash(service.bound(), config)
                ]
                try:
                    # The holder will not release the address, however long we wait.
                    pauses = () if holders else PAUSES_SECONDS
                    ports[name] = await self._open(config, monitors[name], pauses, files[name])
                except ListenError as error:
                    if not (holders and is_in_use(error)):
                        raise
                    for service in holders:
                        released.append(service)
                        await self._accept_queued([service])
                        await service.port.close()
                    ports[name] = await self._open(
                        config, monitors[name], PAUSES_SECONDS, files[name]
                    )
        except Exception as failure:
            if isinstance(failure, ListenError):
                failure.service = name
            for port in ports.values():
                await port.close()
            for service in released:
                await self._reopen(service)
            raise
        return ports

    async def _accept_queued(self, services: Iterable[_Service]) -> None:
        """Accept who waits at listeners that are to be closed, in turns: there may be thousands.

        Before the reactor runs there are no turns, and no connections that would wait.
        """
        for service in services:
            if not self._reactor.running:
                service.port.accept_queued()
                continue
            try:
                await in_turns(self._clock, service.port.accept_in_steps())
            except Exception:  # the change goes on
                self._log.failure("failed to accept clients")

    async def _open(
        self,
        config: ServiceConfig,
        monitor: Monitor,
        pauses_seconds: Iterable[float],
        files: TlsFiles,
    ) -> Port:
        """Open a listener, trying again after each pause.

        :raises ListenError: it could not be had after the last try.
        """
        is_running = self._reactor.running

        def opened_late(opening: Deferred[Any]) -> None:
            opening.addCallbacks(self._listens_late, lambda each: self._failed(each.value))

        for pause in (*pauses_seconds, None):
            try:
                port: Port = await open_port(
                    config,
                    monitor,
                    self._paths,
                    self._reactor,
                    None if is_running else opened_late,
                    files,
                )
                return port
            except ListenError as error:
                if pause is None or not may_pass(error):
                    raise
                await self._pause(pause)
        raise AssertionError("unreachable")

    def _pause(self, seconds: float) -> Deferred[None]:
        if not self._reactor.running:  # then no timer fires, and there is no connection to delay
            time.sleep(seconds)
            return succeed(None)
        pause: Deferred[None] = Deferred()
        self._clock.callLater(seconds, pause.callback, None)
        return pause

    async def _reopen(self, service: _Service) -> None:
        """Open a listener again that was closed for others, where it has been."""
        try:
            service.port = await self._open(
                service.bound(), service.monitor, PAUSES_SECONDS, service.port.files
            )
        except ListenError as error:
            # Its connections and the other services go on; whatever is applied next tries again.
            service.has_lost_address = True
            log_failure(ListenError(f"{service.config.name} takes no more clients: {error}"))
        else:
            service.monitor.listen = service.port.listen
            service.port.start()

    # -- one service

    def _start(self, config: ServiceConfig, monitor: Monitor, port: Port) -> None:
        service = self._running[config.name] = _Service(config, monitor, port)
        monitor.listen, monitor.backend = port.listen or str(config.listen), str(config.backend)
        self._retired.pop(config.name, None)
        if config.name not in self.registry.names():
            self.registry.add(monitor)
        self._show_bytes(service)
        monitor.apply(_policy_of(config))
        monitor.resume()
        port.start()
        self._log_listening(service)

    def _change(
        self, config: ServiceConfig, port: Port | None, use_path: Callable[[], None] | None
    ) -> Deferred[Any]:
        """Change a service that runs.

        :param port: the new listener, if there is one.
        :param use_path: as :meth:`Port.prepare` gave it, if the present listener stays and what
            it forwards to, or how, does not.
        :returns: fires when the old listener is closed, if there is a new one.
        """
        service = self._running[config.name]
        service.config = config
        service.monitor.backend = str(config.backend)
        closed: Deferred[Any] = succeed(None)
        if port is not None:
            service.port.accept_queued()  # who has come since the others were accepted
            closed, service.port = service.port.close(), port
            service.has_lost_address = False
            service.monitor.listen = port.listen or str(config.listen)
        elif use_path is not None:
            use_path()
        self._show_bytes(service)
        service.monitor.apply(_policy_of(config))
        if port is not None:
            port.start()
            self._log_listening(service)
        return closed

    def _retire(self, name: str) -> Deferred[Any]:
        """Close a service's listener, and let its connections end.

        :returns: fires when the listener is closed.
        """
        service = self._running.pop(name)
        monitor, forget = service.monitor, not self._stopping
        self._retired[name] = monitor
        accepted: Deferred[Any] = succeed(None)
        if monitor.is_paused:
            # Those who wait in the accept queue because of that would be reset.
            monitor.resume(actor=None)
            accepted = in_turns(self._clock, service.port.accept_in_steps())

        def stop(_: object) -> Deferred[Any]:
            closed = service.port.close()
            ended = monitor.stop(service.config.policy.wait_timeout)
            ended.addCallback(lambda _: self._ended(monitor, forget))
            return closed

        return accepted.addBoth(stop)

    def _ended(self, monitor: Monitor, forget: bool) -> None:
        if self._retired.get(monitor.name) is monitor:  # else it has come back
            if forget:
                del self._retired[monitor.name]
                if any(each is monitor for each in self.registry):
                    self.registry.delete(monitor.name)
                self.registry.keep(monitor)
            self._check_drained()

    def _check_drained(self) -> None:
        if any(map(len, self._retired.values())):
            return
        if not self._running and not self._lock.locked:  # else a new listener may need them
            self._paths.close()
        waiting, self._when_drained = self._when_drained, []
        for deferred in waiting:
            deferred.callback(None)

    def _show_bytes(self, service: _Service) -> None:
        service.monitor.remove_observer(self._hex_dump)
        if service.config.policy.print_bytes:
            service.monitor.add_observer(self._hex_dump)

    # -- log messages

    def _listens_late(self, port: Port) -> None:
        for service in self._running.values():
            if service.port is port:
                service.monitor.listen = port.listen
                self._log_listening(service)

    def _log_listening(self, service: _Service) -> None:
        if not service.port.listen:  # an endpoint that is not ready yet
            return
        # Once the reactor runs: only then have the signals that stop the program their handlers.
        self._reactor.callWhenRunning(
            self._log.info,
            "{service}: listening on {listen}, forwarding to {backend}",
            service=service.config.name,
            listen=service.monitor.listen,
            backend=service.monitor.backend,
        )


def _some(names: Sequence[str]) -> str:
    """Names, of many the first ones."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _detached(change: Deferred[T]) -> Deferred[T]:
    """A Deferred with the result of a change; to cancel it ends the waiting, not the change.

    A change that is stopped in the middle would be neither the old configuration nor the new one.
    """
    result: Deferred[T] = Deferred()
    change.addCallbacks(result.callback, result.errback)
    return result


def _policy_of(config: ServiceConfig) -> Policy:
    """A service's policy: only a listener of our own can leave clients in its queue."""
    if isinstance(listening(config)[0], EndpointAddress):
        return config.policy.changed(when_full="refuse")
    return config.policy


def _may_clash(old: ServiceConfig, new: ServiceConfig) -> bool:
    """Whether two services may need the same address; unknown for endpoint strings."""
    if any(isinstance(each.listening()[0], EndpointAddress) for each in (old, new)):
        return True
    return bool(clashes((old, new)))


def _settings(config: ServiceConfig) -> dict[str, Any]:
    return {
        "listen": config.listen,
        "tls": config.tls,
        "backend": config.backend,
        "backend_tls": config.backend_tls,
        **config.policy.settings(),
    }


def log_failure(error: Exception) -> None:
    """Log an error that the operator can correct."""
    Logger(namespace="monconn").error("{problem}", problem=str(error))


def write_to_stdout(text: str) -> None:
    """Write a text at once."""
    sys.stdout.write(text)
    sys.stdout.flush()
