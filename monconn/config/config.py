"""Configuration: a YAML file or ``-p`` pairs into frozen classes, or every problem at once.

A file has one of two styles. The native one has services under ``services:``, beside other
sections. In the Go tool's style each top-level key is a service.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import attrs

from monconn.addresses import (
    Address,
    EndpointAddress,
    TcpAddress,
    parse_backend,
    parse_listen,
    split_pair,
)
from monconn.config import address_fields, fields
from monconn.config import yaml as yamlmap
from monconn.config.fields import Wrong
from monconn.config.http import Http, http_at
from monconn.config.include import KEY as INCLUDE
from monconn.config.include import Stamp, is_included, read_tree
from monconn.config.listeners import clashes, cycles, taken_by_others
from monconn.config.notify import Notify
from monconn.config.sections import (
    USUAL_CAPTURE,
    USUAL_CONTROL,
    USUAL_DEVICES,
    Capture,
    Control,
    Devices,
    History,
    JsonLog,
    Manhole,
    Metrics,
    Observers,
    State,
    StateConfig,
    as_controls,
)
from monconn.config.yaml import Mapping, Node, Path, Scalar
from monconn.errors import AddressError, ConfigError, Problem, SettingError, quoted
from monconn.policy.kinds import OPTIONAL_SECONDS, POSITIVE_SECONDS, SECONDS
from monconn.policy.policy import OLDER_NAMES, SETTINGS, Policy, forbidden_payload
from monconn.policy.tls import BackendTls, ListenTls
from monconn.policy.tls_endpoints import tls_backend, tls_listener

_SOURCE_OF_PAIRS = "-p"
_NO_SERVICES = 'no services: write them under "services:", each with a name, "listen" and "backend"'
_A_MAPPING_OF_SERVICES = 'a mapping with "services:" at its top'
_DEFAULTS = "a mapping of settings for all services, such as {max_idle: 5m}"
_A_SERVICE = 'a mapping such as {listen: ":80", backend: "10.0.0.5:80"}'
_A_GO_SERVICE = "a service such as {listen_port: 80, backend_ip: 10.0.0.5, backend_port: 80}"
_TLS_BESIDE_ENDPOINT = (
    "is for listen: HOST:PORT or unix:PATH, and an endpoint string says by itself what it does:"
    " write one or the other"
)
_TWO_STYLES = (
    'belongs to a service under "services:"; services at the top of the file are written'
    " as for the Go tool, with listen_ip, listen_port, backend_ip and backend_port"
)


@attrs.frozen
class ServiceConfig:
    """One listener, its backend, and its policy."""

    name: str
    """The service's name, for people."""
    listen: Address
    """Where it listens."""
    backend: Address
    """Where it forwards to."""
    policy: Policy = attrs.field(default=Policy())
    """Every other setting."""
    tls: ListenTls | None = None
    """TLS with clients; None if there is none, or if ``listen`` is an endpoint string that says."""
    backend_tls: BackendTls | None = None
    """TLS with a backend ``tls:HOST:PORT``; None for that of the operating system's authorities, or
    what the string's options say."""

    def __attrs_post_init__(self) -> None:
        has_tls, has_backend_tls = self.tls is not None, self.backend_tls is not None
        for key, message in _tls_misfits(self.listen, self.backend, has_tls, has_backend_tls):
            raise SettingError(f"{self.name}: {key} {message}")

    def listening(self) -> tuple[Address, ListenTls | None]:
        """Where the service listens, and how, if that is with TLS of our own."""
        return tls_listener(self.listen) or (self.listen, self.tls)

    def forwarding(self) -> tuple[Address, BackendTls | None]:
        """Where the service forwards to, and how, if that is with TLS of our own."""
        own = tls_backend(self.backend)
        if own is None:
            return self.backend, None
        return own if self.backend_tls is None else (own[0], self.backend_tls)

    def changed(self, **settings: Any) -> ServiceConfig:
        """The same service but for some settings of its policy, by their keys.

        :raises SettingError: a key is not known, or a value not valid.
        """
        return attrs.evolve(self, policy=self.policy.changed(**settings))


_NO_DEFAULTS = Policy()


