"""monconn: see what happens on the TCP connections of a service.

In two lines around any Twisted factory::

    monitor = monconn.new("web", monconn.Rules(conn_limit=100))
    factory = monconn.MonitoringFactory(monitor, factory)
"""

from __future__ import annotations

from typing import Any

from monconn import _moved
from monconn._version import __version__
from monconn.model.alarms import Alarm
from monconn.model.reasons import REASONS, REFUSALS
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, IObserver, Observer
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.policy.networks import NetworkSet
from monconn.policy.policy import Policy
from monconn.policy.rules import Rules
from monconn.policy.sides import Keepalive, Sides
from monconn.policy.timeouts import Timeouts
from monconn.wrapping import MonitoringFactory, MonitoringProtocol

_moved.install()

registry = Registry()
"""The monitors that :func:`new` makes, and the functions below know."""

new = registry.new
get = registry.get
delete = registry.delete
names = registry.names
shutdown = registry.shutdown

__all__ = [
    "REASONS",
    "REFUSALS",
    "Alarm",
    "ConnectionRecord",
    "IConnection",
    "IObserver",
    "Keepalive",
    "Monitor",
    "MonitoringFactory",
    "MonitoringProtocol",
    "NetworkSet",
    "Observer",
    "Policy",
    "Registry",
    "Rules",
    "Sides",
    "Timeouts",
    "__version__",
    "delete",
    "get",
    "names",
    "new",
    "registry",
    "shutdown",
]


def __getattr__(name: str) -> Any:
    if name == "Bans":
        import warnings

        warnings.warn("monconn.Bans is monconn.NetworkSet now", DeprecationWarning, stacklevel=2)
        return NetworkSet
    raise AttributeError(f"module 'monconn' has no attribute {name!r}")
