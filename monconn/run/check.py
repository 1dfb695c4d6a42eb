"""What a start of a configuration would find, without starting it: nothing is opened or made.

Each part that a start opens has its own check, next to what opens it, which raises what the start
would. What no start looks at is here: names, loops over addresses of this host, limits that do not
go together.
"""

from __future__ import annotations

import difflib
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Literal

import attrs

from monconn.access.files import check_files
from monconn.addresses import TcpAddress, UnixAddress, socket_address
from monconn.config.config import Config, ServiceConfig
from monconn.config.listeners import cycles
from monconn.config.yaml import Path
from monconn.errors import ListenError, MonconnError, Remark, os_error_text, quoted
from monconn.faces.control.service import check_control
from monconn.net.descriptors import limit_of_start
from monconn.net.listen import is_name
from monconn.net.loops import is_own_host
from monconn.net.resolver import check_names
from monconn.ops.filter_keys import EVENT_KEYS
from monconn.ops.filters import Exact, Part, parse
from monconn.policy.contradictions import contradictions
from monconn.policy.policy import Policy
from monconn.processes import Process, holder_of
from monconn.run.ports import check_port
from monconn.run.state_file import check_state
from monconn.sinks.capture_files import check_folder
from monconn.sinks.outputs import check_sink
from monconn.units import duration_text

NAME_SECONDS = 5.0
"""How long all names together may take to be resolved."""

Level = Literal["error", "warning", "note"]


@attrs.frozen
class Finding:
    """One thing that a start would find.

    :param level: whether the start fails (``error``), goes on with something that will not work as
        it should (``warning``), or goes on (``note``).
    :param path: the key; a service's begins with ``services`` in whatever style.
    """

    level: Level
    path: Path
    message: str


def check_start(config: Config, source: str) -> list[Finding]:
    """Find what a start of a configuration would find now, as this user and on this host.

    No backend is connected to: it would take that for a client.

    :param source: the configuration's file: what a monconn that runs it already has taken is no
        error.
    """
    found: list[Finding] = []
    for path, check in _checks(config, source):
        try:
            found += [_remark(path, each) for each in check()]
        except MonconnError as error:
            found.append(_error(path, error, source))
    found += _without_operators(config)
    found += _unknown_services(config)
    found += _names_and_loops(config.services)
    for service in config.services:
        path = ("services", service.name)
        where = socket_address(service.listen, listens=True)
        have_addresses = not isinstance(where, UnixAddress)
        unused = contradictions(service.policy, have_addresses=have_addresses)
        found += [
            Finding("warning", (*path, key), message)
            for key, message in (
                *unused,
                *_too_many(service.policy),
                *_too_wide(service.policy),
            )
        ]
    return found


def _checks(config: Config, source: str) -> Iterator[tuple[Path, Callable[[], Iterable[Remark]]]]:
    """The checks of what a start opens, in its order, and the key that each is about."""
    if state := config.state:
        yield ("state",), lambda: check_state(state)
    if history := config.history:
        from monconn.sinks.history.schema import check_start as check_history

        yield ("history", "path"), lambda: check_history(history.path)
    if log := config.json_log:
        yield ("json_log", "path"), lambda: check_sink(log.path)
    capture = config.capture
    if capture is not None and (capture.folder or capture.filter or capture.on):
        yield ("capture", "folder"), lambda: check_folder(capture)
        yield ("capture", "on"), lambda: _without_recorder(config)
    if metrics := config.metrics:
        from monconn.sinks.metrics.service import check_metrics

        yield ("metrics", "listen"), lambda: check_metrics(metrics)
    if manhole := config.manhole:
        from monconn.faces.manhole.service import check_manhole

        yield ("manhole", "listen"), lambda: check_manhole(manhole)
    if http := config.http:
        from monconn.faces.http.service import check_http

        yield ("http", "tokens"), lambda: check_files(http, source)
        yield ("http", "listen"), lambda: check_http(http)
    for index, control in enumerate(config.control):
        above: Path = ("control",) if len(config.control) == 1 else ("control", index)
        yield (*above, "listen"), lambda each=control: check_control(each)  # type: ignore[misc]
    for service in config.services:
        yield ("services", service.name, "listen"), lambda each=service: check_port(each)  # type: ignore[misc]


def _too_wide(policy: Policy) -> Iterator[tuple[str, str]]:
    """A spread of which a part does not count."""
    if policy.spread > policy.wait_timeout:
        wait = duration_text(policy.wait_timeout)
        end = f"end evenly over {wait}" if policy.wait_timeout else "all end at once"
        spread = duration_text(policy.spread)
        yield "spread", f"{spread} is longer than the wait_timeout of {wait}: connections {end}"