def _read_services(node: Node, defaults: Policy = _NO_DEFAULTS) -> tuple[ServiceConfig, ...]:
    mapping = fields.require_mapping(node, "a mapping of names and services")
    return _services_in(
        mapping, lambda name, each: _native_service(name, each, defaults), "listen", "backend"
    )


def _read_defaults(node: Node) -> Policy:
    mapping = fields.require_mapping(node, _DEFAULTS)
    values = _values(mapping, {**_OF_ONE_SERVICE, **_SETTING_READERS})
    return _policy(mapping, Policy(), _with_devices(values))


def _policy(node: Mapping, defaults: Policy, settings: dict[str, Any]) -> Policy:
    """Defaults with some settings changed.

    :param node: where the settings are written.
    """
    found: fields.Found = [
        ((key if key in node.nodes else "payload",), message)
        for key, message in forbidden_payload({**attrs.asdict(defaults, recurse=False), **settings})
    ]
    found += [
        ((older,), f"is an older name of {key}: write one of them")
        for older, key in OLDER_NAMES.items()
        if older in settings and key in settings
    ]
    if found:
        raise Wrong(*found)
    return defaults.changed(**settings)


def _only_of_a_service(node: Node) -> None:
    raise Wrong.here("belongs to one service: write it under its name in services")


def _read_devices(node: Node) -> dict[str, Any]:
    """The settings of a service's devices, by their keys."""
    mapping = fields.require_mapping(node, "a mapping such as {silent_heartbeats: 0}")
    values, found = fields.read_keys(mapping, _DEVICE_READERS)
    if found:
        raise Wrong(*found)
    return values


def _with_devices(values: dict[str, Any]) -> dict[str, Any]:
    """Settings by their keys, those below ``devices`` among them."""
    of_devices = values.pop("devices", {})
    return {**values, **of_devices}


_ALL_READERS = {key: fields.NODE_READERS[each.kind] for key, each in SETTINGS.items()}
_DEVICE_READERS = {
    key: _ALL_READERS[key] for key, each in SETTINGS.items() if "devices" in each.path
}
_SETTING_READERS = {
    **{key: read for key, read in _ALL_READERS.items() if key not in _DEVICE_READERS},
    **{older: _ALL_READERS[key] for older, key in OLDER_NAMES.items()},
    "devices": _read_devices,
}
_OF_ONE_SERVICE = dict.fromkeys(("listen", "backend", "tls", "backend_tls"), _only_of_a_service)
_NATIVE_READERS: dict[str, fields.Reader] = {
    "listen": address_fields.read_listen,
    "backend": address_fields.read_backend,
    "tls": address_fields.read_tls,
    "backend_tls": address_fields.read_backend_tls,
    **_SETTING_READERS,
}


@attrs.frozen
class Config:
    """All that a configuration says; each field is a key at the top of the file."""

    services: Annotated[tuple[ServiceConfig, ...], _read_services] = ()
    """The services, in the order of the file."""
    defaults: Annotated[Policy, _read_defaults] = attrs.field(default=Policy())
    """Defaults of the services' settings; applied to them already."""
    control: Control = attrs.field(default=USUAL_CONTROL, converter=as_controls)
    """The addresses of the control port; it takes one as well, or None for none."""
    manhole: Manhole = None
    """The manhole; None for none."""
    json_log: JsonLog = None
    """The log for programs; None for none."""
    metrics: Metrics = None
    """Metrics for Prometheus; None for none."""
    http: Http = None
    """The HTTP API, and the page for browsers; None for none."""
    history: History = None
    """Past connections and events, in a file; None for none."""
    state: State = None
    """The file of what outlasts the program; None for none. A file's configuration has one in the
    state folder unless it says otherwise."""
    capture: Capture = USUAL_CAPTURE
    """Bytes of connections, in files; None if there may be none."""
    devices: Devices = USUAL_DEVICES
    """Settings of devices and their alarms."""
    notify: Notify = ()
    """Who is notified of events; none."""
    observers: Observers = ()
    """Custom observers."""


