"""The settings in effect, each with where it comes from: a line, ``defaults:``, or built in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import attrs

from monconn.addresses import Network, address_text
from monconn.config import yaml as yamlmap
from monconn.config.config import GO_ADDRESSES, ConfigFile, ServiceConfig, go_default
from monconn.config.notify import NotifyUrl, Secret
from monconn.config.sections import ObserverConfig, StateConfig
from monconn.config.yaml import Path
from monconn.policy.policy import OLDER_NAMES, SETTINGS, Policy
from monconn.policy.recorder import RecorderSettings
from monconn.policy.sides import Keepalive, Sides
from monconn.policy.timeouts import BACKEND_ENDED_SECONDS
from monconn.units import duration_text, size_text

From = Literal["file", "defaults", "devices", "built_in"]
"""``devices`` is that section, for a service's settings of the same names."""

SERVICE_KEYS = (
    "listen",
    "backend",
    "connect_timeout",
    "read_timeout",
    "write_timeout",
    "max_idle",
    "half_close_timeout",
    "max_lifetime",
    "wait_timeout",
    "spread",
    "conn_limit",
    "when_full",
    "ip_limit",
    "per_ip_limit",
    "rate",
    "per_ip_rate",
    "block",
    "block_files",
    "allow",
    "bandwidth",
    "per_connection_bandwidth",
    "auto_block",
    "dry_run",
    "keepalive",
    "unreachable_timeout",
    "tls",
    "backend_tls",
    "print_bytes",
    "payload",
    "recorder",
    "decode",
)
"""The order of the documentation; other keys come after these."""
SECTIONS = (
    "control",
    "manhole",
    "json_log",
    "metrics",
    "http",
    "history",
    "state",
    "capture",
    "devices",
)

_ZERO = {
    "conn_limit": "no limit",
    "ip_limit": "no limit",
    "per_ip_limit": "no limit",
    "wait_timeout": "does not wait",
    "spread": "all at once",
    "silent_heartbeats": "never",
    "storm_connections": "never",
    "outage_devices": "never",
    "first": "all",
}
"""What 0 means, where it is not "off"."""
_SIZES = {"max_size", "max_total", "rotate_size", "first"}
_UNSET = {
    "half_close_timeout": f"{duration_text(BACKEND_ENDED_SECONDS)} once the backend has ended"
}
_SECRET = re.compile("pass|secret|token|key|credential|auth", re.IGNORECASE)
_USER_IN_URL = re.compile(r"(\w://[^\s/@:]*):[^\s/@]+@")
_NOT_SHOWN = "(not shown)"


@attrs.frozen
class Setting:
    """One setting that is in effect."""

    key: str
    value: str
    """As it may be written in a file, and perhaps what it means."""
    origin: From
    line: int | None
    """Of the file, unless it is built in."""
    written_as: str = ""
    """Its name in the file, if that is another one: an older name, or one of the Go tool's."""
    file: str | None = None
    """The file of the line."""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "key": self.key,
            "value": self.value,
            "from": self.origin,
            "line": self.line,
            "file": self.file,
        }


@attrs.frozen
class Section:
    """The settings of one service, or of one of the other sections."""

    path: str
    """Such as ``services.web`` or ``history``."""
    line: int | None
    settings: list[Setting]


def explain(file: ConfigFile, usual: Mapping[str, str] | None = None) -> list[Section]:
    """Every setting of a configuration, in the documentation's order.

    :param usual: texts of values that are chosen at the start, by paths such as
        ``control.listen``.
    """
    return list(sections(file, usual))


def sections(file: ConfigFile, usual: Mapping[str, str] | None = None) -> Iterator[Section]:
    """The same, section by section: of a thousand services, all at once would take too long."""
    usual = usual or {}
    for service in file.config.services:
        yield _service(file, service)
    yield from _controls(file, usual)
    for name in SECTIONS[1:]:
        section = getattr(file.config, name)
        line = None if file.is_go_style else file.line_of((name,))
        if section is None:
            origin: From = "built_in" if line is None else "file"
            source = None if line is None else file.place_of((name,))[0]
            settings = [Setting(name, "off", origin, line, file=source)]
        elif isinstance(section, StateConfig):  # a path, and no mapping
            origin = "built_in" if line is None else "file"
            source = None if line is None else file.place_of((name,))[0]
            place = section.path or usual.get(name, "in the state folder")
            settings = [Setting(name, place, origin, line, file=source)]
        else:
            settings = list(_fields(file, section, (name,), "", usual))
        yield Section(name, line, settings)
    for index, output in enumerate(file.config.notify):
        section_path = ("notify", index)
        settings = list(_fields(file, output, section_path, "", usual))
        yield Section(f"notify[{index}]", file.line_of(section_path), settings)
    for index, observer in enumerate(file.config.observers):
        path = ("observers", index)
        source, line = file.place_of(path)
        settings = list(_observer(observer, source))
        yield Section(f"observers[{index}]", line, settings)


