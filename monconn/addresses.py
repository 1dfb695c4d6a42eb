"""Addresses to listen on and to connect to, as they are written in a configuration.

There are three forms: ``HOST:PORT`` (``:80``, ``[::1]:80``), ``unix:PATH``,
and any endpoint string of Twisted (``ssl:8443:privateKey=…``).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence

import attrs

from monconn.errors import AddressError, printable, quoted
from monconn.files import path_fault


@attrs.frozen
class TcpAddress:
    """A TCP port; an empty host listens on every address."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class UnixAddress:
    """A UNIX socket in the file system."""

    path: str
    mode: int | None = None

    def __str__(self) -> str:
        path = re.sub(r"([\\:=])", r"\\\1", self.path)
        return f"unix:{path}" if self.mode is None else f"unix:{path}:mode={self.mode:03o}"


@attrs.frozen
class EndpointAddress:
    """An endpoint string: anything else that Twisted can listen on or connect to."""

    description: str

    def __str__(self) -> str:
        return self.description


Address = TcpAddress | UnixAddress | EndpointAddress
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@attrs.frozen
class _Side:
    """The differences between an address to listen on and one to connect to."""

    default_host: str
    lowest_port: int
    tcp_keys: tuple[str, str]
    example: str


_LISTEN = _Side("", 0, ("port", "interface"), ":80, 127.0.0.1:80, [::1]:80 or unix:/run/web.sock")
_BACKEND = _Side(
    "127.0.0.1", 1, ("host", "port"), "10.0.0.5:80, name:80, [::1]:80 or unix:/run/web.sock"
)

_MAX_CHARACTERS = 4096
_MAX_UNIX_PATH_BYTES = 107
_HIGHEST_PORT = 65535

# Types of endpoints that are recognized even if only digits follow, as in "ssl:443"; with any
# other word that is HOST:PORT.
_ENDPOINT_TYPES = frozenset({"haproxy", "ssl", "stdio", "systemd", "tls"})
_UNIX_OPTIONS = frozenset({"address", "path", "mode", "lockfile", "backlog", "timeout"})

_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*")
_LIKE_A_PORT = re.compile(r"\s*|[-+\s]?\d[^:=]*")
_LIKE_IPV6 = re.compile(r"[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f.:]*(%[^\s:]+)?(:\d*)?")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?")
_BYTE = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_MAPPED_IPV4 = re.compile(rf"::ffff:({_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE})", re.IGNORECASE)


def parse_listen(text: str) -> Address:
    """Parse an address to listen on; host "" is every address, and port 0 any free port.

    :raises AddressError: with what is wrong and an example of a correct one.
    """
    address = _parse(text, _LISTEN)
    if isinstance(address, EndpointAddress):
        refuse_proxy_headers(address.description)
        _refuse_descriptors(address.description)
    return address


def parse_backend(text: str) -> Address:
    """Parse an address to connect to; without a host it is 127.0.0.1.

    :raises AddressError: with what is wrong and an example of a correct one.
    """
    return _parse(text, _BACKEND)


def refuse_proxy_headers(description: str) -> None:
    """Refuse an endpoint string that has Twisted read PROXY headers (``haproxy:``).

    Twisted tells the client's address only to the protocol, once the header has come. Whoever makes
    the protocol has let the client in by then, by the address of the load balancer.

    :raises AddressError: it is such a one, also within ``monconn:``.
    """
    if _inner_fields(description)[0][0].strip().lower() == "haproxy":
        raise AddressError(
            f"{quoted(description)} takes the clients' addresses from PROXY headers, which monconn"
            " does not understand: it would record, limit and block the load balancer instead."
            " Listen without haproxy: and have the balancer send no PROXY header, or put monconn"
            " in front of it"
        )


def _refuse_descriptors(description: str) -> None:
    """Refuse an endpoint string of a single client, who is there already.

    :raises AddressError: it is ``stdio:``, or one for a descriptor, which only others have.
    """
    kind = _inner_fields(description)[0][0].strip().lower()
    if kind in ("stdio", "fd"):
        raise AddressError(
            f"{quoted(description)} is no place where clients can connect:"
            f" write {_LISTEN.example}, or systemd:domain=INET:index=0 for a socket of systemd's"
        )


