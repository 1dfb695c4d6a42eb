"""The sections of a configuration beside its services."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import attrs

from monconn.addresses import TcpAddress, UnixAddress, is_loopback
from monconn.config import fields
from monconn.config.fields import Wrong
from monconn.config.yaml import Node, Scalar, Sequence, plain
from monconn.errors import quoted

_AN_OBSERVER = "a mapping such as {use: package.module:Class}"

_NOT_WITHOUT_TLS = (
    "whoever may talk to the control port may do anything, and TCP does not tell who it is:"
    " it needs tls: {certificate: FILE, key: FILE, client_authority: FILE}, or use unix:PATH"
)


@attrs.frozen
class TlsConfig:
    """How both sides of a connection prove who they are; files in PEM."""

    certificate: fields.Text
    key: fields.Text
    client_authority: fields.Text
    """The certificate that has signed those of the clients."""


def _read_tls(node: Node) -> TlsConfig:
    return fields.structure(node, TlsConfig)


@attrs.frozen
class ControlConfig:
    """The control port."""

    listen: fields.PlainListen = None
    """Where; None for a UNIX socket where the command line looks for one."""
    tls: Annotated[TlsConfig | None, _read_tls] = None


def _read_control(node: Node) -> ControlConfig | None:
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return ControlConfig() if node.value else None
    mapping = fields.require_mapping(node, "false, or a mapping such as {listen: unix:PATH}")
    control = fields.structure(mapping, ControlConfig)
    if isinstance(control.listen, TcpAddress):
        if control.tls is None:
            raise Wrong((("listen",), _NOT_WITHOUT_TLS))
    elif control.tls is not None:
        raise Wrong((("tls",), "is for HOST:PORT: a UNIX socket knows its peers without"))
    return control


@attrs.frozen
class ManholeConfig:
    """Python over SSH."""

    listen: Annotated[TcpAddress | UnixAddress, fields.read_plain_listen]
    """Where; on this machine only."""
    authorized_keys: fields.Text
    """The file with the public keys of those who may enter."""
    host_key: Annotated[str | None, fields.read_text] = None
    """The file with our own key, made on first use; None for one in the user's state folder."""


def _read_manhole(node: Node) -> ManholeConfig:
    manhole = fields.structure(node, ManholeConfig)
    if isinstance(manhole.listen, TcpAddress) and not is_loopback(manhole.listen.host):
        raise Wrong(
            (("listen",), "must be on this machine: 127.0.0.1:PORT, [::1]:PORT or unix:PATH")
        )
    return manhole


def _read_path(node: Node) -> str:
    path = fields.read_text(node)
    if not path.strip():
        raise Wrong.here("must be the path of a file, not an empty text")
    return path


Path = Annotated[str, _read_path]
_LEAST_HISTORY = 1 << 20


def _read_history_size(node: Node) -> int:
    size = fields.read_size(node)
    if size < _LEAST_HISTORY:
        raise Wrong.here("must be at least 1MiB")
    return size


@attrs.frozen
class JsonLogConfig:
    """One line of JSON for what happens to a connection."""

    path: Path
    """A file; or ``stdout``, or ``syslog``."""
    at_open: fields.Flag = False
    """Whether to write a line when a connection opens."""
    every: fields.Seconds = 60.0
    """Seconds between the lines of a connection that lasts; 0 is none but the last."""


@attrs.frozen
class MetricsConfig:
    """Figures for Prometheus."""

    listen: Annotated[TcpAddress | UnixAddress, fields.read_plain_listen]
    """Where to answer ``/metrics``."""


@attrs.frozen
class HistoryConfig:
    """What happened, kept in a file."""

    path: Path
    """An SQLite database, made on first use."""
    keep: fields.PositiveSeconds = 30 * 86400.0
    """Seconds after which what happened is forgotten."""
    max_size: Annotated[int, _read_history_size] = 1 << 30
    """Bytes that the file may have, about; then the oldest is forgotten."""
    resume_counters: fields.Flag = True
    """Whether the services' totals go on from those of the run before."""


