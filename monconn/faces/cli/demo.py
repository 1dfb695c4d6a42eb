"""``monconn demo``: an MQTT broker with its devices, a web shop, and monconn in front of both.

Each device does one thing that happens to real ones. That one vanishes, and one's network loses
packets, is real as well where the kernel lets us: the device's own socket drops what comes in.
"""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import attrs

from monconn.addresses import TcpAddress
from monconn.config.config import Config, ServiceConfig
from monconn.config.http import HttpConfig
from monconn.config.sections import DevicesConfig, HistoryConfig
from monconn.errors import ControlError, ListenError
from monconn.faces.cli.demo_broker import BrokerFactory
from monconn.faces.cli.demo_devices import (
    KINDS,
    KINDS_THAT_DROP,
    UNREACHABLE_SECONDS,
    Device,
    DeviceProtocol,
    start_fleet,
)
from monconn.faces.cli.demo_network import may_drop_packets
from monconn.faces.cli.demo_shop import CRAWLER, Visitors, shop_factory
from monconn.faces.cli.logs import TextLog
from monconn.faces.cli.run import install_reactor, run
from monconn.faces.control import instances
from monconn.model.actions import Actor
from monconn.monitor.monitor import Monitor
from monconn.net.listen import open_listener
from monconn.policy.policy import Policy
from monconn.policy.sides import Sides
from monconn.processes import user_name
from monconn.run.application import Application

_NAME, _SHOP = "demo", "shop"
_WELCOME_SECONDS = 0.3
_STEADY_DEVICE, _SILENT_DEVICE, _SLOW_DEVICE = "127.0.0.11", "127.0.0.13", "127.0.0.15"
_CRASHING_DEVICE = "127.0.0.14"
_LISTEN_PORT, _BROKER_PORT = 1883, 11883
"""Where these are free: the first is MQTT's own, by which Wireshark knows what it is shown."""
_SHOP_PORT = 8080
_HTTP_PORT = 9180
_WELCOME = """
monconn demo: {count} simulated devices, {sensors} sensors, an MQTT broker, a web shop,
and monconn between them. Each line below is a connection that has ended, with
the reason (of the shop only those that went wrong), an alarm, or a client that
a rule on trial (dry_run) would have refused.

{devices}

{page}Try, in a second terminal:

{commands}

A connection of your own:   nc -N {host} {port}
Then watch one of your own: {monconn} -p :2222=127.0.0.1:22
{others}Ctrl-C ends it.

"""
_PAGE = """\
Look at it in a browser, by this link, which logs in once, within an hour
({monconn} web makes another):

  {link}

"""
_LINK_SECONDS = 3600.0
_NO_PAGE = "For a page in the browser: pip install 'monconn[http]'\n\n"
_COMMANDS = (
    ("list", "who is connected"),
    ("list --closed", "who was, and why each ended"),
    ("devices", "how often each sends, and its alarms"),
    ("device valve-4", "the story of one"),
    ("explain client_reset", "what a reason means"),
    ("why {crashing}", "what a rule in dry_run says of valve-4"),
    ("show {slow_id}", "what is slow about 127.0.0.15"),
    ("tap {steady_id}", "the bytes of pump-1, as they come"),
    ("recording {silent_id}", "what pump-3 said, even if it has gone"),
    ("report", "how many came, and how they ended"),
    ("top", "all of it on the whole screen"),
)
_DEVICES_CONFIG = DevicesConfig(storm_connections=5, storm_within=30.0)
"""A storm is seen soon, and is one as long as the device crashes every few seconds."""
_RULE_ON_TRIAL: dict[str, Any] = {"per_ip_rate": "8/m burst 4", "dry_run": ["per_ip_rate"]}
"""What only a device that crashes again and again would feel."""
_IDLE_SECONDS = 20.0
_WAIT_SECONDS = 0.5
"""For the stop: most devices never end their connection."""


def run_demo(*, debug: bool = False) -> int:
    """Run the demonstration until a signal stops it.

    What it stores is in a folder that ends with it: its history, and who may use the page.

    :returns: the exit status.
    """
    install_reactor()
    folder = tempfile.mkdtemp(prefix="monconn-demo-")
    os.environ["STATE_DIRECTORY"] = folder  # else the key of each run's sessions stays behind
    try:
        return _run(folder, debug)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@attrs.frozen
class _Backends:
    """What listens behind monconn."""

    broker: socket.socket
    shop: socket.socket

    def serve(self, reactor: Any) -> None:
        """Answer those who connect."""
        for listener, factory in (
            (self.broker, BrokerFactory(reactor)),
            (self.shop, shop_factory(reactor)),
        ):
            reactor.adoptStreamPort(listener.fileno(), listener.family, factory)
            listener.close()


