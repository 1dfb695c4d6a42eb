"""How each kind of value is read from YAML.

The type of a field names its reader: ``Annotated[str, read_text]``; or its kind, whose reader is in
``NODE_READERS``: ``Annotated[float, SECONDS]``. A new section of the configuration is one attrs
class with such fields; its keys, and what is wrong with their values, follow from it.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextvars import ContextVar
from typing import Annotated, Any, TypeVar

import attrs
from cattrs import BaseValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from monconn.addresses import (
    Network,
    parse_network,
)
from monconn.config.yaml import Mapping, Node, Path, Scalar, Sequence
from monconn.errors import FileError, quoted
from monconn.files import append_fault, path_fault, regular_fault
from monconn.policy import (
    auto_block,
    block_files,
    devices,
    kinds,
    quantities,
    recorder,
    rules,
    sides,
)
from monconn.policy import tls as tls_settings
from monconn.policy.auto_block import AutoBlock
from monconn.policy.kinds import MAX_COUNT, Kind
from monconn.policy.recorder import RecorderSettings
from monconn.policy.settings import key_of
from monconn.policy.sides import Keepalive, Sides
from monconn.units import parse_duration, parse_size

T = TypeVar("T")

Found = list[tuple[Path, str]]
"""Problems: the path of each, relative to the node that is read, and its message."""

Reader = Callable[[Node], Any]
"""Makes a value of a node; raises :class:`Wrong` or another ``ValueError``."""


_IS_MISSING = "is missing, and has no default"


in_use: ContextVar[Collection[Any]] = ContextVar("in_use", default=())
"""What runs as it was read before, of addresses, settings of TLS and files of networks: that their
files cannot be read any more is no problem then, as a program may have given up its privileges."""


class Wrong(ValueError):
    """One or more problems at or below a node."""

    def __init__(self, *found: tuple[Path, str]) -> None:
        super().__init__("; ".join(message for _, message in found))
        self.found = list(found)

    @classmethod
    def here(cls, message: str) -> Wrong:
        """A problem of the node itself."""
        return cls(((), message))


def structure(node: Node, cls: type[T]) -> T:
    """An object of an attrs class, whose fields are the keys of a mapping.

    :raises Wrong: with every problem, not only the first.
    """
    try:
        return _converter.structure(node, cls)
    except (BaseValidationError, ValueError) as error:
        raise Wrong(*_found_in(error)) from None


def each_named(node: Mapping, read: Callable[[str, Node], T]) -> tuple[dict[str, T], Found]:
    """Apply ``read`` to each name and its value; return the results by name, and every problem."""
    values: dict[str, T] = {}
    found: Found = []
    for name, value in node.nodes.items():
        try:
            values[name] = read(name, value)
        except ValueError as error:
            found += [((name, *path), message) for path, message in _found_in(error)]
    return values, found


def read_keys(
    node: Mapping, readers: dict[str, Reader], required: tuple[str, ...] = ()
) -> tuple[dict[str, Any], Found]:
    """The values of a mapping's keys, by key; and every problem.

    :param readers: reads the value of each known key.
    :param required: keys that must be there.
    """

    def read(key: str, value: Node) -> Any:
        if key not in readers:
            raise Wrong.here(unknown_key(key, list(readers)))
        return readers[key](value)

    values, found = each_named(node, read)
    found += [((key,), _IS_MISSING) for key in required if key not in node.nodes]
    return values, found


def kind_of(node: Node) -> str:
    """The kind of a node, for a message."""
    if isinstance(node, Mapping):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.value is None:
        return "nothing"
    if isinstance(node.value, bool):
        return "true or false"
    return "a text" if isinstance(node.value, str) else "a number"


def require_mapping(node: Node, example: str) -> Mapping:
    """Return a node if it is a mapping.

    :param example: what it must be, for the message.
    :raises Wrong: it is not one.
    """
    if not isinstance(node, Mapping):
        raise Wrong.here(f"must be {example}, not {kind_of(node)}")
    return node


def read_text(node: Node) -> str:
    """A text, as it is written in the file."""
    if not isinstance(node, Scalar) or node.value is None:
        raise Wrong.here(f"must be a text, not {kind_of(node)}")
    return node.text


def read_seconds(node: Node) -> float:
    """A duration in seconds, 0 included."""
    value = scalar_value(node)
    if value is None or isinstance(value, bool):
        raise Wrong.here(f"must be a number of seconds or a text like 15m, not {kind_of(node)}")
    if isinstance(value, int):
        _check_decimal(node)
    return parse_duration(value)


def read_positive_seconds(node: Node) -> float:
    """A duration in seconds, but not 0."""
    seconds = read_seconds(node)
    if seconds == 0:
        raise Wrong.here("must be more than 0")
    return seconds


def read_count(node: Node) -> int:
    """A whole number, not negative."""
    value = scalar_value(node)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Wrong.here(f"must be a whole number such as 100, not {_as_written(node)}")
    _check_decimal(node)
    if not 0 <= value <= MAX_COUNT:
        raise Wrong.here(f"must be from 0 to {MAX_COUNT}, not {_as_written(node)}")
    return value


def read_size(node: Node) -> int:
    """A number of bytes, but not 0."""
    value = scalar_value(node)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise Wrong.here(f"must be a number of bytes or a text like 1GiB, not {_as_written(node)}")
    if isinstance(value, int):
        _check_decimal(node)
    if not 0 < (size := parse_size(value)) < 1 << 62:
        raise Wrong.here("must be more than 0, and less than 4096 PiB")
    return size


def read_flag(node: Node) -> bool:
    """True or false, or one of YAML's other spellings of them."""
    value = scalar_value(node)
    if not isinstance(value, bool):
        raise Wrong.here(f"must be true or false, without quotes, not {_as_written(node)}")
    return value


