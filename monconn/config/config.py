"""Configuration: a YAML file or ``-p`` pairs into frozen classes, or every problem at once.

A file has one of two styles. The native one keeps services under ``services:``, so that other
sections may stand beside it. In the Go tool's style each top-level key is a service.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import attrs

from monconn.addresses import (
    Address,
    EndpointAddress,
    TcpAddress,
    UnixAddress,
    parse_backend,
    parse_listen,
    split_pair,
)
from monconn.config import fields
from monconn.config import yaml as yamlmap
from monconn.config.fields import Found, Wrong
from monconn.config.sections import (
    USUAL_CONTROL,
    USUAL_DEVICES,
    Control,
    Devices,
    History,
    JsonLog,
    Manhole,
    Metrics,
    Observers,
)
from monconn.config.yaml import Mapping, Node, Scalar
from monconn.errors import AddressError, ConfigError, Problem, quoted

_SOURCE_OF_PAIRS = "-p"
_NO_SERVICES = 'no services: write them under "services:", each with a name, "listen" and "backend"'
_A_MAPPING_OF_SERVICES = 'a mapping with "services:" at its top'
_A_SERVICE = 'a mapping such as {listen: ":80", backend: "10.0.0.5:80"}'
_A_GO_SERVICE = "a service such as {listen_port: 80, backend_ip: 10.0.0.5, backend_port: 80}"
_TWO_STYLES = (
    'belongs to a service under "services:"; services at the top of the file are written'
    " as for the Go tool, with listen_ip, listen_port, backend_ip and backend_port"
)


@attrs.frozen
class ServiceConfig:
    """One listener, whom it forwards to, and its rules."""

    name: fields.Text
    """What people call the service."""
    listen: fields.Listen
    """Where it listens."""
    backend: fields.Backend
    """Whom it forwards to."""
    connect_timeout: fields.PositiveSeconds = 10.0
    """Seconds that dialling the backend may take."""
    read_timeout: fields.Seconds = 0.0
    """Seconds without a byte from the client; 0 is no limit."""
    write_timeout: fields.Seconds = 600.0
    """Seconds that a write may be stuck; 0 is no limit."""
    max_idle: fields.Seconds = 900.0
    """Seconds without a byte in either direction; 0 is no limit."""
    half_close_timeout: fields.Seconds = 0.0
    """Seconds that one direction may outlive the other; 0 is no limit."""
    max_lifetime: fields.Seconds = 0.0
    """Seconds that a connection may last in all; 0 is no limit."""
    wait_timeout: fields.Seconds = 60.0
    """Seconds that a stopping service waits for its connections; 0 is not to wait."""
    conn_limit: fields.Count = 0
    """Connections at once; 0 is no limit."""
    when_full: fields.WhenFull = "wait"
    """Whether clients beyond the limit wait or are refused."""
    ip_limit: fields.Count = 0
    """Different client addresses at once; 0 is no limit."""
    ip_blacklist: fields.Networks = ()
    """Networks whose clients are refused."""
    keepalive: fields.Flag = True
    """Whether TCP keepalive probes find out who has vanished."""
    print_bytes: fields.Flag = False
    """Whether each read and write is logged in hexadecimal."""


def _read_native_services(node: Node) -> tuple[ServiceConfig, ...]:
    mapping = fields.require_mapping(node, "a mapping of names and services")
    return _services_in(mapping, _native_service, listen_key="listen")


@attrs.frozen
class Config:
    """All that a configuration says; each field is a key at the top of the file."""

    services: Annotated[tuple[ServiceConfig, ...], _read_native_services]
    """In the order of the file."""
    control: Control = USUAL_CONTROL
    """The control port; None for none."""
    manhole: Manhole = None
    """The manhole; None for none."""
    json_log: JsonLog = None
    """The log for programs; None for none."""
    metrics: Metrics = None
    """Where Prometheus finds figures; None for nowhere."""
    history: History = None
    """What happened, kept in a file; None for none."""
    devices: Devices = USUAL_DEVICES
    """What counts as a device, and what as an alarm."""
    observers: Observers = ()
    """Observers of somebody's own."""


