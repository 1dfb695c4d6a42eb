"""The section ``http:``: where the HTTP API and the page are served, and to whom."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated

import attrs

from monconn.addresses import TcpAddress, UnixAddress, is_loopback, parse_listen
from monconn.config import address_fields, fields
from monconn.config.fields import Wrong
from monconn.config.yaml import Node, Sequence
from monconn.errors import AddressError, quoted
from monconn.policy.kinds import Flag
from monconn.policy.tls import ListenTls

USUAL_HTTP = "127.0.0.1:9180"
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*", re.ASCII)
_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]{1,253}|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", re.ASCII)
_USUAL_PORTS = {"http": ":80", "https": ":443"}
ON_THIS_MACHINE = "must be on this machine (127.0.0.1:PORT, [::1]:PORT or unix:PATH)"
_HTTP_TLS = "tls: {certificate: FILE, key: FILE}: tokens could be read on the way"


@attrs.frozen
class HttpTlsConfig:
    """The certificate of the HTTP API; the files are in PEM."""

    certificate: fields.FilePath
    key: fields.FilePath


def _read_http_tls(node: Node) -> HttpTlsConfig:
    tls = fields.structure(node, HttpTlsConfig)
    if faults := address_fields.tls_faults(ListenTls(tls.certificate, tls.key)):
        raise Wrong(*faults)
    return tls


def _read_hosts(node: Node) -> tuple[str, ...]:
    if not isinstance(node, Sequence) or not node.nodes:
        raise Wrong.here("must be a list of host names, such as [monconn.example.org]")
    return _read_each(node, _read_host)


def _read_host(node: Node) -> str:
    host = fields.read_text(node).lower().removesuffix(".")
    if _HOST.fullmatch(host) is None:
        text = "must be the name of a host, such as monconn.example.org, without a port"
        raise Wrong.here(f"{quoted(host)} {text}: every port is meant")
    return host


def _read_origins(node: Node) -> tuple[str, ...]:
    if not isinstance(node, Sequence) or not node.nodes:
        raise Wrong.here("must be a list of origins, such as [https://tools.example.org]")
    return _read_each(node, _read_origin)


def _read_origin(node: Node) -> str:
    """An origin as a browser writes it (RFC 6454, 6.2)."""
    text = fields.read_text(node)
    found = _ORIGIN.fullmatch(text.lower().removesuffix("/"))
    if found is None:
        text = f"{quoted(text)} must be an origin, such as https://tools.example.org"
        raise Wrong.here(f"{text}: each is written out, and there is no wildcard")
    scheme, host, port = found.groups(default="")
    return f"{scheme}://{host}{'' if port == _USUAL_PORTS[scheme] else port}"


def _read_each(node: Sequence, read: Callable[[Node], str]) -> tuple[str, ...]:
    """The values of a list, with the problems of all."""
    values, found = [], []
    for index, each in enumerate(node.nodes):
        try:
            values.append(read(each))
        except Wrong as wrong:
            found += [((index, *path), message) for path, message in wrong.found]
    if found:
        raise Wrong(*found)
    return tuple(values)


@attrs.frozen
class HttpConfig:
    """The HTTP API, and the page for browsers."""

    listen: Annotated[TcpAddress | UnixAddress, address_fields.read_plain_listen]
    """The address; without ``tls`` on this machine only."""
    tls: Annotated[HttpTlsConfig | None, _read_http_tls] = None
    """The certificate, for HTTPS."""
    tokens: Annotated[str | None, fields.read_path] = None
    """The file with the tokens; None for one in the user's state folder."""
    hosts: Annotated[tuple[str, ...], _read_hosts] = ()
    """Names, beside those of this machine, by which it is reached: others are refused."""
    allow_origins: Annotated[tuple[str, ...], _read_origins] = ()
    """Origins of pages elsewhere that may read answers (CORS)."""
    metrics: Flag = False
    """Whether ``/metrics`` is served, too."""

    @property
    def is_private(self) -> bool:
        """Whether nobody on the way can read along."""
        listen = self.listen
        return self.tls is not None or isinstance(listen, UnixAddress) or is_loopback(listen.host)


def _read_http(node: Node) -> HttpConfig:
    http = fields.structure(node, HttpConfig)
    if not http.is_private:
        raise Wrong((("listen",), f"{ON_THIS_MACHINE}, or have {_HTTP_TLS}"))
    if http.tls is not None and isinstance(http.listen, UnixAddress):
        raise Wrong((("tls",), "is for HOST:PORT: a UNIX socket is on this machine"))
    return http


def http_at(address: str) -> HttpConfig:
    """The HTTP API at an address on this machine.

    :raises AddressError: it is none.
    """
    if address.isdecimal():
        raise AddressError(f"{address} is a port alone: write 127.0.0.1:{address}")
    listen = parse_listen(address)
    if isinstance(listen, TcpAddress | UnixAddress) and (http := HttpConfig(listen)).is_private:
        return http
    raise AddressError(
        f"{quoted(address)} {ON_THIS_MACHINE}; a configuration's file may have {_HTTP_TLS}"
    )


Http = Annotated[HttpConfig | None, _read_http]