def read_keepalive(node: Node) -> Sides[Keepalive | None]:
    """Keepalive of both sides, or of each in a mapping with ``client`` and ``backend``."""
    return _read_sides(node, _read_one_keepalive, Keepalive(), _names_of(Keepalive))


def _read_one_keepalive(node: Node) -> Keepalive | None:
    if isinstance(node, Mapping):
        return structure(node, Keepalive)
    if not isinstance(value := scalar_value(node), bool):
        raise Wrong.here(
            "must be true or false, without quotes, or a mapping such as"
            f" {{idle: 30s, interval: 10s, count: 3}}, not {_as_written(node)}"
        )
    return Keepalive() if value else None


def _belongs_to_a_side(node: Node) -> None:
    raise Wrong.here("belongs to one side: write it in the mapping of client or backend")


def read_recorder(node: Node) -> RecorderSettings | None:
    """What is recorded of connections: true for what is usual, false for nothing."""
    if isinstance(node, Mapping):
        return structure(node, RecorderSettings)
    if not isinstance(value := scalar_value(node), bool):
        raise Wrong.here(
            "must be true or false, without quotes, or a mapping such as"
            f" {{first: 2KiB, last: 8KiB}}, not {_as_written(node)}"
        )
    return RecorderSettings() if value else None


def read_recorded_bytes(node: Node) -> int:
    """A number of bytes, 0 included, that may be recorded."""
    value = scalar_value(node)
    if not isinstance(value, int | str) or isinstance(value, bool):
        raise Wrong.here(f"must be a number of bytes or a text like 2KiB, not {_as_written(node)}")
    if isinstance(value, int):
        _check_decimal(node)
    size: int = recorder.RECORDED_BYTES.check(value)
    return size


def read_seconds_of_sides(node: Node) -> Sides[float]:
    """A duration for both sides, or of each in a mapping with ``client`` and ``backend``."""
    return _read_sides(node, read_seconds, 0.0)


def _read_sides(
    node: Node, read: Callable[[Node], T], default: T, of_one: Iterable[str] = ()
) -> Sides[T]:
    """A value of both sides, or of each; a side that is left out has the default.

    :param of_one: keys of a value that is a mapping itself, by which the two are told apart.
    """
    readers = {"client": read, "backend": read}
    if not isinstance(node, Mapping) or (
        readers.keys().isdisjoint(node.nodes) and not node.nodes.keys().isdisjoint(of_one)
    ):
        both = read(node)
        return Sides(both, both)
    values, found = read_keys(node, {**dict.fromkeys(of_one, _belongs_to_a_side), **readers})
    if found:
        raise Wrong(*found)
    return Sides(values.get("client", default), values.get("backend", default))


def read_choice(kind: Kind) -> Reader:
    """A reader of one of a few words."""

    def read(node: Node) -> Any:
        try:
            return kind.check(scalar_value(node))
        except ValueError as error:
            raise Wrong.here(f"{error}, not {_as_written(node)}") from None

    return read


