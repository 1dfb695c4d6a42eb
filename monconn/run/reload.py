"""Reads the configuration's file again, and applies what is different while everything goes on.

Everything is read and checked in a thread. Then the services are brought from one configuration to
the next, all or none; after that nothing can fail any more, and the other sections follow.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from monconn.background import run_in_thread
from monconn.clock import Clock
from monconn.config.config import Config, ConfigFile, ServiceConfig
from monconn.config.explain import Setting, explain
from monconn.config.fields import in_use
from monconn.config.include import stamp
from monconn.errors import (
    AddressError,
    ConfigError,
    FileError,
    ListenError,
    MonconnError,
    NotConfigured,
    Problem,
    ReloadError,
    printable_lines,
)
from monconn.log import Logger
from monconn.model.actions import Actor
from monconn.ops.reload import Change, Holds, ReloadResult
from monconn.policy.tls import BackendTls, ListenTls
from monconn.run.ports import TlsFiles
from monconn.run.sources import load
from monconn.run.supervisor import Changes, Supervisor

READ_SECONDS = 60.0
"""How long reading may take: a file of a server that does not answer is waited for no longer."""
SETTLE_SECONDS = 0.1
"""For how long files must not have changed: half of a file may be a valid one, with half of the
services."""
SETTLE_TRIES = 20
_LINES_LOGGED = 20
_TEXT_CHARACTERS = 200

NEW_CONNECTIONS = frozenset({"listen", "backend", "tls", "backend_tls", "decode"})
"""The keys of a service whose change live connections do not feel."""
_CONTENT = "its files as they were", "its files as they are now"
_HIDDEN = "(not shown)"

T = TypeVar("T")


@attrs.frozen
class LiveSection:
    """A section whose part of the program can follow some of its keys while it runs.

    :param keys: those keys.
    :param apply: given the section as it is to run; must not fail.
    :param check: the same, called before, in a thread.
    :raises MonconnError: by ``check``, if it cannot be applied.
    """

    keys: frozenset[str]
    apply: Callable[[Any], object]
    check: Callable[[Any], object] = lambda section: None


@attrs.frozen
class _Read:
    """A configuration that was read and checked.

    :param files: those of each service's TLS.
    :param settings: what is written, by section and key.
    """

    file: ConfigFile
    files: dict[str, TlsFiles]
    settings: dict[str, dict[str, Setting]]


class Reloader:
    """Reloads a configuration, one time after the other.

    Who asks while a reload is under way is answered by the next one, together with all others who
    have.

    :param file: where the configuration is from that runs; None if it is from no file.
    :param running: the configuration as it runs.
    :param supervisor: runs the services.
    :param sections: those that can follow, by their names.
    :param applied: called with the new configuration, as far as it runs, before ``sections``.
    :param report: writes one action into the log and the history: who asked, what was done, and
        whether anything is different.
    :param is_stopping: whether the program stops.
    :param reactor: an ``IReactorFromThreads``.
    :param clock: monotonic time and timers.
    """

    _log = Logger(namespace="monconn.reload")

    def __init__(
        self,
        file: ConfigFile | None,
        running: Config,
        supervisor: Supervisor,
        sections: Mapping[str, LiveSection],
        *,
        applied: Callable[[Config], object],
        report: Callable[[Actor, str, bool], object],
        is_stopping: Callable[[], bool],
        reactor: Any,
        clock: Clock,
    ) -> None:
        self._file = file
        self.file = file
        """What runs, and where it is written, as it was read last; None if it is from no file."""
        self._running = running
        self._settings = {} if file is None else _settings(file)
        self._supervisor = supervisor
        self._sections = sections
        self._applied = applied
        self._report = report
        self._is_stopping = is_stopping
        self._reactor = reactor
        self._clock = clock
        self._is_busy = False
        self._is_reading = False
        self._waiting: dict[bool, list[tuple[Actor, Deferred[ReloadResult]]]] = {}

    def reload(self, actor: Actor, *, dry_run: bool = False) -> Deferred[ReloadResult]:
        """Read the file again, and apply what is different: all of it, or nothing.

        :param dry_run: only find what would be done.
        :returns: fires with what was done, or fails with a :class:`MonconnError` if nothing was.
            To cancel it does not stop the reload.
        """
        asked: Deferred[ReloadResult] = Deferred()
        self._waiting.setdefault(dry_run, []).append((actor, asked))
        if not self._is_busy:
            self._is_busy = True
            Deferred.fromCoroutine(self._work()).addErrback(self._log_failure)
        return asked

    def _log_failure(self, failure: Failure) -> None:
        self._log.failure("a reload failed", failure)

    async def _work(self) -> None:
        """Serve all who wait, those who have asked for the same thing together."""
        try:
            while self._waiting:
                dry_run = next(iter(self._waiting))
                asked = self._waiting.pop(dry_run)
                outcome: Any
                try:
                    outcome = await self._reload(asked[0][0], len(asked), dry_run)
                except MonconnError as error:
                    outcome = Failure(error)
                    if not dry_run:
                        self._report_failure(asked[0][0], error)
                except Exception as error:  # a mistake of ours must not have the others wait
                    self._log.failure("a reload failed")
                    outcome = Failure(ReloadError(f"the reload failed: {type(error).__name__}"))
                for _, deferred in asked:
                    if not deferred.called:  # else it was cancelled
                        deferred.callback(outcome)
        finally:
            self._is_busy = False

    # -- one reload

    async def _reload(self, actor: Actor, times: int, dry_run: bool) -> ReloadResult:
        file = self._may_reload()
        read = await self._in_thread(self._reader(file))
        self._may_reload()  # the reading took its time
        before = self._supervisor.services
        after = read.file.config.services
        try:
            if dry_run:
                services, check = self._supervisor.preview(before, after, read.files)
                await self._in_thread(check)
            else:
                services = await self._supervisor.apply(before, after, read.files)
        except MonconnError as error:
            raise _placed(error, read.file) from error
        config, changes = self._difference(read, services)
        result = ReloadResult(
            file.source,
            tuple(changes),
            services.started,
            services.stopped,
            tuple(services.changed),
            tuple(_notes(read)),
            dry_run,
        )
        if not dry_run:
            self._use(read, config)
            self._log_changes(result)
            asked = f" (asked for {times} times)" if times > 1 else ""
            self._report(actor, result.describe() + asked, bool(result))
            # What waits for a restart is told each time, until there is one.
            if self.file is not None:
                self._settings = await self._in_thread(partial(_settings, self.file))
        return result

    def _may_reload(self) -> ConfigFile:
        if self._file is None:
            raise NotConfigured(
                "the services are from the command line (-p), or from a program: there is no file"
                " to read again; run a configuration file (-c FILE) to have one"
            )
        if self._is_stopping():
            raise ReloadError("monconn is stopping, or has not started yet: nothing is reloaded")
        return self._file

    def _use(self, read: _Read, config: Config) -> None:
        """Have the sections follow, and remember what runs now."""
        before, self._running = self._running, config
        self._applied(config)
        for name, section in self._sections.items():
            if getattr(before, name) != getattr(config, name):
                try:
                    section.apply(getattr(config, name))
                except Exception:
                    self._log.failure(f"{name}: the changed configuration could not be applied")
        self.file = attrs.evolve(read.file, config=config)

    # -- reading, in a thread

    def _reader(self, file: ConfigFile) -> Callable[[], _Read]:
        """What reads and checks everything; it may be called in any thread."""
        running: list[Any] = []
        files: dict[str, TlsFiles | None] = {}
        for service in self._supervisor.services:
            files[service.name] = self._supervisor.files_of(service.name)
            running += [service.listen, service.backend]
            running += [service.listening()[1], service.forwarding()[1]]
            running += service.policy.rules.block_files
        for control in self._running.control:
            if (tls := control.tls) is not None:
                ca = tls.client_authority
                running.append(BackendTls(ca=ca, certificate=tls.certificate, key=tls.key))
        if self._running.http is not None and (own := self._running.http.tls) is not None:
            running.append(ListenTls(own.certificate, own.key))
        in_force, sections = self._running, self._sections

        def read() -> _Read:
            in_use.set([each for each in running if each is not None])  # of this thread alone
            loaded = _load_settled(file)
            problems: list[Problem] = []
            tls_files: dict[str, TlsFiles] = {}
            for service in loaded.config.services:
                try:
                    tls_files[service.name] = TlsFiles.read(service, files.get(service.name))
                except (ListenError, AddressError) as error:
                    problems.append(_problem(error, loaded, service.name))
            for name, section in sections.items():
                new = getattr(loaded.config, name)
                if new != getattr(in_force, name):
                    try:
                        section.check(new)
                    except MonconnError as error:
                        text = str(error).removeprefix(f"{name}: ")
                        problems.append(Problem(*loaded.place_of((name,)), name, text))
            if problems:
                raise ConfigError(problems)
            return _Read(loaded, tls_files, _settings(loaded))

        return read

    def _in_thread(self, call: Callable[[], T]) -> Deferred[T]:
        """Call something in a thread of its own, which may hang and is waited for no longer than a
        while."""
        result: Deferred[T] = Deferred()
        if self._is_reading:
            text = "an earlier reload still reads a file that does not answer: nothing is reloaded"
            result.errback(FileError(text))
            return result

        def finished(outcome: Any) -> None:
            self._is_reading = False
            if timer.active():
                timer.cancel()
            if result.called:
                return
            if isinstance(outcome, BaseException):
                result.errback(outcome)
            else:
                result.callback(outcome)

        def give_up() -> None:
            text = f"the files were not read within {READ_SECONDS:g} seconds: nothing is reloaded"
            result.errback(FileError(text))

        timer = self._clock.callLater(READ_SECONDS, give_up)
        self._is_reading = True
        try:
            run_in_thread(self._reactor, "monconn reload", call, finished)
        except RuntimeError:
            finished(FileError("no thread can be started to read the files"))
        return result

    # -- the difference

    def _difference(self, read: _Read, services: Changes) -> tuple[Config, list[Change]]:
        """The configuration as it is to run, and all changes."""
        changes: list[Change] = []
        running = {each.name: each for each in self._running.services}
        for service in read.file.config.services:
            keys = services.changed.get(service.name, ())
            if keys:
                changes += self._of_service(read, running[service.name], service, keys)
        config = read.file.config
        for name in [each.name for each in attrs.fields(Config)]:
            if name in ("services", "defaults"):
                continue
            effective, found = self._of_section(read, name)
            config = attrs.evolve(config, **{name: effective})
            changes += found
        return config, changes

    def _of_service(
        self, read: _Read, old: ServiceConfig, service: ServiceConfig, keys: Sequence[str]
    ) -> Iterator[Change]:
        path = _path_of(service.name)
        before, after = self._settings.get(path, {}), read.settings[path]
        for key in keys:
            holds = _holds(key, old, service)
            different = [
                each
                for each in dict.fromkeys([*after, *before])
                if _belongs(each, key) and _text(before, each) != _text(after, each)
            ]
            for each in different:
                yield _change(path, each, before, after, holds, service.name)
            if not different:
                place = _place(next((e for k, e in after.items() if _belongs(k, key)), None))
                yield Change(path, key, *_CONTENT, holds, service.name, place)

    def _of_section(self, read: _Read, name: str) -> tuple[Any, list[Change]]:
        """A section as it is to run, and what is different from how it runs."""
        old, new = getattr(self._running, name), getattr(read.file.config, name)
        if old == new:
            return old, []
        live = self._sections.get(name)
        changed_keys = [name]
        is_whole = not attrs.has(type(old)) or type(old) is not type(new)
        if not is_whole:
            fields = [each.name for each in attrs.fields(type(new)) if each.eq]
            changed_keys = [each for each in fields if getattr(old, each) != getattr(new, each)]
        at_once = frozenset() if live is None else live.keys
        if is_whole:
            holds: Holds = "at once" if name in at_once else "restart"
            effective = new if holds == "at once" else old
            return effective, self._of_whole(read, name, holds)
        chosen = {each: getattr(new, each) for each in changed_keys if each in at_once}
        effective = attrs.evolve(old, **chosen) if chosen else old
        changes: list[Change] = []
        before, after = self._settings.get(name, {}), read.settings.get(name, {})
        for key in changed_keys:
            holds = "at once" if key in at_once else "restart"
            different = [
                each
                for each in dict.fromkeys([*after, *before])
                if _belongs(each, key) and _text(before, each) != _text(after, each)
            ]
            changes += [_change(name, each, before, after, holds) for each in different]
            if not different:  # what is different is not shown
                place = _place(after.get(key))
                changes.append(Change(name, key, _HIDDEN, _HIDDEN, holds, None, place))
        return effective, changes

    def _of_whole(self, read: _Read, name: str, holds: Holds) -> list[Change]:
        """What is different in a section that is switched on or off, or is a list."""
        old, new = getattr(self._running, name), getattr(read.file.config, name)
        source, line = read.file.place_of((name,))
        place = "" if line is None else f"{source}:{line}"
        if old is None or new is None:
            words = ["off" if each is None else "on" for each in (old, new)]
            return [Change(name, name, words[0], words[1], holds, None, place)]
        changes: list[Change] = []
        for path in dict.fromkeys([*read.settings, *self._settings]):
            if path.startswith(f"{name}["):
                before, after = self._settings.get(path, {}), read.settings.get(path, {})
                changes += [
                    _change(path, key, before, after, holds)
                    for key in dict.fromkeys([*after, *before])
                    if _text(before, key) != _text(after, key)
                ]
        return changes or [Change(name, name, _HIDDEN, _HIDDEN, holds, None, place)]

    # -- log messages

    def _log_changes(self, result: ReloadResult) -> None:
        # The line of the action has them, if they are few.
        lines = [] if result.is_short else [each.describe() for each in result.in_force]
        lines += result.notes
        if len(lines) > _LINES_LOGGED:
            lines[_LINES_LOGGED:] = [f"and {len(lines) - _LINES_LOGGED} more (monconn reload)"]
        for line in lines:
            self._log.info("reload: {line}", line=line)

    def _report_failure(self, actor: Actor, error: MonconnError) -> None:
        problems = error.problems if isinstance(error, ConfigError) else ()
        lines = printable_lines(str(error)).split("\n")
        if len(lines) > _LINES_LOGGED:
            lines[_LINES_LOGGED:] = [f"and {len(lines) - _LINES_LOGGED} more (monconn check)"]
        for line in lines:
            self._log.error("reload: {line}", line=line)
        if self._file is not None:
            count = max(1, len(problems))
            text = f"nothing, as there {'is 1 problem' if count == 1 else f'are {count} problems'}"
            self._report(actor, text, False)


# -- reading


def _load_settled(file: ConfigFile) -> ConfigFile:
    """A configuration whose files were not written meanwhile, nor a moment before.

    :raises ConfigError: it has problems, or is written without a pause.
    """
    path = file.path
    if os.path.exists(path) and not os.path.isfile(path):
        text = "is no regular file: it cannot be read again"
        raise ConfigError([Problem(file.source, None, "", text)])
    for _ in range(SETTLE_TRIES):
        problem: ConfigError | None = None
        loaded: ConfigFile | None = None
        before = stamp(path)
        try:
            loaded = load(file.source if os.path.abspath(file.source) == path else path)
        except ConfigError as error:
            problem = error
        stamps = {path: before} if loaded is None else dict(loaded.stamps)
        if SETTLE_SECONDS:
            time.sleep(SETTLE_SECONDS)
        if all(stamp(each) == known for each, known in stamps.items()):
            if problem is not None:
                raise problem
            assert loaded is not None
            return loaded
    raise ConfigError([Problem(file.source, None, "", "is written all the time: try again")])


def _settings(file: ConfigFile) -> dict[str, dict[str, Setting]]:
    """What is written, by section and key."""
    return {
        section.path: {each.key: each for each in section.settings} for section in explain(file)
    }


def _holds(key: str, old: ServiceConfig, new: ServiceConfig) -> Holds:
    """For whom another value of a service's key holds."""
    if key == "recorder":
        before, after = old.policy.recorder, new.policy.recorder
        if before is None or after is None:
            return "at once" if after is None else "new connections"
        is_same = (before.first, before.last) == (after.first, after.last)
        return "at once" if is_same else "new connections"
    return "new connections" if key in NEW_CONNECTIONS else "at once"


