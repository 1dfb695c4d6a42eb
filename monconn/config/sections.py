"""The sections of a configuration other than its services."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import attrs

from monconn.addresses import TcpAddress, UnixAddress, is_loopback
from monconn.config import address_fields, fields
from monconn.config.fields import Wrong
from monconn.config.yaml import Node, Scalar, Sequence, plain
from monconn.errors import quoted
from monconn.model.alarms import DEVICE_ALARM_KINDS
from monconn.model.reasons import REASONS
from monconn.policy.devices import USUAL_IDENTITY, Names
from monconn.policy.kinds import Count, Flag, PositiveSeconds, Seconds
from monconn.policy.tls import BackendTls
from monconn.roles import Role
from monconn.units import size_text

_AN_OBSERVER = "a mapping such as {use: package.module:Class}"

_NOT_WITHOUT_TLS = (
    "whoever can connect to the control port can do all that its role allows, and TCP does not say"
    " who it is:"
    " it needs tls: {certificate: FILE, key: FILE, client_authority: FILE}, or use unix:PATH"
)


@attrs.frozen
class TlsConfig:
    """Mutual TLS authentication; the files are in PEM."""

    certificate: fields.FilePath
    key: fields.FilePath
    client_authority: fields.FilePath
    """The certificate of the authority that has signed those of the clients."""


def _read_tls(node: Node) -> TlsConfig:
    tls = fields.structure(node, TlsConfig)
    # The same files as for a backend that asks for a certificate, and so the same faults.
    faults = address_fields.tls_faults(
        BackendTls(ca=tls.client_authority, certificate=tls.certificate, key=tls.key)
    )
    if faults:
        names = {"ca": "client_authority"}
        raise Wrong(*((tuple(names.get(key, key) for key in path), text) for path, text in faults))
    return tls


def _read_role(node: Node) -> Role:
    value = fields.read_text(node)
    if value == "view" or value == "operate":
        return "view" if value == "view" else "operate"
    raise Wrong.here(f"must be view or operate, not {quoted(value)}")


@attrs.frozen
class ControlConfig:
    """One address of the control port."""

    listen: Annotated[TcpAddress | UnixAddress | None, address_fields.read_plain_listen] = None
    """The address; None for the UNIX socket that the command line connects to by default."""
    tls: Annotated[TlsConfig | None, _read_tls] = None
    role: Annotated[Role, _read_role] = "operate"
    """What its clients may do."""


_A_CONTROL = "a mapping such as {listen: unix:PATH, role: view}"


def _read_control(node: Node) -> tuple[ControlConfig, ...]:
    if isinstance(node, Scalar) and isinstance(node.value, bool):
        return (ControlConfig(),) if node.value else ()
    if not isinstance(node, Sequence):
        return (_read_one_control(node, f"false, {_A_CONTROL}, or a list of them"),)
    controls: list[ControlConfig] = []
    found: fields.Found = []
    for index, each in enumerate(node.nodes):
        try:
            control = _read_one_control(each, _A_CONTROL)
            if control.listen is None and any(one.listen is None for one in controls):
                raise Wrong((("listen",), "is missing: only one can be at the usual place"))
            controls.append(control)
        except Wrong as wrong:
            found += [((index, *path), message) for path, message in wrong.found]
    if found:
        raise Wrong(*found)
    return tuple(controls)


def _read_one_control(node: Node, example: str) -> ControlConfig:
    mapping = fields.require_mapping(node, example)
    control = fields.structure(mapping, ControlConfig)
    if isinstance(control.listen, TcpAddress):
        if control.tls is None:
            raise Wrong((("listen",), _NOT_WITHOUT_TLS))
    elif control.tls is not None:
        raise Wrong((("tls",), "is for HOST:PORT: a UNIX socket identifies its peers without TLS"))
    return control


@attrs.frozen
class ManholeConfig:
    """The manhole: a Python prompt over SSH."""

    listen: Annotated[TcpAddress | UnixAddress, address_fields.read_private_listen]
    """The address; on this machine only."""
    authorized_keys: Annotated[str, fields.read_file_path]
    """The file with the public keys that may log in."""
    host_key: Annotated[str | None, fields.read_file_path] = None
    """The file of the server's key, created on first use; None for one in the state folder."""