def load(path: str | os.PathLike[str]) -> Config:
    """The configuration in a file.

    :raises ConfigError: with all problems, in the order of their lines.
    """
    source = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            content = file.read(yamlmap.MAX_CHARACTERS + 1)
    except OSError as error:
        raise _one_problem(source, f"cannot be read: {error.strerror}") from None
    except ValueError:
        raise _one_problem(source, "cannot be read: a path has no NUL in it") from None
    if len(content) > yamlmap.MAX_CHARACTERS:
        raise _one_problem(source, yamlmap.TOO_BIG)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _one_problem(source, "is not a text in UTF-8", _line_at(error)) from None
    return parse(text, source)


def parse(text: str, source: str) -> Config:
    """The configuration in a YAML text.

    :param source: the file's name, for the problems.
    :raises ConfigError: with all problems, in the order of their lines.
    """
    root, problems = yamlmap.read(text, source)
    if root is None:
        raise ConfigError(problems or [Problem(source, None, "", _NO_SERVICES)])
    try:
        config = _config_of(root)
    except Wrong as wrong:
        problems += [
            Problem(source, yamlmap.line_of(root, path), yamlmap.format_path(path), message)
            for path, message in wrong.found
        ]
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: (problem.line or 0, problem.path)))
    return config


def from_pairs(pairs: Iterable[str]) -> Config:
    """Services from ``LISTEN=BACKEND`` pairs, each named by its LISTEN as written.

    :raises ConfigError: with all problems.
    """
    services: dict[str, ServiceConfig] = {}
    written: dict[str, str] = {}
    messages: list[str] = []
    for pair in pairs:
        try:
            service = _service_of_pair(pair)
        except AddressError as error:
            messages.append(str(error))
            continue
        if service.name in services:
            messages.append(f"{quoted(pair)}: {quoted(service.name)} stands here twice: keep one")
            continue
        services[service.name], written[service.name] = service, quoted(pair)
    messages += [f"{written[name]}: {message}" for name, message in _clashes(services.values())]
    if not services and not messages:
        messages.append("no services: write LISTEN=BACKEND, such as :80=10.0.0.5:80")
    if messages:
        raise ConfigError([Problem(_SOURCE_OF_PAIRS, None, "", message) for message in messages])
    return Config(tuple(services.values()))


def _one_problem(source: str, message: str, line: int | None = None) -> ConfigError:
    return ConfigError([Problem(source, line, "", message)])


def _line_at(error: UnicodeDecodeError) -> int:
    return error.object.count(b"\n", 0, error.start) + 1


def _config_of(root: Node) -> Config:
    mapping = fields.require_mapping(root, _A_MAPPING_OF_SERVICES)
    if "services" in mapping.nodes:
        return fields.structure(mapping, Config)
    return Config(_services_in(mapping, _go_service, listen_key="listen_port"))


def _services_in(
    mapping: Mapping, read: Callable[[str, Node], ServiceConfig], listen_key: str
) -> tuple[ServiceConfig, ...]:
    """The services, if nothing was wrong with any and they do not clash."""
    services, found = fields.each_named(mapping, read)
    found += [((name, listen_key), message) for name, message in _clashes(services)]
    if found:
        raise Wrong(*found)
    if not services and mapping.is_whole:
        raise Wrong.here(_NO_SERVICES)
    return tuple(services)


def _native_service(name: str, node: Node) -> ServiceConfig:
    mapping = fields.require_mapping(node, _A_SERVICE)
    found: Found = []
    if "name" in mapping.nodes:
        found.append((("name",), "is not a known key: a service's name stands before its colon"))
    name_node = Scalar(mapping.line, name, name)
    named = Mapping(mapping.line, {**mapping.nodes, "name": name_node}, mapping.lines)
    try:
        service = fields.structure(named, ServiceConfig)
    except Wrong as wrong:
        found += wrong.found
    if found:
        raise Wrong(*found)
    return service


# -- the Go tool's style