def _path_of(service: str) -> str:
    from monconn.config.yaml import format_path

    return format_path(("services", service))


def _belongs(key: str, to: str) -> bool:
    """Whether the key of a setting is one of the policy, or of a part of it."""
    return any(key == each or key.startswith(f"{each}.") for each in (to, f"devices.{to}"))


def _text(settings: Mapping[str, Setting], key: str) -> str:
    return settings[key].value if key in settings else "none"


def _change(
    section: str,
    key: str,
    before: Mapping[str, Setting],
    after: Mapping[str, Setting],
    holds: Holds,
    service: str | None = None,
) -> Change:
    old, new = (_short(_text(each, key)) for each in (before, after))
    return Change(section, key, old, new, holds, service, _place(after.get(key)))


def _short(text: str) -> str:
    return text if len(text) <= _TEXT_CHARACTERS else text[: _TEXT_CHARACTERS - 1] + "…"


def _place(setting: Setting | None) -> str:
    return "" if setting is None or setting.line is None else f"{setting.file}:{setting.line}"


# -- errors and notes


def _notes(read: _Read) -> Iterator[str]:
    for service, files in read.files.items():
        for key, path in files.unreadable:
            yield (
                f"{_path_of(service)}.{key}: {path} cannot be read by this user any more: what was"
                " read before stays in use"
            )
    services = read.file.config.services
    listed = [file for each in services for file in each.policy.rules.block_files]
    for fault in dict.fromkeys(each.fault for each in listed if each.fault):
        yield f"block_files: {fault}: what it listed before stays blocked, until a restart"


def _problem(error: MonconnError, file: ConfigFile, service: str) -> Problem:
    """An error of a service's as a problem of the file."""
    key = error.key if isinstance(error, ListenError) else "backend"
    path = (*file.path_of_service(service), key)
    text = str(error).removeprefix(f"{service}: ")
    return Problem(*file.place_of(path), f"{_path_of(service)}.{key}", text)


def _placed(error: MonconnError, file: ConfigFile) -> ReloadError:
    """An error with the file and the line of the service that it is about, if that is known."""
    name = error.service if isinstance(error, ListenError) else ""
    return ReloadError(str(_problem(error, file, name)) if name else str(error))