def _read_manhole(node: Node) -> ManholeConfig:
    manhole = fields.structure(node, ManholeConfig)
    if isinstance(manhole.listen, TcpAddress) and not is_loopback(manhole.listen.host):
        raise Wrong(
            (("listen",), "must be on this machine: 127.0.0.1:PORT, [::1]:PORT or unix:PATH")
        )
    return manhole


_LEAST_HISTORY = 1 << 20


def _read_history_size(node: Node) -> int:
    size = fields.read_size(node)
    if size < _LEAST_HISTORY:
        raise Wrong.here("must be at least 1MiB")
    return size


JsonLogFormat = Literal["native", "ecs"]


def _read_json_log_format(node: Node) -> JsonLogFormat:
    value = fields.read_text(node)
    if value == "native" or value == "ecs":
        return "native" if value == "native" else "ecs"
    raise Wrong.here(f"must be native or ecs, not {quoted(value)}")


@attrs.frozen
class JsonLogConfig:
    """A log of one line of JSON per event of a connection."""

    path: Annotated[str, fields.read_log_path]
    """A file; or ``stdout``, or ``syslog``."""
    at_open: Flag = False
    """Whether to write a line when a connection opens."""
    at_half_close: Flag = False
    """Whether to write a line when one side has ended in order and the other has not."""
    every: Seconds = 60.0
    """Seconds between the lines of a live connection; 0 is only the one when it closes."""
    format: Annotated[JsonLogFormat, _read_json_log_format] = "native"
    """The names and types of the fields: our own, or those of the Elastic Common Schema."""
    community_id: Flag = False
    """Whether lines of the native format have Community IDs; those of ECS always have them."""


@attrs.frozen
class MetricsConfig:
    """Metrics for Prometheus."""

    listen: Annotated[TcpAddress | UnixAddress, address_fields.read_plain_listen]
    """The address at which ``/metrics`` is served."""


@attrs.frozen
class HistoryConfig:
    """Past connections and events, in a file."""

    path: Annotated[str, fields.read_database_path]
    """An SQLite database, created on first use."""
    keep: PositiveSeconds = 30 * 86400.0
    """Seconds after which rows are deleted."""
    max_size: Annotated[int, _read_history_size] = 1 << 30
    """The size in bytes, about, at which the oldest rows are deleted."""
    resume_counters: Flag = True
    """Whether the services' totals go on from those of the previous run."""


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


def _read_percent(node: Node) -> int:
    count = fields.read_count(node)
    if not 1 <= count <= 100:
        raise Wrong.here("must be from 1 to 100")
    return count


PositiveCount = Annotated[int, _read_positive_count]


@attrs.frozen
class DevicesConfig:
    """Which connections are those of one device, and when an alarm is raised."""

    prefix_v4: Annotated[int, _read_prefix(32)] = 32
    prefix_v6: Annotated[int, _read_prefix(128)] = 64
    kept: PositiveCount = 100_000
    """Devices stored for each service; beyond, the one seen longest ago is dropped."""
    silent_heartbeats: Count = 3
    """Typical times between messages without one that make a device *silent*; 0 is never."""
    storm_connections: Count = 10
    """Connections of one device in ``storm_within`` that make a *reconnect storm*; 0 is never."""
    storm_within: PositiveSeconds = 60.0
    outage_devices: Count = 10
    """Devices that are missing together, from which on that is one *outage*; 0 is never."""
    outage_percent: Annotated[int, _read_percent] = 10
    """And how many percent they must be of the service's devices, or of a network's."""
    identity: Annotated[tuple[str, ...], fields.read_identity] = USUAL_IDENTITY
    """Facts about a connection that name its device, the first that is known; the last is
    ``address``."""
    names: Annotated[Names, fields.read_names] = ()
    """Names of addresses and networks, for people."""


USUAL_DEVICES = DevicesConfig()


@attrs.frozen
class ObserverConfig:
    """A custom observer."""

    use: str
    """The class, as ``package.module:Class``."""
    make: Callable[..., Any] = attrs.field(repr=False)
    """The class itself."""
    options: dict[str, Any] = attrs.field(factory=dict)
    """The keyword arguments that it is made with."""
    services: tuple[str, ...] | None = None
    """The services that it observes; None for all."""
    filter: str | None = None
    """The connections that it observes, in the filter language; None for all."""
    lines: dict[str, int] = attrs.field(factory=dict, eq=False, repr=False)
    """The lines of the file at which its keys are."""
    source: str = attrs.field(default="", eq=False, repr=False)
    """The file."""


