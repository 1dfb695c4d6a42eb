"""The endpoint strings of Twisted's that we read as TLS of our own.

For such a string no endpoint of Twisted's is made: its TLS takes a client's half-close for the end,
and has the backend dialled before the handshake.
"""

from __future__ import annotations

import re
from typing import Any

from monconn.addresses import (
    Address,
    EndpointAddress,
    TcpAddress,
    endpoint_fields,
    parse_host,
    parse_port,
)
from monconn.errors import AddressError, SettingError
from monconn.policy.tls import BackendTls, ListenTls

_BRACKETS = re.compile(r"\[([0-9A-Fa-f:.]+(?:%[^\]\\]+)?)\]")
_DEFAULT_KEY_FILE = "server.pem"  # Twisted's, in the working folder
_OF_BACKENDS = {
    "tls": {"trustRoots": "ca", "certificate": "certificate", "privateKey": "key"},
    "ssl": {
        "caCertsDir": "ca",
        "certKey": "certificate",
        "privateKey": "key",
        "hostname": "server_name",
    },
}
"""The options of each kind of endpoint for TLS, and the setting that means the same."""
_CONNECTING = ("timeout", "bindAddress", "endpoint")


def tls_listener(address: Address) -> tuple[TcpAddress, ListenTls] | None:
    """What an ``ssl:`` endpoint string says.

    :returns: where to listen, and the settings; None for any other address, and for a string with
        an option whose meaning is not covered by the settings.
    """
    if not isinstance(address, EndpointAddress):
        return None
    kind, _, rest = address.description.partition(":")
    known = ("port", "interface", "privateKey", "certKey", "extraCertChain")
    options = _options(rest, ("port",), known)
    if kind.lower() != "ssl" or options is None or "port" not in options:
        return None
    key = options.get("privateKey", _DEFAULT_KEY_FILE)
    certificate = options.get("certKey", key)
    try:
        host = parse_host(options["interface"]) if options.get("interface") else "0.0.0.0"
        where = TcpAddress(host, parse_port(options["port"], 0))
        return where, ListenTls(
            certificate,
            None if key == certificate else key,
            chain=options.get("extraCertChain"),
        )
    except (AddressError, SettingError):
        return None  # Twisted says what is wrong


def tls_backend(address: Address) -> tuple[TcpAddress, BackendTls] | None:
    """What a ``tls:`` or ``ssl:`` endpoint string says of a backend.

    ``ssl:HOST:PORT`` alone verifies nothing, and sends no server name, as with Twisted.

    :returns: where to connect to, and the settings; None for any other address, and for a string
        with an option whose meaning is not covered by the settings.
    """
    parts = tls_backend_parts(address)
    return None if parts is None or parts[2] else parts[:2]


def tls_backend_parts(address: Address) -> tuple[TcpAddress, BackendTls, dict[str, str]] | None:
    """As :func:`tls_backend`, and with the options that are for Twisted's connecting.

    :returns: None if the string's TLS is not covered by the settings.
    """
    if not isinstance(address, EndpointAddress):
        return None
    kind, _, rest = address.description.partition(":")
    names = _OF_BACKENDS.get(kind.lower())
    # Brackets are ours, as Twisted splits a string at each colon.
    rest = _BRACKETS.sub(lambda match: match[1].replace(":", r"\:"), rest, count=1)
    options = _options(rest, ("host", "port"), ("host", "port", *(names or ()), *_CONNECTING))
    if names is None or options is None or not options.get("host") or "port" not in options:
        return None
    others = {key: options[key] for key in _CONNECTING if key in options}
    tls: dict[str, Any] = {name: options[key] for key, name in names.items() if key in options}
    if "key" in tls and "certificate" not in tls:
        return None
    is_unverified = kind.lower() == "ssl" and "server_name" not in tls
    if is_unverified and tls:  # Twisted verifies the authority then, and not the host
        return None
    try:
        where = TcpAddress(parse_host(options["host"]), parse_port(options["port"], 1))
        if is_unverified:
            return where, BackendTls(verify=False, server_name=""), others
        return where, BackendTls(**tls), others
    except (AddressError, SettingError):
        return None  # Twisted says what is wrong


def _options(
    text: str, positional: tuple[str, ...], known: tuple[str, ...]
) -> dict[str, str] | None:
    """The options of an endpoint string by their names; None if one is not known or there twice."""
    options: dict[str, str] = {}
    names = list(positional)
    for key, equals, value in endpoint_fields(text):
        if not equals:
            if not names:
                return None
            key, value = names.pop(0), key
        if key not in known or key in options:
            return None
        options[key] = value
    return options