@attrs.frozen
class _GoService:
    """A service's keys there, and their defaults."""

    listen_port: fields.ListenPort
    backend_port: fields.BackendPort
    listen_ip: fields.Host = ""
    backend_ip: fields.Host = ""
    connect_timeout: fields.Seconds = 10.0
    read_timeout: fields.Seconds = 600.0
    write_timeout: fields.Seconds = 600.0
    max_idle: fields.Seconds = 900.0
    half_close_timeout: fields.Seconds = 0.0
    max_lifetime: fields.Seconds = 0.0
    wait_timeout: fields.Seconds = 60.0
    conn_limit: fields.Count = 0
    when_full: fields.WhenFull = "wait"
    ip_limit: fields.Count = 0
    ip_blacklist: fields.Networks = ()
    keepalive: fields.Flag = True
    print_bytes: fields.Flag = False

    def named(self, name: str) -> ServiceConfig:
        """The same in native words."""
        rules = attrs.asdict(self, recurse=False, value_serializer=_zero_timeout_is_default)
        listen = TcpAddress(rules.pop("listen_ip"), rules.pop("listen_port"))
        backend = TcpAddress(rules.pop("backend_ip") or "127.0.0.1", rules.pop("backend_port"))
        return ServiceConfig(name, listen, backend, **rules)


def _zero_timeout_is_default(
    _service: type, field: attrs.Attribute[object], value: object
) -> object:
    return field.default if isinstance(value, float) and value == 0 else value


def _go_service(name: str, node: Node) -> ServiceConfig:
    if not isinstance(node, Mapping):
        raise Wrong.here(
            f"must be {_A_GO_SERVICE}, not {fields.kind_of(node)};"
            ' services with "listen" and "backend" stand under "services:"'
        )
    if node.nodes and all(isinstance(value, Mapping) for value in node.nodes.values()):
        raise Wrong.here('is not a known key: did you mean "services"?')
    for key in ("listen", "backend"):
        if key in node.nodes:
            raise Wrong(((key,), _TWO_STYLES))
    written = {key: value for key, value in node.nodes.items() if not _is_null(value)}
    return fields.structure(Mapping(node.line, written, node.lines), _GoService).named(name)


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.value is None


# -- LISTEN=BACKEND


def _service_of_pair(pair: str) -> ServiceConfig:
    listen, backend = split_pair(pair)
    try:
        return ServiceConfig(
            listen,
            _not_an_endpoint(parse_listen(listen)),
            _not_an_endpoint(parse_backend(backend)),
        )
    except AddressError as error:
        raise AddressError(f"{quoted(pair)}: {error}") from None


def _not_an_endpoint(address: Address) -> Address:
    if isinstance(address, EndpointAddress):
        raise AddressError(
            f"{quoted(str(address))} is neither HOST:PORT nor unix:PATH;"
            " other endpoint strings belong in the configuration file"
        )
    return address


# -- two services on one listener


_EVERY_HOST = {"": ("IPv4", "IPv6"), "0.0.0.0": ("IPv4",), "::": ("IPv6",)}


def _clashes(services: Iterable[ServiceConfig]) -> list[tuple[str, str]]:
    """The name of each service whose listener an earlier one has taken, and what to say of it."""
    taken: dict[tuple[str, object], dict[str, str]] = {}
    clashes = []
    for service in services:
        others = [
            _claim(taken.setdefault(place, {}), host, service.name)
            for place, host in _places(service.listen)
        ]
        other = next(filter(None, others), None)
        if other is not None:
            clashes.append((service.name, _taken_message(service, other)))
    return clashes


def _taken_message(service: ServiceConfig, other: str) -> str:
    return f"cannot listen on {service.listen}: the service {quoted(other)} listens there already"


def _places(listen: Address) -> list[tuple[tuple[str, object], str]]:
    """Where a listener sits: a port per address family or a path; and on which host of it."""
    if isinstance(listen, UnixAddress):
        return [(("unix", os.path.normpath(listen.path)), "")]
    if isinstance(listen, EndpointAddress) or listen.port == 0:
        return []
    host = listen.host.lower()
    families = _EVERY_HOST.get(host) or (_family(host),)
    return [((family, listen.port), "" if host in _EVERY_HOST else host) for family in families]


def _family(host: str) -> str:
    return "IPv6" if ":" in host else "IPv4"


def _claim(names: dict[str, str], host: str, name: str) -> str | None:
    """Enters a host of one place, where "" is every host; gives who is in the way, if anyone."""
    other = names.get(host) or names.get("")
    if host == "" and names:
        other = other or next(iter(names.values()))
    names.setdefault(host, name)
    return other