def _read_observer(node: Node) -> ObserverConfig:
    mapping = fields.require_mapping(node, _AN_OBSERVER)
    if "use" not in mapping.nodes:
        raise Wrong((("use",), f"is missing: {_AN_OBSERVER}"))
    use = fields.read_text(mapping.nodes["use"])
    try:
        make = _imported(use)
    except Wrong as wrong:
        raise Wrong((("use",), str(wrong))) from None
    try:
        signature: inspect.Signature | None = inspect.signature(make)
    except Exception:  # a class in C may have none to inspect, and others answer as they like
        signature = None
    # Those that the class itself has a parameter for are its own: there were such classes before
    # there were these keys.
    own = set() if signature is None else set(signature.parameters)
    readers: dict[str, fields.Reader] = {
        "use": fields.read_text,
        "services": _read_service_names,
        "filter": fields.read_text,
    }
    readers = {key: read for key, read in readers.items() if key == "use" or key not in own}
    keys = attrs.evolve(mapping, nodes={k: v for k, v in mapping.nodes.items() if k in readers})
    chosen, found = fields.read_keys(keys, readers)
    if found:
        raise Wrong(*found)
    options = {key: plain(each) for key, each in mapping.nodes.items() if key not in readers}
    if signature is not None:
        try:
            signature.bind(**options)
        except TypeError as error:
            raise Wrong.here(f"{use} cannot be made with these options: {error}") from None
    return ObserverConfig(
        use,
        make,
        options,
        services=chosen.get("services"),
        filter=chosen.get("filter"),
        lines=mapping.lines,
        source=mapping.source.name,
    )


def _read_service_names(node: Node) -> tuple[str, ...]:
    if isinstance(node, Sequence) and node.nodes:
        return tuple(fields.read_text(each) for each in node.nodes)
    raise Wrong.here("must be a list of services' names, such as [mqtt, web]")


def _imported(use: str) -> Callable[..., Any]:
    module, colon, name = use.partition(":")
    if not (module and colon and name):
        raise Wrong.here(f"must be package.module:Class, not {quoted(use)}")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except BaseException as error:  # importing runs code that may fail in any way, or exit
        message = " ".join(f"{type(error).__name__}: {error}".split())
        raise Wrong.here(f"{quoted(use)} cannot be imported: {message}") from None
    if not callable(found):
        raise Wrong.here(f"{quoted(use)} is not a class")
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


_ALL_BYTES = "all"
_LEAST_FILE = 1 << 16
_ALARM_PREFIX = "alarm:"
ABNORMAL = "abnormal"
TRIGGERS: tuple[str, ...] = (
    *REASONS,
    ABNORMAL,
    *(f"{_ALARM_PREFIX}{kind}" for kind in DEVICE_ALARM_KINDS),
)
"""What a capture may be begun by: the reason of a connection's end, any reason that is no orderly
end, or an alarm."""


def _read_first(node: Node) -> int:
    is_number = isinstance(node, Scalar) and not isinstance(node.value, bool)
    if is_number and fields.scalar_value(node) in (0, "0", _ALL_BYTES):
        return 0
    try:
        return fields.read_size(node)
    except ValueError as error:
        raise Wrong.here(f"{error}; or all") from None


def _read_file_size(node: Node) -> int:
    size = fields.read_size(node)
    if size < _LEAST_FILE:
        raise Wrong.here("must be at least 64KiB")
    return size


def _read_triggers(node: Node) -> tuple[str, ...]:
    nodes = node.nodes if isinstance(node, Sequence) else [node]
    triggers: list[str] = []
    found: fields.Found = []
    for index, each in enumerate(nodes):
        below = (index,) if isinstance(node, Sequence) else ()
        try:
            text = fields.read_text(each)
        except Wrong as wrong:
            found.append((below, str(wrong)))
            continue
        if text not in TRIGGERS:
            alike = difflib.get_close_matches(text, [*TRIGGERS, *DEVICE_ALARM_KINDS], 1)
            known = ", ".join(TRIGGERS[:3])
            advice = f"a reason ({known}, ...), {ABNORMAL} or alarm:KIND"
            if alike:
                kind = alike[0]
                advice = (
                    f"did you mean {_ALARM_PREFIX if kind in DEVICE_ALARM_KINDS else ''}{kind}?"
                )
            found.append((below, f"{quoted(text)} is nothing that a capture begins on: {advice}"))
        triggers.append(text)
    if found:
        raise Wrong(*found)
    return tuple(dict.fromkeys(triggers))