@attrs.frozen
class ConfigFile:
    """A configuration, and the file that says it."""

    config: Config
    source: str
    """The file's name."""
    root: Node
    """What is written in it and in those that it includes, with their names and lines."""
    sources: tuple[str, ...] = ()
    """The names of all files, the main one first."""
    stamps: dict[str, Stamp | None] = attrs.field(factory=dict, repr=False)
    """The absolute paths of all files, the main one first, and how each was before it was read;
    none if it is a text."""

    def line_of(self, path: Path) -> int | None:
        """The line of a key, or of the deepest part of its path that the file has; None if it has
        no part of it."""
        if not path or not isinstance(self.root, Mapping) or path[0] not in self.root.nodes:
            return None
        return yamlmap.line_of(self.root, path)

    def place_of(self, path: Path) -> tuple[str, int | None]:
        """The file and the line of a key, as :meth:`line_of`; without one, the main file."""
        if self.line_of(path) is None:
            return self.source, None
        return yamlmap.place_of(self.root, path)

    @property
    def path(self) -> str:
        """The main file's absolute path; empty for a text."""
        return next(iter(self.stamps), "")

    def node_at(self, path: Path) -> Node | None:
        """What is written at a path; None if nothing is."""
        node: Node = self.root
        for part in path:
            if isinstance(node, Mapping) and part in node.nodes:
                node = node.nodes[str(part)]
            elif (
                isinstance(node, yamlmap.Sequence)
                and isinstance(part, int)
                and part < len(node.nodes)
            ):
                node = node.nodes[part]
            else:
                return None
        return node if path else None

    @property
    def is_go_style(self) -> bool:
        """Whether it is written as for the Go tool."""
        return _is_go_style(self.root)

    def path_of_service(self, name: str) -> Path:
        """The path of a service."""
        return (name,) if self.is_go_style else ("services", name)


def load(path: str | os.PathLike[str]) -> Config:
    """The configuration in a file.

    :raises ConfigError: with all problems, in the order of their lines.
    """
    return load_file(path).config


def load_file(path: str | os.PathLike[str]) -> ConfigFile:
    """The configuration in a file, and where in the file, or those that it includes, it says what.

    Relative paths begin in the folder of the file that has them.

    :raises ConfigError: with all problems, in the order of their files and lines.
    """
    source = os.fspath(path)
    tree = read_tree(path)
    file = _configured(tree.root, tree.sources, tree.problems, tree.stamps)
    says_nothing = file.is_go_style or file.node_at(("state",)) is None
    # What comes through a pipe has no lasting name by which its state could be found again.
    if says_nothing and os.path.isfile(source):
        state = StateConfig(None, os.path.abspath(source))
        file = attrs.evolve(file, config=attrs.evolve(file.config, state=state))
    return file


def parse(text: str, source: str) -> Config:
    """The configuration in a YAML text.

    :param source: the file's name, for the problems.
    :raises ConfigError: with all problems, in the order of their lines.
    """
    return parse_file(text, source).config


def parse_file(text: str, source: str) -> ConfigFile:
    """The same as :func:`parse`, with its lines."""
    root, problems = yamlmap.read(text, source)
    if root is not None and is_included(root):
        assert isinstance(root, Mapping)
        line = root.lines[INCLUDE]
        problems.append(Problem(source, line, INCLUDE, "is for a file: a text is in no folder"))
    return _configured(root, [source], problems)


def _configured(
    root: Node | None,
    sources: list[str],
    problems: list[Problem],
    stamps: dict[str, Stamp | None] | None = None,
) -> ConfigFile:
    source = sources[0]
    if root is None:
        raise ConfigError(problems or [Problem(source, None, "", _NO_SERVICES)])
    try:
        config = _config_of(root)
    except Wrong as wrong:
        places = [(*yamlmap.place_of(root, path), path, text) for path, text in wrong.found]
        problems += [
            Problem(name, line, yamlmap.format_path(path), text)
            for name, line, path, text in places
        ]
    if problems:
        order = {name: number for number, name in enumerate(sources)}
        raise ConfigError(
            sorted(
                problems, key=lambda each: (order.get(each.source, 0), each.line or 0, each.path)
            )
        )
    return ConfigFile(config, source, root, tuple(sources), stamps or {})