def _read_prefix(longest: int) -> Callable[[Node], int]:
    def read(node: Node) -> int:
        length = fields.read_count(node)
        if not 1 <= length <= longest:
            raise Wrong.here(f"must be from 1 to {longest}")
        return length

    return read


def _read_positive_count(node: Node) -> int:
    count = fields.read_count(node)
    if not count:
        raise Wrong.here("must be more than 0")
    return count


PositiveCount = Annotated[int, _read_positive_count]


@attrs.frozen
class DevicesConfig:
    """Which client addresses count as one device, and when it is worth an alarm."""

    prefix_v4: Annotated[int, _read_prefix(32)] = 32
    prefix_v6: Annotated[int, _read_prefix(128)] = 64
    kept: PositiveCount = 100_000
    """Devices remembered for each service; beyond, the one seen longest ago is forgotten."""
    silent_heartbeats: fields.Count = 3
    """Typical times between messages without one that make a device *silent*; 0 is never."""
    storm_connections: fields.Count = 10
    """Connections of one device in ``storm_within`` that make a *reconnect storm*; 0 is never."""
    storm_within: fields.PositiveSeconds = 60.0


USUAL_DEVICES = DevicesConfig()


@attrs.frozen
class ObserverConfig:
    """An observer of somebody's own."""

    use: str
    """The class, as ``package.module:Class``."""
    make: Callable[..., Any] = attrs.field(repr=False)
    """The class itself."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """What it is made with."""


def _read_observer(node: Node) -> ObserverConfig:
    mapping = fields.require_mapping(node, _AN_OBSERVER)
    if "use" not in mapping.nodes:
        raise Wrong((("use",), f"is missing: {_AN_OBSERVER}"))
    options = {key: plain(each) for key, each in mapping.nodes.items() if key != "use"}
    use = fields.read_text(mapping.nodes["use"])
    try:
        make = _imported(use)
    except Wrong as wrong:
        raise Wrong((("use",), str(wrong))) from None
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise Wrong.here(f"{use} cannot be made with these options: {error}") from None
    except ValueError:
        pass  # a class in C does not tell its signature
    return ObserverConfig(use, make, options)


def _imported(use: str) -> Callable[..., Any]:
    module, colon, name = use.partition(":")
    if not (module and colon and name):
        raise Wrong.here(f"must be package.module:Class, not {quoted(use)}")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # somebody's module may fail in any way
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise Wrong.here(f"{quoted(use)} cannot be imported: {words}") from None
    if not callable(found):
        raise Wrong.here(f"{quoted(use)} is no class")
    make: Callable[..., Any] = found
    return make


def _read_observers(node: Node) -> tuple[ObserverConfig, ...]:
    if not isinstance(node, Sequence):
        raise Wrong.here(f"must be a list of observers, each {_AN_OBSERVER}")
    observers: list[ObserverConfig] = []
    found: fields.Found = []
    for index, each in enumerate(node.nodes):
        try:
            observers.append(_read_observer(each))
        except Wrong as wrong:
            found += [((index, *path), message) for path, message in wrong.found]
    if found:
        raise Wrong(*found)
    return tuple(observers)


USUAL_CONTROL = ControlConfig()
Control = Annotated[ControlConfig | None, _read_control]
Manhole = Annotated[ManholeConfig | None, _read_manhole]
JsonLog = Annotated[JsonLogConfig | None, lambda node: fields.structure(node, JsonLogConfig)]
Metrics = Annotated[MetricsConfig | None, lambda node: fields.structure(node, MetricsConfig)]
History = Annotated[HistoryConfig | None, lambda node: fields.structure(node, HistoryConfig)]
Devices = Annotated[DevicesConfig, lambda node: fields.structure(node, DevicesConfig)]
Observers = Annotated[tuple[ObserverConfig, ...], _read_observers]