def _run(folder: str, debug: bool) -> int:
    backends = _Backends(broker=_open(_BROKER_PORT), shop=_open(0))
    drops = may_drop_packets()
    kinds = KINDS_THAT_DROP if drops else KINDS

    def prepare(app: Application, reactor: Any, log: TextLog) -> None:
        app.close_log.quiet_services = frozenset({_SHOP})
        backends.serve(reactor)
        monitor = app.registry.get(_NAME)
        where = _where(monitor)
        for number, kind in enumerate(kinds):
            Device(reactor, kind, _address(number), *where).connect()

        def welcome() -> None:  # once they are connected, so that it can name a connection
            sensors = start_fleet(reactor, *where)
            Visitors(reactor, *_where(app.registry.get(_SHOP))).start()
            log.write(_welcome(app, monitor, kinds, sensors))

        reactor.callLater(_WELCOME_SECONDS, welcome)

    return run(_config(folder, backends, drops), debug=debug, prepare=prepare)


def _config(folder: str, backends: _Backends, drops: bool) -> Config:
    limits: dict[str, Any] = (
        {"unreachable_timeout": Sides(client=UNREACHABLE_SECONDS, backend=0.0)}
        if drops
        else {"max_idle": _IDLE_SECONDS}
    )
    broker = ServiceConfig(
        name=_NAME,
        listen=_free(_LISTEN_PORT),
        backend=TcpAddress("127.0.0.1", backends.broker.getsockname()[1]),
        policy=Policy.of(
            wait_timeout=_WAIT_SECONDS, decode="mqtt", recorder=True, **_RULE_ON_TRIAL, **limits
        ),
    )
    shop = ServiceConfig(
        name=_SHOP,
        listen=_free(_SHOP_PORT),
        backend=TcpAddress("127.0.0.1", backends.shop.getsockname()[1]),
        policy=Policy.of(wait_timeout=_WAIT_SECONDS, recorder=True, block=[CRAWLER]),
    )
    http = HttpConfig(listen=_free(_HTTP_PORT), tokens=os.path.join(folder, "tokens"))
    return Config(
        services=(broker, shop),
        devices=_DEVICES_CONFIG,
        history=HistoryConfig(path=os.path.join(folder, "history.db")),
        http=http if _has_page() else None,
    )


def _has_page() -> bool:
    return find_spec("h11") is not None


def _open(port: int) -> socket.socket:
    """A listener on a port, or on any if that is taken."""
    try:
        return open_listener(TcpAddress("127.0.0.1", port))
    except ListenError:
        return open_listener(TcpAddress("127.0.0.1", 0))


def _free(port: int) -> TcpAddress:
    """An address to listen at: with this port, or with any that is free."""
    with _open(port) as listener:
        return TcpAddress("127.0.0.1", listener.getsockname()[1])


def _address(number: int) -> str:
    return f"127.0.0.{11 + number}"


def _where(monitor: Monitor) -> tuple[str, int]:
    host, _, port = monitor.listen.rpartition(":")
    return host, int(port)


def _welcome(
    app: Application, monitor: Monitor, kinds: Sequence[type[DeviceProtocol]], sensors: int
) -> str:
    host, port = _where(monitor)
    monconn = typed_command()
    devices = [
        f"  {_address(n)}  {kind.name:8}  {kind.does:9} {kind.how}" for n, kind in enumerate(kinds)
    ]
    by_ip = {each.client_ip: each.id for each in monitor.connections()}
    ids = {
        "steady_id": by_ip.get(_STEADY_DEVICE, "ID"),
        "silent_id": by_ip.get(_SILENT_DEVICE, "ID"),
        "slow_id": by_ip.get(_SLOW_DEVICE, "ID"),
        "crashing": _CRASHING_DEVICE,
    }
    commands = [(f"{monconn} {what.format(**ids)}", why) for what, why in _COMMANDS]
    width = max(len(what) for what, _ in commands)
    return _WELCOME.format(
        count=len(devices),
        sensors=sensors,
        devices="\n".join(devices),
        page=_PAGE.format(link=_link(app), monconn=monconn) if _has_page() else _NO_PAGE,
        commands="\n".join(f"  {what:{width}}  {why}" for what, why in commands),
        host=host,
        port=port,
        monconn=monconn,
        others=f"Others run, too: add --name {_NAME} to each command.\n" if _others() else "",
    )


def _link(app: Application) -> str:
    access = app.operations.access
    assert access is not None  # it is configured
    # As of monconn web: a link of another name would ask whether that is meant.
    actor = Actor.process(os.getuid(), os.getpid(), user_name(os.getuid()))
    return access.make_link(actor, "operate", seconds=_LINK_SECONDS).url


def _others() -> bool:
    """Whether other monconns of this user run, so that one must be chosen."""
    try:
        return any(each.pid != os.getpid() for each in instances.running())
    except ControlError:
        return False


def typed_command() -> str:
    """This command as it must be typed in a shell: by its path, unless it is found without."""
    path = sys.argv[0]
    found = shutil.which("monconn")
    if found is not None and os.path.exists(path) and os.path.samefile(found, path):
        return "monconn"
    relative = os.path.relpath(path)
    if relative.startswith(".."):
        return shlex.quote(os.path.abspath(path))
    return shlex.quote(relative if "/" in relative else f"./{relative}")