def refuse_local_names(address: Address, *, listens: bool) -> None:
    """Refuse an endpoint string with a host name for an address of this host's.

    Twisted gives it to ``bind``, which looks it up in the reactor's thread, at each connection.

    :param listens: whether it is one to listen on, or one to connect to.
    :raises AddressError: there is one.
    """
    if not isinstance(address, EndpointAddress):
        return
    key = "interface" if listens else "bindAddress"
    for name, equals, value in _inner_fields(address.description):
        if name == key and equals and not _is_here(value):
            raise AddressError(
                f"{quoted(str(address))}: {key} must be an IP address, and {quoted(value)} is a"
                " name, whose look-up would hold up every connection"
            )


def _is_here(text: str) -> bool:
    """Whether it needs no name server: ``localhost`` does not either (RFC 6761, 6.3)."""
    if text in ("", "localhost"):
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def socket_address(address: Address, *, listens: bool) -> TcpAddress | UnixAddress | None:
    """The socket that an address is about, also if it is an endpoint string of a known kind.

    :param listens: whether it is one to listen on, or one to connect to.
    :returns: None if that is not known.
    """
    if not isinstance(address, EndpointAddress):
        return address
    (kind, *_), *fields = _inner_fields(address.description)
    options = {key: value for key, equals, value in fields if equals}
    positional = [key for key, equals, _ in fields if not equals]
    if kind == "unix":
        path = options.get("address") or options.get("path") or next(iter(positional), "")
        return UnixAddress(path) if path else None
    side = _LISTEN if listens else _BACKEND
    if kind not in (("tcp", "tcp6", "ssl") if listens else ("tcp", "ssl", "tls")):
        return None
    names = [name for name in side.tcp_keys if name not in options]
    options.update(zip(names, positional, strict=False))
    port = options.get("port", "")
    if not port.isdecimal():
        return None
    if not listens:
        return TcpAddress(options.get("host", ""), int(port))
    return TcpAddress(
        options.get("interface") or ("::" if kind == "tcp6" else "0.0.0.0"), int(port)
    )


_PATHS = frozenset(
    {
        *("privateKey", "certKey", "extraCertChain", "dhParameters"),
        *("certificate", "trustRoots", "caCertsDir"),
    }
)
"""The options of endpoint strings that are paths."""
_RAW_FIELD = re.compile(r"(?:\\.|[^:\\]|\\\Z)*", re.DOTALL)


def in_folder(address: Address, folder: str, *, listens: bool) -> Address:
    """An address whose relative paths begin in a folder.

    :param folder: an absolute path; or empty, and then nothing is changed.
    :param listens: whether it is one to listen on, or one to connect to.
    :raises AddressError: the path of a UNIX socket is too long then.
    """
    if not folder or isinstance(address, TcpAddress):
        return address
    if isinstance(address, UnixAddress):
        path = address.path if address.path.startswith("\0") else os.path.join(folder, address.path)
        return attrs.evolve(address, path=_unix_path(path))
    raw = _raw_fields(address.description)
    kind, *fields = endpoint_fields(address.description)
    # unix:PATH, and of a server's tls:FOLDER the first is a path, whether it is named or not.
    first = kind[0].lower() == "unix" or (listens and kind[0].lower() == "tls")
    for number, (key, equals, value) in enumerate(fields, start=1):
        is_first = number == 1 and first
        if is_first or (equals and key in _PATHS):
            path = value if equals else key
            if path and not os.path.isabs(path):
                absolute = re.sub(r"([\\:=])", r"\\\1", os.path.join(folder, path))
                raw[number] = f"{key}={absolute}" if equals else absolute
    return EndpointAddress(":".join(raw))


def _raw_fields(description: str) -> list[str]:
    """The parts of an endpoint string between its colons, as they are written."""
    raw, position = [], 0
    while (field := _RAW_FIELD.match(description, position)) is not None:
        raw.append(field[0])
        if (position := field.end() + 1) > len(description):
            break
    return raw


def _inner_fields(description: str) -> list[tuple[str, str, str]]:
    """The fields of an endpoint string, of the one inside if it is ``monconn:`` around another."""
    fields = endpoint_fields(description)
    while fields[0][0] == "monconn" and len(fields) > 1:
        _, (first, equals, value), *others = fields
        # It may be quoted as a whole; then a "=" that is not has parted it.
        quoted_whole = ":" in first
        fields = (
            endpoint_fields(first + equals + value)
            if quoted_whole
            else [(first, equals, value), *others]
        )
    return fields