def read_decode(node: Node) -> Any:
    """What is to be decoded; YAML 1.1 reads ``off`` as false."""
    return "off" if scalar_value(node) is False else read_choice(kinds.DECODE)(node)


def read_rate(node: Node) -> Any:
    """How many in a time, such as 20/s; ``none`` or 0 for no limit."""
    return quantities.RATE.parse(read_text(node))


def read_bandwidth(node: Node) -> Any:
    """Bytes in a second: for both directions, or a mapping with ``up`` and ``down``; ``none`` or 0
    for no limit."""
    if not isinstance(node, Mapping):
        return quantities.BANDWIDTH.parse(read_text(node))
    readers: dict[str, Reader] = dict.fromkeys(("up", "down"), read_bytes_per_second)
    values, found = read_keys(node, readers)
    if found:
        raise Wrong(*found)
    return quantities.Bandwidth(**values)


def read_bytes_per_second(node: Node) -> int:
    """Bytes in a second, such as 1MiB/s."""
    return quantities.parse_bytes_per_second(read_text(node))


def _read_rule_names(node: Node) -> Any:
    """Names of rules: a list, or one of them."""
    nodes = node.nodes if isinstance(node, Sequence) else [node]
    return rules.RULE_NAMES.check([read_text(each) for each in nodes])


def read_networks(node: Node) -> tuple[Network, ...]:
    """A list of addresses and networks, or a single one."""
    if isinstance(node, Scalar) and node.value is not None:
        return (read_network(node),)
    if not isinstance(node, Sequence):
        raise Wrong.here(f"must be a list such as [10.1.2.3, 10.0.0.0/8], not {kind_of(node)}")
    networks: list[Network] = []
    found: Found = []
    for index, item in enumerate(node.nodes):
        try:
            networks.append(read_network(item))
        except ValueError as error:
            found.append(((index,), str(error)))
    if found:
        raise Wrong(*found)
    return tuple(networks)


def _running_block_file(path: str) -> block_files.BlockFile | None:
    """What a file listed that a program has read before; whoever watches it says what it is."""
    for each in in_use.get():
        if isinstance(each, block_files.BlockFile) and each.path == path:
            return each
    return None


def read_block_files(node: Node) -> Any:
    """A list of paths of files that list networks, or a single one; they are read."""
    is_list = isinstance(node, Sequence)
    files: list[block_files.BlockFile] = []
    found: Found = []
    for index, item in enumerate(node.nodes if isinstance(node, Sequence) else [node]):
        here: Path = (index,) if is_list else ()
        try:
            path = read_path(item)
            try:
                file = block_files.read_block_file(path)
            except FileError as error:
                running = _running_block_file(os.path.expanduser(path))
                if running is None:
                    raise
                file = attrs.evolve(running, fault=str(error))
        except (ValueError, FileError) as error:
            found.append((here, str(error)))
        else:
            files.append(file)
            found += [(here, fault) for fault in file.faults]
    if found:
        raise Wrong(*found)
    return block_files.BLOCK_FILES.check(files)


def read_network(node: Node) -> Network:
    """One address or network."""
    value = scalar_value(node)
    if not isinstance(node, Scalar) or value is None or isinstance(value, bool):
        raise Wrong.here(f"must be an IP address or a network, not {kind_of(node)}")
    return parse_network(node.text)


def read_path(node: Node) -> str:
    """The path of a file or a folder; a relative one begins in the folder of the file that has it.

    One that begins with ``~`` is left to whoever opens it, as always.
    """
    path = read_text(node)
    if not path.strip():
        raise Wrong.here("must be the path of a file, not an empty text")
    if fault := path_fault(path):
        raise Wrong.here(f"{quoted(path)} cannot be a path: {fault}")
    return path if path.startswith("~") else os.path.join(node.source.folder, path)


def read_file_path(node: Node) -> str:
    """The path of a regular file, or of one that is still to be made."""
    path = read_path(node)
    if fault := regular_fault(path):
        raise Wrong.here(f"{quoted(path)} cannot be used: {fault}")
    return path


def read_database_path(node: Node) -> str:
    """The path of an SQLite file."""
    path = read_text(node)
    if path.startswith(":memory:"):
        raise Wrong.here(
            f"{quoted(path)} means a database in memory to SQLite: give the path of a file"
        )
    if path.startswith("file:"):
        raise Wrong.here(f"{quoted(path)} is a URI: give the path of the file, without options")
    return read_file_path(node)


