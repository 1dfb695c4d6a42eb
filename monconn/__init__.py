"""monconn: see what happens on the TCP connections of a service.

In two lines around any Twisted factory::

    monitor = monconn.new("web", monconn.Rules(conn_limit=100))
    factory = monconn.MonitoringFactory(monitor, factory)
"""

from __future__ import annotations

from monconn._version import __version__
from monconn.admission.bans import Bans
from monconn.admission.rules import Rules
from monconn.core.alarms import Alarm
from monconn.core.interfaces import IConnection, IObserver, Observer
from monconn.core.monitor import Monitor
from monconn.core.record import REASONS, REFUSALS, ConnectionRecord
from monconn.core.registry import Registry
from monconn.core.timeouts import Timeouts
from monconn.core.wrapping import MonitoringFactory, MonitoringProtocol

registry = Registry()
"""The monitors that :func:`new` and the others below keep."""

new = registry.new
get = registry.get
delete = registry.delete
names = registry.names
shutdown = registry.shutdown

__all__ = [
    "REASONS",
    "REFUSALS",
    "Alarm",
    "Bans",
    "ConnectionRecord",
    "IConnection",
    "IObserver",
    "Monitor",
    "MonitoringFactory",
    "MonitoringProtocol",
    "Observer",
    "Registry",
    "Rules",
    "Timeouts",
    "__version__",
    "delete",
    "get",
    "names",
    "new",
    "registry",
    "shutdown",
]