def _controls(file: ConfigFile, usual: Mapping[str, str]) -> list[Section]:
    """The control port: one section, or one for each of a list."""
    controls, path = file.config.control, (SECTIONS[0],)
    line = None if file.is_go_style else file.line_of(path)
    if not controls:
        origin: From = "built_in" if line is None else "file"
        return [Section(path[0], line, [Setting(path[0], "off", origin, line)])]
    if not isinstance(file.node_at(path), yamlmap.Sequence):
        return [Section(path[0], line, list(_fields(file, controls[0], path, "", usual)))]
    sections = []
    for index, control in enumerate(controls):
        here: Path = (*path, index)
        name = yamlmap.format_path(here)
        texts = {f"{name}.listen": usual.get(f"{path[0]}.listen", "")}
        settings = list(_fields(file, control, here, "", texts))
        sections.append(Section(name, file.line_of(here), settings))
    return sections


def _service(file: ConfigFile, service: ServiceConfig) -> Section:
    path = file.path_of_service(service.name)
    settings = [
        *(_addresses(file, service, path)),
        *(each for key in SETTINGS for each in _policy(file, service.policy, path, key)),
    ]
    for field in attrs.fields(ServiceConfig):
        if field.name in ("name", "listen", "backend", "policy"):
            continue
        value, here = getattr(service, field.name), (*path, field.name)
        if attrs.has(type(value)):
            settings += _fields(file, value, here, f"{field.name}.", {})
        else:
            settings.append(_setting(file, field.name, _text(field.name, value), here))
    order = {key: number for number, key in enumerate(SERVICE_KEYS)}
    settings.sort(key=lambda each: order.get(each.key.partition(".")[0], len(order)))
    return Section(yamlmap.format_path(("services", service.name)), file.line_of(path), settings)


def _addresses(file: ConfigFile, service: ServiceConfig, path: Path) -> Iterator[Setting]:
    for key in ("listen", "backend"):
        value = str(getattr(service, key))
        if not file.is_go_style:
            yield _setting(file, key, value, (*path, key))
            continue
        names = [each for each in GO_ADDRESSES[key] if file.node_at((*path, each)) is not None]
        source, line = file.place_of((*path, names[-1]))
        yield Setting(key, value, "file", line, ", ".join(names), source)


def _policy(file: ConfigFile, policy: Policy, path: Path, key: str) -> Iterator[Setting]:
    """The setting of a service's policy, or one for each side."""
    value = policy.settings()[key]
    # Those of devices are written below that key, and what is unset is as the section says.
    below = ("devices",) if SETTINGS[key].path[0] == "devices" else ()
    written = (*below, key)
    here = _written_at(file, path, key)
    node = file.node_at(here)
    name = ".".join(written)
    if below and value is None:
        found = _setting(file, name, _text(key, getattr(file.config.devices, key)), written)
        yield found if found.line is None else attrs.evolve(found, origin="devices")
        return
    if not isinstance(value, Sides) or value.client == value.backend:
        one = value.client if isinstance(value, Sides) else value
        found = _setting(file, name, _text(key, one), here)
        yield attrs.evolve(found, written_as="" if here[-1:] in ((), (key,)) else str(here[-1]))
        return
    for side in ("client", "backend"):
        of_side = (*here, side) if isinstance(node, yamlmap.Mapping) else here
        yield _setting(file, f"{name}.{side}", _text(key, getattr(value, side)), of_side)


def _written_at(file: ConfigFile, path: Path, key: str) -> Path:
    """Where a setting of a service's policy is written, perhaps by an older name; empty if a file
    of the Go tool's style says there that it is as usual.

    :param path: of the service.
    """
    below = ("devices",) if SETTINGS[key].path[0] == "devices" else ()
    names = (key, *(older for older, newer in OLDER_NAMES.items() if newer == key))
    starts = (path,) if file.is_go_style else (path, ("defaults",))
    places: list[Path] = [(*start, *below, name) for start in starts for name in names]
    here = next((each for each in places if file.node_at(each) is not None), places[-1])
    node = file.node_at(here)
    return () if file.is_go_style and node is not None and go_default(key, node) else here


@attrs.frozen
class Origin:
    """Where a setting of a service is written."""

    place: str
    """``FILE:LINE``."""
    is_default: bool = False
    """Whether it is in ``defaults:``."""