@attrs.frozen
class CaptureConfig:
    """Bytes of connections, in files of the format pcapng."""

    folder: Annotated[str | None, fields.read_path] = None
    """Where the files are; made, for this user only, if it is missing. None for one in the user's
    state folder."""
    filter: Annotated[str | None, fields.read_text] = None
    """The connections that are captured, in the filter language, or ``all``; None: none from the
    start. With ``on``, those that may begin a capture."""
    on: Annotated[tuple[str, ...], _read_triggers] = ()
    """The ends and alarms that begin a capture of a client; see :data:`TRIGGERS`."""
    next: PositiveCount = 3
    """How many of the client's next connections are captured then."""
    within: PositiveSeconds = 3600.0
    """Seconds in which these must begin."""
    first: Annotated[int, _read_first] = 1 << 16
    """Bytes that are captured of each direction of a connection; 0 is all."""
    rotate_size: Annotated[int, _read_file_size] = 1 << 26
    """The size in bytes up to which a file is written; then a new one is begun."""
    keep: PositiveCount = 100
    """How many files there may be; beyond, the oldest is deleted."""
    max_total: Annotated[int, _read_file_size] = 1 << 30
    """Bytes of all files together; beyond, the oldest is deleted."""
    lines: dict[str, int] = attrs.field(factory=dict, init=False, eq=False, repr=False)
    """The lines of the file at which its keys are."""
    source: str = attrs.field(default="", init=False, eq=False, repr=False)
    """The file."""


def _read_capture(node: Node) -> CaptureConfig | None:
    if isinstance(node, Scalar) and node.value is False:
        return None
    mapping = fields.require_mapping(node, "false, or a mapping such as {filter: service:mqtt}")
    capture = fields.structure(mapping, CaptureConfig)
    if capture.max_total < 2 * capture.rotate_size:
        raise Wrong(
            (
                ("max_total",),
                f"of {size_text(capture.max_total)} must be at least twice the rotate_size of"
                f" {size_text(capture.rotate_size)}: else the file that is written is deleted",
            )
        )
    capture.lines.update(mapping.lines)
    object.__setattr__(capture, "source", mapping.source.name)  # it is frozen for all others
    return capture


@attrs.frozen
class StateConfig:
    """What outlasts the program: the blocks of operators and of ``auto_block``, in a file."""

    path: str | None = None
    """The file; None for one in the state folder, by the configuration's path."""
    config_path: str = ""
    """The configuration's file."""


def _read_state(node: Node) -> StateConfig | None:
    if isinstance(node, Scalar) and node.value is False:
        return None
    if isinstance(node, Scalar) and node.value is True:
        raise Wrong.here("must be the path of a file, or false for none")
    return StateConfig(fields.read_file_path(node))


USUAL_CONTROL = (ControlConfig(),)
USUAL_CAPTURE = CaptureConfig()
Control = Annotated[tuple[ControlConfig, ...], _read_control]
Manhole = Annotated[ManholeConfig | None, _read_manhole]
JsonLog = Annotated[JsonLogConfig | None, lambda node: fields.structure(node, JsonLogConfig)]
Metrics = Annotated[MetricsConfig | None, lambda node: fields.structure(node, MetricsConfig)]
History = Annotated[HistoryConfig | None, lambda node: fields.structure(node, HistoryConfig)]
Capture = Annotated[CaptureConfig | None, _read_capture]
State = Annotated[StateConfig | None, _read_state]
Devices = Annotated[DevicesConfig, lambda node: fields.structure(node, DevicesConfig)]
Observers = Annotated[tuple[ObserverConfig, ...], _read_observers]


def as_controls(
    control: ControlConfig | tuple[ControlConfig, ...] | None,
) -> tuple[ControlConfig, ...]:
    """One address, or none, as a tuple: what a program may write that makes a configuration."""
    if control is None:
        return ()
    return (control,) if isinstance(control, ControlConfig) else tuple(control)
