"""The sections of a configuration beside its services."""

from __future__ import annotations

from typing import Annotated

import attrs

from monconn import fields
from monconn.addresses import TcpAddress, UnixAddress, is_loopback
from monconn.fields import Wrong
from monconn.yamlmap import Node, Scalar

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


USUAL_CONTROL = ControlConfig()
Control = Annotated[ControlConfig | None, _read_control]
Manhole = Annotated[ManholeConfig | None, _read_manhole]