def read_log_path(node: Node) -> str:
    """The path of a file to which lines can be appended, or another output by its name."""
    path = read_path(node)
    if read_text(node) in OUTPUTS:
        path = read_text(node)
    if fault := append_fault(path):
        raise Wrong.here(f"no lines can be appended to {quoted(path)}: {fault}")
    return path


def _read_protocols(node: Node) -> tuple[str, ...]:
    """A list of names of protocols, or a single one."""
    nodes = node.nodes if isinstance(node, Sequence) else [node]
    protocols: tuple[str, ...] = tls_settings.PROTOCOLS.check([read_text(each) for each in nodes])
    return protocols


def _read_certificates(node: Node) -> Any:
    """Certificates by server name."""
    mapping = require_mapping(node, "a mapping such as {www.example.org: {certificate: FILE}}")

    def read(name: str, each: Node) -> Any:
        tls_settings.check_server_name(name)
        return structure(each, tls_settings.Identity)

    certificates, found = each_named(mapping, read)
    if found:
        raise Wrong(*found)
    return tls_settings.CERTIFICATES.check(certificates)


def read_identity(node: Node) -> tuple[str, ...]:
    """Names of facts, and ``address``: a list, or one of them."""
    nodes = node.nodes if isinstance(node, Sequence) else [node]
    identity: tuple[str, ...] = devices.IDENTITY.check(tuple(map(read_text, nodes)))
    return identity


def read_names(node: Node) -> devices.Names:
    """Names by address or network."""
    mapping = require_mapping(node, "a mapping such as {10.0.0.5: pump-7}")

    def read(address: str, each: Node) -> tuple[Network, str]:
        return parse_network(address), devices.check_name(read_text(each))

    names, found = each_named(mapping, read)
    if found:
        raise Wrong(*found)
    checked: devices.Names = devices.NAMES.check(tuple(names.values()))
    return checked


FilePath = Annotated[str, read_path]
OUTPUTS = ("stdout", "syslog")
"""Where a log may go that is no file."""


def _read_auto_block(node: Node) -> AutoBlock | None:
    """When clients are blocked by themselves; false for never, as where ``defaults:`` say else."""
    if isinstance(node, Mapping):
        return structure(node, AutoBlock)
    if scalar_value(node) is False:
        return None
    raise Wrong.here(
        "must be a mapping such as {after: 20, of: [rate, client_reset], within: 1m, for: 10m},"
        f" or false, not {_as_written(node)}"
    )


def _read_counted(node: Node) -> tuple[auto_block.Counted, ...]:
    """Refusals and reasons: a list, or one of them."""
    nodes = node.nodes if isinstance(node, Sequence) else [node]
    counted: tuple[auto_block.Counted, ...] = auto_block.COUNTED_NAMES.check(
        [read_text(each) for each in nodes]
    )
    return counted


NODE_READERS: dict[Kind, Reader] = {
    kinds.SECONDS: read_seconds,
    kinds.OPTIONAL_SECONDS: read_seconds,
    kinds.POSITIVE_SECONDS: read_positive_seconds,
    kinds.COUNT: read_count,
    kinds.FLAG: read_flag,
    kinds.WHEN_FULL: read_choice(kinds.WHEN_FULL),
    kinds.PAYLOAD: read_choice(kinds.PAYLOAD),
    kinds.DECODE: read_decode,
    kinds.NETWORKS: read_networks,
    block_files.BLOCK_FILES: read_block_files,
    quantities.RATE: read_rate,
    quantities.BANDWIDTH: read_bandwidth,
    rules.RULE_NAMES: _read_rule_names,
    auto_block.AUTO_BLOCK: _read_auto_block,
    auto_block.COUNTED_NAMES: _read_counted,
    auto_block.AFTER: lambda node: auto_block.AFTER.check(read_count(node)),
    auto_block.AT_MOST: lambda node: auto_block.AT_MOST.check(read_count(node)),
    auto_block.SECONDS_NOT_0: lambda node: auto_block.SECONDS_NOT_0.check(read_seconds(node)),
    tls_settings.FILE: read_path,
    tls_settings.OPTIONAL_FILE: read_path,
    tls_settings.TLS_VERSION: lambda node: tls_settings.TLS_VERSION.check(read_text(node)),
    tls_settings.CIPHERS: lambda node: tls_settings.CIPHERS.check(read_text(node)),
    tls_settings.PROTOCOLS: _read_protocols,
    tls_settings.SERVER_NAME: lambda node: tls_settings.check_host(read_text(node)),
    tls_settings.CERTIFICATES: _read_certificates,
    devices.PREFIX_V4: lambda node: devices.PREFIX_V4.check(read_count(node)),
    devices.PREFIX_V6: lambda node: devices.PREFIX_V6.check(read_count(node)),
    devices.KEPT: lambda node: devices.KEPT.check(read_count(node)),
    devices.TIMES: read_count,
    devices.PERCENT: lambda node: devices.PERCENT.check(read_count(node)),
    devices.WITHIN: read_positive_seconds,
    recorder.RECORDER: read_recorder,
    recorder.RECORDED_BYTES: read_recorded_bytes,
    recorder.RECORDINGS_KEPT: lambda node: recorder.RECORDINGS_KEPT.check(read_count(node)),
    recorder.KEPT_SECONDS: lambda node: recorder.KEPT_SECONDS.check(read_seconds(node)),
    devices.IDENTITY: read_identity,
    devices.NAMES: read_names,
    sides.KEEPALIVE: read_keepalive,
    sides.SECONDS_OF_SIDES: read_seconds_of_sides,
    sides.PROBE_SECONDS: lambda node: sides.PROBE_SECONDS.check(read_seconds(node)),
    sides.PROBES: lambda node: sides.PROBES.check(read_count(node)),
}
"""Reads each kind of setting."""