def split_pair(text: str) -> tuple[str, str]:
    """Split ``LISTEN=BACKEND`` into its two sides.

    Endpoint strings contain ``=``, too: the split is at the first one with two valid addresses.

    :raises AddressError: there is no ``=``, or nothing on one side of it.
    """
    if "=" not in text:
        raise AddressError(
            f"{quoted(text)} has no '=': write LISTEN=BACKEND, such as :80=10.0.0.5:80"
        )
    for equals in re.finditer("=", text[:_MAX_CHARACTERS]):
        listen, backend = text[: equals.start()], text[equals.end() :]
        if _both_parse(listen, backend):
            return listen.strip(), backend.strip()
    return _first_split(text)


def parse_host(text: str) -> str:
    """Parse an IP address or a host name; IPv6 may have brackets, and becomes its shortest form.

    :raises AddressError: for anything else.
    """
    in_brackets = text.startswith("[") and text.endswith("]")
    host = text[1:-1] if in_brackets else text
    if ":" in host:
        return _parse_ipv6(host)
    if in_brackets:
        raise AddressError(f"brackets are for IPv6 addresses, and {quoted(host)} is none")
    return _parse_ipv4_or_name(host)


def parse_port(text: str, lowest: int) -> int:
    """Parse a port in decimal digits, not below ``lowest``.

    :raises AddressError: for anything else.
    """
    if re.fullmatch(r"[0-9]{1,5}", text) and lowest <= int(text) <= _HIGHEST_PORT:
        return int(text)
    raise AddressError(
        f"the port must be a number from {lowest} to {_HIGHEST_PORT}, not {quoted(text)}"
    )


NAME_CHARACTERS = 128
"""The most of a device's name: an MQTT client id has 23, as every server must take them (MQTT
3.1.1, 3.1.3.1), and many take 128."""
_NO_NAMES = ("unix", "local")
"""What ``client_ip`` says of those that have no IP."""


def parse_network(text: str) -> Network:
    """Parse an IP address or a network such as 10.0.0.0/8; IPv4-mapped IPv6 becomes IPv4.

    :raises AddressError: for anything else.
    """
    if "%" in text:
        raise AddressError(
            f"{quoted(text)} names an interface, and rules hold on all of them:"
            f" write {quoted(text.partition('%')[0])}"
        )
    try:
        network = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise AddressError(
            f"{quoted(text)} is neither an IP address nor a network:"
            " write 10.1.2.3, 10.0.0.0/8 or 2001:db8::/32"
        ) from None
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - 96))


_CLIENT = re.compile(
    r"\[([0-9A-Fa-f:.]+(?:%[^\]\s]+)?)\](?::\d{1,5})?|(\d+\.\d+\.\d+\.\d+):\d{1,5}"
)


def parse_client_ip(text: str) -> str:
    """Parse the IP of a client, as its connections have it; a port after it is left out.

    IPv6 becomes its shortest form, and IPv4-mapped IPv6 becomes IPv4. The zone of a link-local
    address stays. Clients on UNIX sockets are ``unix``, as connections say.

    :raises AddressError: for anything else.
    """
    text = text.strip()
    if text in _NO_NAMES:
        return text
    with_port = _CLIENT.fullmatch(text)
    ip = next(filter(None, with_port.groups())) if with_port else text
    try:
        parsed = ipaddress.ip_address(ip)
    except ValueError:
        raise AddressError(
            f"{quoted(text)} is no address of a client: write 10.1.2.3, 2001:db8::1 or unix"
        ) from None
    return plain_ip(str(parsed))


def address_text(network: Network) -> str:
    """A network as text; of a single address without its prefix."""
    return str(network.network_address if network.num_addresses == 1 else network)


def name_of_text(text: str) -> str:
    """The name of a device as its client says it; empty if it is none."""
    name = printable(text.strip())[:NAME_CHARACTERS]
    if not name or name in _NO_NAMES or network_of(name) is not None:
        return ""
    return name


def network_of(device: str) -> Network | None:
    """The addresses of a device, by its name; None of one that has none, such as ``unix``."""
    try:
        return ipaddress.ip_network(device.partition("%")[0], strict=False)
    except ValueError:
        return None