def origin_of(
    file: ConfigFile, service: str, key: str, value: Any, network: Network | None = None
) -> Origin | None:
    """Where a setting of a running service is written.

    :param value: what is in force.
    :param network: of a list of networks, the one that is meant.
    :returns: None if the file says something else, or nothing: it was set while the service runs.
    """
    named = (each for each in file.config.services if each.name == service)
    config = next(named, None)
    if config is None or config.policy.settings()[key] != value:
        return None
    path = _written_at(file, file.path_of_service(service), key)
    node = file.node_at(path)
    if node is None:
        return None
    here = path
    if network is not None and isinstance(node, yamlmap.Sequence):
        # Of one that is written otherwise it is the line of the list.
        index = _index_of(node)
        found = index.get(str(network), index.get(address_text(network)))
        here = path if found is None else (*path, found)
    source, line = file.place_of(here)
    is_default = not file.is_go_style and path[0] == "defaults"
    return Origin(f"{source}:{line}", is_default)


_indexes: WeakKeyDictionary[yamlmap.Sequence, dict[str, int]] = WeakKeyDictionary()


def _index_of(node: yamlmap.Sequence) -> dict[str, int]:
    """Where each text of a list is in it.

    As texts: to parse each of 10,000 networks takes 50 ms. A listing asks for each of them.
    """
    index = _indexes.get(node)
    if index is None:
        index = _indexes[node] = {}
        for number, each in enumerate(node.nodes):
            index.setdefault(getattr(each, "text", "").strip(), number)
    return index


def _fields(
    file: ConfigFile, thing: Any, path: Path, prefix: str, usual: Mapping[str, str]
) -> Iterator[Setting]:
    """The fields of an attrs class, and of the classes in them."""
    for field in attrs.fields(type(thing)):
        if not field.init:
            continue
        value, here, key = getattr(thing, field.name), (*path, field.name), prefix + field.name
        if isinstance(value, Mapping) and value:
            for name, each in value.items():
                yield from _fields(file, each, (*here, name), f"{key}.{name}.", usual)
        elif attrs.has(type(value)) and not _is_plain(value):
            yield from _fields(file, value, here, f"{key}.", usual)
        else:
            text = _text(field.name, value)
            if value is None and (chosen := usual.get(yamlmap.format_path(here))):
                text = chosen
            yield _setting(file, key, text, here)


def _is_plain(value: Any) -> bool:
    """Whether an attrs class is written as one value, such as an address."""
    return (
        isinstance(value, Keepalive | NotifyUrl | Secret)
        or type(value).__module__ == "monconn.addresses"
    )


def _observer(observer: ObserverConfig, source: str) -> Iterator[Setting]:
    def setting(key: str, value: str) -> Setting:
        line = observer.lines.get(key)
        if line is None:
            return Setting(key, value, "built_in", None)
        return Setting(key, value, "file", line, file=source)

    yield setting("use", observer.use)
    for key, value in observer.options.items():
        yield setting(key, _NOT_SHOWN if _SECRET.search(key) else _masked(value))
    yield setting("services", "all" if observer.services is None else ", ".join(observer.services))
    yield setting("filter", "none" if observer.filter is None else observer.filter)


def _masked(value: Any) -> str:
    """A value of any kind, without what is secret in it."""
    if isinstance(value, dict):
        inner = (
            f"{key}: {_NOT_SHOWN if _SECRET.search(str(key)) else _masked(each)}"
            for key, each in value.items()
        )
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_masked, value))}]"
    return _USER_IN_URL.sub(r"\1:***@", _plain(value))


def _setting(file: ConfigFile, key: str, value: str, path: Path) -> Setting:
    if file.node_at(path) is None:
        return Setting(key, value, "built_in", None)
    origin: From = "file"
    if not file.is_go_style and path[0] == "defaults":
        origin = "defaults"
    source, line = file.place_of(path)
    return Setting(key, value, origin, line, file=source)


def _text(key: str, value: Any) -> str:
    """A value as it may be written in a file: every float is one of seconds."""
    if value is None:
        return _UNSET.get(
            key, "false" if key in ("keepalive", "recorder", "auto_block") else "none"
        )
    if isinstance(value, Keepalive):
        idle, interval = duration_text(value.idle), duration_text(value.interval)
        return f"{{idle: {idle}, interval: {interval}, count: {value.count}}}"
    if isinstance(value, RecorderSettings):
        sizes = f"first: {size_text(value.first)}, last: {size_text(value.last)}"
        return f"{{{sizes}, keep: {value.keep}, keep_for: {duration_text(value.keep_for)}}}"
    if key == "names" and value:
        return f"{{{', '.join(f'{address_text(network)}: {name}' for network, name in value)}}}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]" if value else "all" if key == "allow" else "none"
    if isinstance(value, Mapping):
        return "none"
    if value == 0 and not isinstance(value, bool):
        return f"0 ({_ZERO.get(key, 'off')})"
    if key in _SIZES:
        return size_text(value)
    return duration_text(value) if isinstance(value, float) else _plain(value)


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
