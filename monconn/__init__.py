"""monconn: see what happens on the TCP connections of a service.

In two lines around any Twisted factory::

    monitor = monconn.new("web", monconn.Rules(conn_limit=100))
    factory = monconn.MonitoringFactory(monitor, factory)
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from monconn import _moved
from monconn._version import __version__

if TYPE_CHECKING:
    from monconn.model.alarms import Alarm
    from monconn.model.reasons import REASONS, REFUSALS
    from monconn.model.record import ConnectionRecord
    from monconn.monitor.async_observer import AsyncObserver
    from monconn.monitor.interfaces import IConnection, IObserver, Observer
    from monconn.monitor.monitor import Monitor
    from monconn.monitor.registry import Registry
    from monconn.policy.networks import NetworkSet
    from monconn.policy.policy import Policy
    from monconn.policy.rules import Rules
    from monconn.policy.sides import Keepalive, Sides
    from monconn.policy.timeouts import Timeouts
    from monconn.wrapping import MonitoringFactory, MonitoringProtocol

    registry = Registry()
    """The monitors that :func:`new` makes, and the functions below know."""

    new = registry.new
    get = registry.get
    delete = registry.delete
    names = registry.names
    shutdown = registry.shutdown

_moved.install()

__all__ = [
    "REASONS",
    "REFUSALS",
    "Alarm",
    "AsyncObserver",
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


# Imported when they are first used: every module of the package imports this one first, and the
# verbs of the command need nothing of Twisted's, which is a quarter of their time to start.
_HOMES = {
    "REASONS": "model.reasons",
    "REFUSALS": "model.reasons",
    "Alarm": "model.alarms",
    "AsyncObserver": "monitor.async_observer",
    "ConnectionRecord": "model.record",
    "IConnection": "monitor.interfaces",
    "IObserver": "monitor.interfaces",
    "Keepalive": "policy.sides",
    "Monitor": "monitor.monitor",
    "MonitoringFactory": "wrapping",
    "MonitoringProtocol": "wrapping",
    "NetworkSet": "policy.networks",
    "Observer": "monitor.interfaces",
    "Policy": "policy.policy",
    "Registry": "monitor.registry",
    "Rules": "policy.rules",
    "Sides": "policy.sides",
    "Timeouts": "policy.timeouts",
}
_OF_REGISTRY = ("new", "get", "delete", "names", "shutdown")
_MODULES = {
    *("addresses", "clock", "errors", "files", "histogram", "log", "model", "monitor", "net"),
    *("policy", "ratelimit", "turns", "units", "wrapping"),
}
"""Those that were imported with the package before 0.2, so that programs may use them unasked."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"monconn.{_HOMES[name]}"), name)
    elif name == "registry":
        value = import_module("monconn.monitor.registry").Registry()
    elif name in _OF_REGISTRY:
        value = getattr(sys.modules[__name__].registry, name)
    elif name in _MODULES:
        for home in set(_HOMES.values()):
            import_module(f"monconn.{home}")
        value = import_module(f"monconn.{name}")
    elif name == "Bans":
        import warnings

        warnings.warn("monconn.Bans is monconn.NetworkSet now", DeprecationWarning, stacklevel=2)
        return __getattr__("NetworkSet")
    else:
        raise AttributeError(f"module 'monconn' has no attribute {name!r}")
    # The first of several threads makes it for all.
    return globals().setdefault(name, value)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