def from_pairs(pairs: Iterable[str], *, record: bool = False, http: str | None = None) -> Config:
    """Services from ``LISTEN=BACKEND`` pairs, each named by its LISTEN as written.

    :param record: whether each has a recorder.
    :param http: where the page and the HTTP API are served; None for nowhere.
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
        if not service.name.isprintable():
            messages.append(f"{quoted(pair)}: its name would be no printable text: use -c FILE")
            continue
        if service.name in services:
            messages.append(f"{quoted(pair)}: {quoted(service.name)} is given twice: keep one")
            continue
        services[service.name], written[service.name] = service, quoted(pair)
    for check in (clashes, cycles):
        messages += [f"{written[name]}: {message}" for name, message in check(services.values())]
    if not services and not messages:
        messages.append("no services: write LISTEN=BACKEND, such as :80=10.0.0.5:80")
    config = Config(tuple(services.values()))
    if record:
        recorded = tuple(each.changed(recorder=True) for each in services.values())
        config = attrs.evolve(config, services=recorded)
    if http is not None:
        try:
            config = attrs.evolve(config, http=http_at(http))
        except AddressError as error:
            messages.append(f"--http: {error}")
        messages += [f"--http: {text}" for _, text in taken_by_others(config, config.services)]
    if messages:
        raise ConfigError([Problem(_SOURCE_OF_PAIRS, None, "", message) for message in messages])
    return config


def _is_go_style(root: Node) -> bool:
    return isinstance(root, Mapping) and "services" not in root.nodes


def _config_of(root: Node) -> Config:
    mapping = fields.require_mapping(root, _A_MAPPING_OF_SERVICES)
    if _is_go_style(mapping):
        return Config(_services_in(mapping, _go_service, "listen_port", "backend_port"))
    # The services are read last, as their common defaults are another section.
    rest = {key: node for key, node in mapping.nodes.items() if key != "services"}
    config, found = Config(), []
    try:
        config = fields.structure(attrs.evolve(mapping, nodes=rest), Config)
    except Wrong as wrong:
        found += wrong.found
    try:
        services = _read_services(mapping.nodes["services"], config.defaults)
    except Wrong as wrong:
        found += [(("services", *path), message) for path, message in wrong.found]
    else:
        found += _unknown_services(config, services)
        found += taken_by_others(config, services)
        found += _same_file(config)
    if found:
        raise Wrong(*found)
    return attrs.evolve(config, services=services)


def _unknown_services(config: Config, services: tuple[ServiceConfig, ...]) -> fields.Found:
    """The observers' services that there are not."""
    names = [each.name for each in services]
    return [
        (("observers", index, "services"), f"there is no service named {quoted(name)}")
        for index, observer in enumerate(config.observers)
        for name in observer.services or ()
        if name not in names
    ]


def _same_file(config: Config) -> fields.Found:
    """A log that would be written into the history."""
    log, history = config.json_log, config.history
    if log is None or history is None:
        return []
    path, file = os.path.realpath(os.path.expanduser(log.path)), os.path.realpath(history.path)
    if not path.startswith(file) or path[len(file) :] not in ("", "-wal", "-shm", ".lock"):
        return []
    return [(("json_log", "path"), f"{quoted(log.path)} is the history's: each has its own file")]


def _services_in(
    mapping: Mapping,
    read: Callable[[str, Node], ServiceConfig],
    listen_key: str,
    backend_key: str,
) -> tuple[ServiceConfig, ...]:
    """The services, if there is no problem with any and none with what they are to each other."""
    services, found = fields.each_named(mapping, read)
    found += [((name, listen_key), message) for name, message in clashes(services.values())]
    found += [((name, backend_key), message) for name, message in cycles(services.values())]
    if found:
        raise Wrong(*found)
    if not services and mapping.is_whole:
        raise Wrong.here(_NO_SERVICES)
    return tuple(services.values())