def scalar_value(node: Node) -> str | int | float | bool | None:
    """The value of a node that is one; None for nothing, a list and a mapping."""
    return node.value if isinstance(node, Scalar) else None


def _as_written(node: Node) -> str:
    if isinstance(node, Scalar) and node.text.strip():
        return quoted(node.text)
    return kind_of(node)


def _check_decimal(node: Node) -> None:
    """Reject number forms of YAML that people do not intend: 010 is 8, and 1:30 is 90."""
    if isinstance(node, Scalar) and node.text.replace("_", "").lstrip("+") != str(node.value):
        raise Wrong.here(f"YAML reads {node.text} as the number {node.value}: write it in decimal")


def _found_in(error: BaseException) -> Iterator[tuple[Path, str]]:
    """The problems in whatever cattrs or a reader has raised."""
    if isinstance(error, Wrong):
        yield from error.found
    elif isinstance(error, BaseValidationError):
        for inner in error.exceptions:
            below = _noted_path(inner)
            for path, message in _found_in(inner):
                yield (*below, *path), message
    elif isinstance(error, ForbiddenExtraKeysError):
        names = _names_of(error.cl)
        yield from (((key,), unknown_key(key, names)) for key in error.extra_fields)
    elif isinstance(error, KeyError):
        yield (), _IS_MISSING
    else:
        yield (), str(error) or type(error).__name__


def _noted_path(error: BaseException) -> Path:
    """The attribute that cattrs has noted for an error (PEP 678)."""
    notes = getattr(error, "__notes__", ())
    return tuple(note.name.removesuffix("_") for note in notes if hasattr(note, "name"))


def unknown_key(key: str, known: list[str]) -> str:
    """The message for an unknown key, with the one that was probably meant."""
    similar = [each for each in known if len(key) > 2 and each.startswith(key)]
    similar = similar or difflib.get_close_matches(key, known, 1)
    return "is not a known key" + (f": did you mean {similar[0]}?" if similar else "")


def _names_of(cls: type) -> list[str]:
    return [key_of(field) for field in attrs.fields(cls)]


def _class_reader(cls: type) -> Callable[[Any, Any], Any]:
    renamed: dict[str, Any] = {
        each.name: override(rename=key_of(each)) for each in attrs.fields(cls)
    }
    read: Callable[[Any, Any], Any] = make_dict_structure_fn(
        cls, _converter, _cattrs_forbid_extra_keys=True, **renamed
    )

    def read_mapping(node: Node, _: Any) -> Any:
        return read(require_mapping(node, "a mapping of settings").nodes, cls)

    return read_mapping


def _annotated_reader(kind: Any) -> Callable[[Any, Any], Any]:
    reader = kind.__metadata__[0]
    if isinstance(reader, Kind):
        reader = NODE_READERS[reader]
    return lambda node, _: reader(node)


_converter = Converter(detailed_validation=True)
_converter.register_structure_hook_factory(attrs.has, _class_reader)
_converter.register_structure_hook_factory(
    lambda kind: hasattr(kind, "__metadata__"), _annotated_reader
)