def device_text(device: str, name: str, addresses: Sequence[str]) -> str:
    """A device for people: its best name, and the address that it has used last, if that is
    another one.

    :param name: may be empty, or the device itself.
    """
    address = device if name and name != device else next(iter(addresses), "")
    name = name or device
    # The device is a network, or an address: it says as much.
    return f"{name} ({address})" if address and address != name and "/" not in name else name


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address, or ``localhost``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def plain_ip(ip: str) -> str:
    """An IP address, with IPv4-mapped IPv6 (``::ffff:1.2.3.4``) as IPv4; others unchanged."""
    if ":" not in ip:
        return ip
    dotted = _MAPPED_IPV4.fullmatch(ip)
    if dotted:
        return dotted[1]
    return _plain_rare_ip(ip) if "ffff:" in ip.lower() and "%" not in ip else ip


def _plain_rare_ip(ip: str) -> str:
    """:func:`plain_ip` for forms that the kernel does not use: ``0:0:0:0:0:ffff:102:304``."""
    try:
        mapped = ipaddress.IPv6Address(ip).ipv4_mapped
    except ValueError:
        return ip
    return ip if mapped is None else str(mapped)


def _parse(text: str, side: _Side) -> Address:
    text = text.strip()
    if not text:
        raise AddressError(f"the address is empty: write {side.example}")
    if len(text) > _MAX_CHARACTERS:
        raise AddressError(f"an address of {len(text)} characters is too long")
    word, colon, rest = text.partition(":")
    scheme = word.lower()
    if colon and scheme == "unix":
        return _parse_unix(text, rest, side)
    if colon and (scheme == "tcp" or (scheme == "tcp6" and side is _LISTEN)):
        return _parse_tcp_endpoint(text, scheme, rest, side)
    # A host may be called fd, but nobody listens on it.
    if colon and (_is_endpoint(scheme, rest) or (scheme == "fd" and side is _LISTEN)):
        return _endpoint(text)
    return _parse_host_port(text, side)


def _endpoint(text: str) -> EndpointAddress:
    backslashes = len(text) - len(text.rstrip("\\"))
    if backslashes % 2:
        raise AddressError(f"{quoted(text)} ends in a backslash, with nothing for it to escape")
    return EndpointAddress(text)


def _is_endpoint(scheme: str, rest: str) -> bool:
    if scheme in _ENDPOINT_TYPES:
        return True
    if rest.startswith("//") or _LIKE_IPV6.fullmatch(f"{scheme}:{rest}"):
        return False
    return bool(_WORD.fullmatch(scheme)) and not _LIKE_A_PORT.fullmatch(rest)


def _parse_host_port(text: str, side: _Side) -> TcpAddress:
    if "://" in text:
        raise AddressError(f"{quoted(text)} is a URL: write only HOST:PORT, such as {side.example}")
    if not text.startswith("[") and text.count(":") > 1:
        raise AddressError(_bracket_advice(text, side))
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise AddressError(_missing_port_advice(text, side))
    return TcpAddress(_host_or_default(host, side), parse_port(port, side.lowest_port))


def _host_or_default(host: str, side: _Side) -> str:
    if host == "*" and side is _LISTEN:
        raise AddressError('to listen on every address leave the "*" out, such as :80')
    return parse_host(host) if host else side.default_host


def _bracket_advice(text: str, side: _Side) -> str:
    host, _, port = text.rpartition(":")
    if _is_ipv6(host) and port.isdecimal():
        return f"an IPv6 address needs brackets: write [{host}]:{port}"
    if _is_ipv6(text):
        return f"an IPv6 address needs brackets and a port: write [{text}]:80"
    return f"{quoted(text)} has too many colons: write {side.example}"


def _missing_port_advice(text: str, side: _Side) -> str:
    if text.isdecimal():
        return f"a port is written with a colon before it: :{text}"
    return f"{quoted(text)} has no port: write HOST:PORT, such as {side.example}"


def _parse_ipv6(host: str) -> str:
    if not _is_ipv6(host):
        raise AddressError(f"{quoted(host)} is not an IPv6 address; a right one is [::1]:80")
    address = ipaddress.IPv6Address(host)
    if address.is_link_local and address.scope_id is None:  # connect and bind fail with EINVAL
        raise AddressError(
            f"{quoted(host)} is an address of one link: write its interface, too, {host}%eth0"
        )
    return plain_ip(address.compressed)