def _values(
    node: Mapping, readers: dict[str, fields.Reader], required: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The values of a service's keys.

    :raises Wrong: with every problem.
    """
    values, found = _read_service_keys(node, readers, required)
    if found:
        raise Wrong(*found)
    return values


def _read_service_keys(
    node: Mapping, readers: dict[str, fields.Reader], required: tuple[str, ...]
) -> tuple[dict[str, Any], fields.Found]:
    return fields.read_keys(node, {"name": _no_key_of_a_service, **readers}, required)


def _no_key_of_a_service(node: Node) -> None:
    raise Wrong.here("is not a known key: a service's name is written before its colon")


def _native_service(name: str, node: Node, defaults: Policy) -> ServiceConfig:
    mapping = fields.require_mapping(node, _A_SERVICE)
    values, found = _read_service_keys(mapping, _NATIVE_READERS, ("listen", "backend"))
    listen, backend = values.pop("listen", None), values.pop("backend", None)
    tls, backend_tls = values.pop("tls", None), values.pop("backend_tls", None)
    has_tls, has_backend_tls = "tls" in mapping.nodes, "backend_tls" in mapping.nodes
    misfits = _tls_misfits(listen, backend, has_tls, has_backend_tls)
    found += [((key,), message) for key, message in misfits]
    if found:
        raise Wrong(*found)
    policy = _policy(mapping, defaults, _with_devices(values))
    return ServiceConfig(name, listen, backend, policy, tls, backend_tls)


def _tls_misfits(
    listen: Address | None, backend: Address | None, has_tls: bool, has_backend_tls: bool
) -> list[tuple[str, str]]:
    """Each key for TLS that has no meaning beside these addresses, and a message.

    :param listen: None if it is not known.
    :param backend: None if it is not known.
    """
    misfits = []
    if has_tls and isinstance(listen, EndpointAddress):
        misfits.append(("tls", _TLS_BESIDE_ENDPOINT))
    if has_backend_tls and backend is not None and (advice := _beside_backend(backend)):
        misfits.append(("backend_tls", advice))
    return misfits


def _beside_backend(backend: Address) -> str | None:
    """What is wrong with a ``backend_tls`` beside this backend; None if nothing is."""
    own = tls_backend(backend)
    if own is not None and own[1] == BackendTls():
        return None
    if own is not None:
        return f'is for "tls:{own[0]}" alone: write here what the options of the backend say'
    if isinstance(backend, TcpAddress):
        return f'is for a backend with TLS: write it as "tls:{backend}"'
    return 'is for a backend with TLS: write that as "tls:HOST:PORT"'


# -- the Go tool's style

_GO_DEFAULTS = Policy.of(read_timeout=600, half_close_timeout=0)
_KINDS_OF_DURATIONS = (SECONDS, OPTIONAL_SECONDS, POSITIVE_SECONDS)
_DURATIONS = {key for key, each in SETTINGS.items() if each.kind in _KINDS_OF_DURATIONS}
_GO_READERS: dict[str, fields.Reader] = {
    "listen_ip": address_fields.read_host,
    "listen_port": address_fields.read_listen_port,
    "backend_ip": address_fields.read_host,
    "backend_port": address_fields.read_backend_port,
    **{key: read for key, read in _SETTING_READERS.items() if key != "devices"},
    **dict.fromkeys(_DURATIONS, fields.read_seconds),
}


GO_ADDRESSES = {"listen": ("listen_ip", "listen_port"), "backend": ("backend_ip", "backend_port")}
"""The keys of the Go tool's style that have the place of ours; the last of each must be there."""


def _go_service(name: str, node: Node) -> ServiceConfig:
    if not isinstance(node, Mapping):
        raise Wrong.here(
            f"must be {_A_GO_SERVICE}, not {fields.kind_of(node)};"
            ' services with "listen" and "backend" belong under "services:"'
        )
    if node.nodes and all(isinstance(value, Mapping) for value in node.nodes.values()):
        raise Wrong.here('is not a known key: did you mean "services"?')
    if name == "defaults" and not {"listen_port", "backend_port"} & node.nodes.keys():
        raise Wrong.here('is for the services under "services:", and there are none')
    for key in ("listen", "backend"):
        if key in node.nodes:
            raise Wrong(((key,), _TWO_STYLES))
    written = {key: value for key, value in node.nodes.items() if not _is_null(value)}
    values = _values(
        attrs.evolve(node, nodes=written), _GO_READERS, required=("listen_port", "backend_port")
    )
    listen = TcpAddress(values.pop("listen_ip", ""), values.pop("listen_port"))
    backend = TcpAddress(values.pop("backend_ip", "") or "127.0.0.1", values.pop("backend_port"))
    # In the Go tool's style, a duration of 0 means the default.
    settings = {key: value for key, value in values.items() if value or key not in _DURATIONS}
    return ServiceConfig(name, listen, backend, _policy(node, _GO_DEFAULTS, settings))


def go_default(key: str, node: Node) -> bool:
    """Whether a value in a file of the Go tool's style stands for the default of its key."""
    return _is_null(node) or (key in _DURATIONS and fields.read_seconds(node) == 0)


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
