"""How addresses, endpoint strings and settings of TLS are read from YAML.

What they name is looked at: Twisted makes each endpoint once, and the files of keys and
certificates are read, so that what is wrong with them comes with a line, and not at the start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any, TypeVar

import attrs

from monconn.addresses import (
    Address,
    EndpointAddress,
    TcpAddress,
    UnixAddress,
    endpoint_fields,
    in_folder,
    parse_backend,
    parse_host,
    parse_listen,
    parse_port,
    refuse_local_names,
    socket_address,
)
from monconn.config.fields import (
    NODE_READERS,
    Found,
    Wrong,
    in_use,
    kind_of,
    read_keys,
    require_mapping,
    scalar_value,
)
from monconn.config.yaml import Mapping, Node, Scalar, Sequence
from monconn.errors import AddressError, FileError, quoted
from monconn.files import read_file, socket_fault
from monconn.policy.tls import BackendTls, ListenTls
from monconn.policy.tls_endpoints import tls_backend, tls_listener

Tls = TypeVar("Tls", bound=ListenTls | BackendTls)


def read_listen(node: Node) -> Address:
    """Where to listen."""
    from twisted.internet.endpoints import serverFromString

    address = _checked_listen(_read_address(node, parse_listen))
    if isinstance(address, EndpointAddress):
        _check_folder_of_tls(address)
        own = tls_listener(address)
        if own is None:
            refuse_local_names(address, listens=True)
        _check_endpoint(address, own, serverFromString)
        _check_port(address, lowest=0)
    return address


def _checked_listen(address: Address) -> Address:
    if isinstance(address, UnixAddress) and (fault := socket_fault(address.path)):
        raise Wrong.here(f"cannot listen on {quoted(str(address))}: {fault}")
    return address


def read_backend(node: Node) -> Address:
    """Where to forward to."""
    from twisted.internet.endpoints import clientFromString

    address = _read_address(node, parse_backend)
    if isinstance(address, EndpointAddress):
        refuse_local_names(address, listens=False)
        _check_endpoint(address, tls_backend(address), clientFromString)
        _check_port(address, lowest=1)
    return address


def read_tls(node: Node) -> ListenTls:
    """TLS with clients; its files are read, to be sure that they can be used."""
    settings, found = _read_tls(node, ListenTls, "a mapping such as {certificate: FILE, key: FILE}")
    if settings is None or found:
        raise Wrong(*found)
    return settings


def read_backend_tls(node: Node) -> BackendTls:
    """TLS with a backend; its files are read, to be sure that they can be used."""
    settings, found = _read_tls(node, BackendTls, "a mapping such as {ca: FILE}")
    assert isinstance(node, Mapping)
    if "certificate" not in node.nodes:
        for key in {"key", "passphrase_file", "chain"} & node.nodes.keys():
            found.append(((key,), "belongs to a certificate: name that, too"))
    if settings is None or found:
        raise Wrong(*found)
    return settings


def _read_tls(node: Node, cls: type[Tls], example: str) -> tuple[Tls | None, Found]:
    """Settings, and every problem, also with the files of keys beside wrong ones."""
    mapping = require_mapping(node, example)
    kinds = {field.name: field.metadata["kind"] for field in attrs.fields(cls)}
    required = [field.name for field in attrs.fields(cls) if field.default is attrs.NOTHING]
    readers = {name: NODE_READERS[kind] for name, kind in kinds.items()}
    values, found = read_keys(mapping, readers, tuple(required))
    if any(name not in values for name in required):
        return None, found
    settings = cls(**values)
    return settings, [*found, *tls_faults(settings)]


def tls_faults(settings: ListenTls | BackendTls) -> list[tuple[tuple[str, ...], str]]:
    """What is wrong in the files of settings, which are read here.

    :returns: the path of the key that each fault belongs to, and a message.
    """
    # And OpenSSL, only if it is wanted.
    from monconn.net.tls import ClientTls, ServerTls, unreadable_files
    from monconn.net.tls_faults import TlsError

    try:
        if isinstance(settings, ListenTls):
            ServerTls(settings)
        else:
            ClientTls(settings, "localhost")
    except TlsError as error:
        return [] if settings in in_use.get() and unreadable_files(settings) else error.found
    return []


def read_host(node: Node) -> str:
    """An IP address or a host name; empty where none is written."""
    value = scalar_value(node)
    if not isinstance(node, Scalar) or isinstance(value, bool):
        raise Wrong.here(f"must be an IP address, not {kind_of(node)}")
    return parse_host(node.text) if node.text.strip() else ""


def read_plain_listen(node: Node) -> TcpAddress | UnixAddress:
    """Where to listen, except on a Twisted endpoint."""
    address = _checked_listen(_read_address(node, parse_listen))
    if isinstance(address, EndpointAddress):
        raise Wrong.here(f"{quoted(str(address))} is neither HOST:PORT nor unix:PATH")
    return address


def read_private_listen(node: Node) -> TcpAddress | UnixAddress:
    """Where to listen, as :func:`read_plain_listen`, for what is for this machine at first: what is
    advised for a port alone is not refused next."""
    if isinstance(node, Scalar) and node.text.isdecimal():
        raise Wrong.here(f"a number alone is no address: write 127.0.0.1:{node.text}")
    return read_plain_listen(node)


def read_listen_port(node: Node) -> int:
    """A port to listen on, where 0 is any free one."""
    return parse_port(_port_text(node), 0)


def read_backend_port(node: Node) -> int:
    """A port to connect to."""
    return parse_port(_port_text(node), 1)


def _port_text(node: Node) -> str:
    if not isinstance(node, Scalar) or node.value is None or isinstance(node.value, bool):
        raise Wrong.here(f"must be a port such as 80, not {kind_of(node)}")
    return node.text.strip()


def _read_address(node: Node, parse: Callable[[str], Address]) -> Address:
    if not isinstance(node, Scalar) or not isinstance(node.value, str):
        raise Wrong.here(_address_advice(node, parse))
    return in_folder(parse(node.value), node.source.folder, listens=parse is parse_listen)


def _address_advice(node: Node, parse: Callable[[str], Address]) -> str:
    """The message for an address that YAML reads as something else."""
    if isinstance(node, Sequence):
        return 'must be an address, and YAML reads [ as a list: write it in quotes, "[::1]:80"'
    if not isinstance(node, Scalar) or node.value is None or isinstance(node.value, bool):
        return f'must be an address such as ":80", in quotes, not {kind_of(node)}'
    if node.text.isdecimal():
        return f'a number alone is no address: write ":{node.text}", in quotes'
    advice = f'YAML reads {node.text} as the number {node.value}: write it in quotes, "{node.text}"'
    try:
        parse(node.text)
    except AddressError as error:
        return f"{advice}; and then, {error}"
    return advice


def _check_endpoint(
    address: EndpointAddress,
    own_tls: tuple[TcpAddress, ListenTls | BackendTls] | None,
    make_endpoint: Callable[[Any, str], Any],
) -> None:
    """Have Twisted make the endpoint once, so that its errors come now and not at the start.

    :param own_tls: what it means if its TLS is ours: then its files are read instead.
    """
    if own_tls is not None:
        faults = tls_faults(own_tls[1])
        if faults:
            raise Wrong(*(((), message) for _, message in faults))
        return
    if address in in_use.get():  # it has been made, perhaps with files that only root may read
        return
    for key, _, value in endpoint_fields(address.description):
        if key in _FILES_OF_TWISTED:  # which it would read without end, or for ever
            try:
                read_file(value, _MAX_FILE_BYTES)
            except FileError as error:
                raise Wrong.here(str(error)) from None
    from twisted.internet import reactor

    try:
        make_endpoint(reactor, address.description)
    except Exception as error:  # each kind of endpoint raises its own
        text = quoted(address.description)
        raise Wrong.here(f"Twisted cannot use {text}: {_reason(error)}") from None


def _check_folder_of_tls(address: EndpointAddress) -> None:
    """Twisted takes ``tls:8443`` for port 443, and for a folder 8443 of certificates."""
    (kind, *_), (first, equals, value), *_ = [*endpoint_fields(address.description), ("", "", "")]
    folder = value if equals else first
    if kind.lower() == "tls" and not os.path.isdir(folder):
        raise Wrong.here(
            f"tls: is followed by a folder of certificates, and {quoted(folder)} is none:"
            ' write listen: ":8443" and tls: {certificate: FILE, key: FILE}'
        )


def _check_port(address: EndpointAddress, lowest: int) -> None:
    """Refuse a port that there cannot be, which Twisted would only find out when it uses it."""
    where = socket_address(address, listens=lowest == 0)
    if isinstance(where, TcpAddress):
        parse_port(str(where.port), lowest)


_FILES_OF_TWISTED = ("privateKey", "certKey", "extraCertChain", "dhParameters", "certificate")
_MAX_FILE_BYTES = 1 << 20


def _reason(error: Exception) -> str:
    """The message for an exception of an endpoint's parser; its own text follows where it helps."""
    error = getattr(error, "originalException", error)  # inside of Twisted's file errors
    text = _printable(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {quoted(str(error.filename))}"
    if isinstance(error, ValueError) and "Unknown endpoint type" in text:
        return "there is no such type of endpoint; an address is HOST:PORT, the port a number"
    if isinstance(error, TypeError):
        return _option_fault(text)
    if isinstance(error, ValueError) and (number := _NO_NUMBER.search(text)):
        return f"{number[1]} is not a number"
    if isinstance(error, LookupError):
        return f"it names something that is not there ({text})"
    if type(error).__module__.startswith("OpenSSL"):
        return f"a key or a certificate in it cannot be read ({text})"
    return text or type(error).__name__


# Twisted binds the options of an endpoint string to the parameters of a function.
_MISSING = re.compile(r"missing \d+ required positional arguments?: (.+)$")
_UNKNOWN = re.compile(
    r"(?:unexpected keyword argument |keyword arguments present', \[)(.+?)[\])]*$"
)
_NO_NUMBER = re.compile(r"invalid literal for int\(\) with base 10: (.+)$")


def _option_fault(text: str) -> str:
    """What a TypeError says of the options of an endpoint string."""
    if missing := _MISSING.search(text):
        return f"{missing[1]} is missing"
    if unknown := _UNKNOWN.search(text):
        return f"it has no option {unknown[1]}"
    return f"an option is missing or unknown ({text})"


def _printable(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text.isprintable() else quoted(text)