def _is_ipv6(host: str) -> bool:
    if not host.isprintable() or re.search(r"[\s\[\]]", host):
        return False
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _parse_ipv4_or_name(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        if not _is_name(host):
            raise AddressError(
                f"{quoted(host)} is neither an IP address nor a host name:"
                " write one such as 10.0.0.5 or web.example.org"
            ) from None
    return host


def _is_name(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(map(_LABEL.fullmatch, labels)):
        return False
    # getaddrinfo(3) takes those for IPv4 addresses in short form: 10.1 is 10.0.0.1.
    return not labels[-1].isdecimal()


def _parse_unix(text: str, rest: str, side: _Side) -> UnixAddress | EndpointAddress:
    """Parse ``PATH`` or ``address=PATH``, then options; a ``=`` in the path needs no escape."""
    first, *others = endpoint_fields(rest)
    key, equals, value = first
    if not (equals and key in _UNIX_OPTIONS):
        first = ("address", "=", key + equals + value)
    for key, equals, _ in others:
        if not equals:
            raise AddressError(
                f"{quoted(key)} in {quoted(text)} is no option, such as mode=600;"
                r" a colon in a path is written \:"
            )
    options = {key: value for key, _, value in (first, *others)}
    path = options.pop("address", "") or options.pop("path", "")
    if options.keys() - {"mode"}:
        return _endpoint(text)
    return UnixAddress(_unix_path(path), _unix_mode(options.get("mode"), side))


def _unix_path(path: str) -> str:
    if not path:
        raise AddressError("the path is missing: write unix:PATH, such as unix:/run/web.sock")
    if fault := path_fault(path):
        raise AddressError(f"{quoted(path)} cannot be a path: {fault}")
    length = len(os.fsencode(path))
    if length > _MAX_UNIX_PATH_BYTES:
        raise AddressError(
            f"the path {quoted(path)} has {length} bytes,"
            f" and a UNIX socket's path at most {_MAX_UNIX_PATH_BYTES}"
        )
    return path


def _unix_mode(text: str | None, side: _Side) -> int | None:
    if text is None:
        return None
    if side is _BACKEND:
        raise AddressError("mode= is for a socket to listen on; a backend has none")
    if not re.fullmatch(r"[0-7]{3,4}", text):
        raise AddressError(f"mode must be three octal digits such as 600, not {quoted(text)}")
    return int(text, 8)


def _parse_tcp_endpoint(
    text: str, scheme: str, rest: str, side: _Side
) -> TcpAddress | EndpointAddress:
    fields = endpoint_fields(rest)
    options = {key: value for key, equals, value in fields if equals}
    names = [name for name in side.tcp_keys if name not in options]
    positional = [key for key, equals, _ in fields if not equals]
    options.update(zip(names, positional, strict=False))
    if options.keys() - set(side.tcp_keys) or len(positional) > len(names):
        return _endpoint(text)
    if "port" not in options:
        raise AddressError(f"{quoted(text)} has no port: write {side.example}")
    port = parse_port(options["port"], side.lowest_port)
    if side is _BACKEND:
        return TcpAddress(parse_host(options.get("host", "")), port)
    return TcpAddress(_interface(options.get("interface", ""), scheme), port)


def _interface(text: str, scheme: str) -> str:
    """The value of ``interface=``; none means every address of that family."""
    if not text:
        return "::" if scheme == "tcp6" else "0.0.0.0"
    host = parse_host(text)
    if scheme == "tcp6" and ":" not in host:
        raise AddressError(f"{quoted(text)} is not an IPv6 address, as tcp6: needs it")
    return host


def endpoint_fields(text: str) -> list[tuple[str, str, str]]:
    """The parts of an endpoint string between its colons, each split at its first ``=``.

    A backslash escapes either.

    :returns: key, ``=`` and value of each; of one without a ``=``, the text and two empty ones.
    """
    fields: list[list[str]] = [[""]]
    characters = iter(text)
    for character in characters:
        if character == "\\":
            fields[-1][-1] += next(characters, "\\")
        elif character == ":":
            fields.append([""])
        elif character == "=" and len(fields[-1]) == 1:
            fields[-1] += ["=", ""]
        else:
            fields[-1][-1] += character
    return [(field[0], "=", field[2]) if len(field) > 1 else (field[0], "", "") for field in fields]


def _both_parse(listen: str, backend: str) -> bool:
    try:
        parse_listen(listen)
        parse_backend(backend)
    except AddressError:
        return False
    return True


def _first_split(text: str) -> tuple[str, str]:
    listen, _, backend = text.partition("=")
    for side, address in (("address to listen on", listen), ("backend", backend)):
        if not address.strip():
            raise AddressError(
                f"the {side} is missing in {quoted(text)}:"
                " write LISTEN=BACKEND, such as :80=10.0.0.5:80"
            )
    return listen.strip(), backend.strip()