def _without_operators(config: Config) -> Iterator[Finding]:
    """Control ports of which none lets anybody act."""
    can_act = config.manhole is not None or any(each.role == "operate" for each in config.control)
    if config.control and not can_act:
        path: Path = ("control", "role") if len(config.control) == 1 else ("control",)
        text = "all may only look: without one of role: operate nobody can block, close or reload"
        yield Finding("note", path, text)


def _unknown_services(config: Config) -> Iterator[Finding]:
    """Filters of outputs that name a service that is not there."""
    names = [each.name for each in config.services]
    for index, output in enumerate(config.notify):
        for term in parse(output.filter or "", EVENT_KEYS, known={"service": names}).terms:
            value = term.value
            if term.key != "service" or not isinstance(value, Exact | Part):
                continue
            is_whole = isinstance(value, Exact)
            known = [each.casefold() for each in names]
            if not any(value.text == each if is_whole else value.text in each for each in known):
                alike = difflib.get_close_matches(value.text, names, 1)
                text = f"there is no service {quoted(value.text)}"
                text += f": did you mean {alike[0]}?" if alike else ""
                yield Finding("warning", ("notify", index, "filter"), text)


def _without_recorder(config: Config) -> list[Remark]:
    """What begins a capture finds no recording, if there is no recorder."""
    capture = config.capture
    if capture is None or not capture.on or any(e.policy.recorder for e in config.services):
        return []
    text = "no service has a recorder: only what comes after an end is captured, and not its bytes"
    return [Remark(text, False)]


def _remark(path: Path, remark: Remark) -> Finding:
    path = (*path[:-1], remark.key) if remark.key else path
    return Finding("warning" if remark.is_warning else "note", path, remark.message)


def _error(path: Path, error: MonconnError, source: str) -> Finding:
    holder = holder_of(error)
    if holder is not None and _runs(holder, source):
        text = f"taken by monconn (process {holder.pid}), which runs this file already"
        return Finding("note", path, text)
    if isinstance(error, ListenError):
        path = (*path[:-1], error.key)
    return Finding("error", path, str(error).removeprefix(f"{path[0]}: "))


_FILE_OPTIONS = ("-c", "--config")


def _runs(process: Process, source: str) -> bool:
    """Whether a process is a monconn that was started with a file."""
    arguments = process.arguments()
    if not any("monconn" in each for each in arguments):
        return False
    after = [b for a, b in pairwise(arguments) if a in _FILE_OPTIONS]
    joined = [each.partition("=")[2] for each in arguments if each.startswith("--config=")]
    short = [each[2:] for each in arguments if each.startswith("-c") and len(each) > 2]
    named = process.environment().get("MONCONN_CONFIG")  # for monconn.tac
    for each in (*after, *joined, *short, *([] if named is None else [named])):
        try:
            if os.path.samefile(process.path(each), source):
                return True
        except OSError:
            continue
    return False


# -- names and loops


def _names_and_loops(services: tuple[ServiceConfig, ...]) -> list[Finding]:
    """Backends whose names cannot be resolved, and those that lead back to their own service."""
    hosts = {
        service.name: address.host
        for service in services
        if isinstance(address := socket_address(service.backend, listens=False), TcpAddress)
        and is_name(address)
    }
    known = check_names(hosts.values(), NAME_SECONDS)
    found = []
    for service, host in hosts.items():
        answer = known[host]
        if isinstance(answer, OSError):
            text = f"{quoted(host)} cannot be resolved: {os_error_text(answer)}"
            found.append(Finding("warning", ("services", service, "backend"), text))

    def addresses(host: str) -> list[str]:
        answer = known.get(host)
        return answer if isinstance(answer, list) else [host]

    loops = cycles(services, addresses=addresses, is_own=_is_own)
    return found + [
        Finding("warning", ("services", name, "backend"), message) for name, message in loops
    ]


def _is_own(host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return is_own_host(family, (host.partition("%")[0], 0))
    except OSError:
        return False


# -- limits


def _too_many(policy: Policy) -> Iterator[tuple[str, str]]:
    limit, most = limit_of_start()
    if policy.rules.conn_limit > most:
        yield (
            "conn_limit",
            f"of {policy.rules.conn_limit:,} is more than the limit of {limit:,} descriptors has"
            f" room for, about {most:,} connections: raise that (ulimit -Hn, or LimitNOFILE= of"
            " systemd)",
        )
