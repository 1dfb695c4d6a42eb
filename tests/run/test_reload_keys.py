"""Every key that the pages list is really changed while a program runs, to see that its word holds.

The pages' tables have a column *a change holds*. A key without a row, or whose row has none of the
three words, is named by the first test.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import pytest
import pytest_twisted

from monconn.config.config import Config, ServiceConfig
from monconn.monitor.interfaces import Observer
from monconn.ops.reload import HOLDS, Change
from monconn.policy import devices, kinds, quantities, rules, sides
from monconn.policy.auto_block import AutoBlock
from monconn.policy.policy import SETTINGS
from monconn.policy.recorder import RecorderSettings
from monconn.policy.tls import BackendTls, ListenTls
from monconn.run import reload
from tests import ROOT
from tests.certificates import Certificate, make_certificate
from tests.run.reloading import World

COLUMN = "a change holds"
TABLES = {
    ("configuration.md", "Keys of a service"): "services",
    ("configuration.md", "auto_block"): "auto_block",
    ("configuration.md", "Recorder"): "recorder",
    ("configuration.md", "Other sections"): "",
    ("configuration.md", "Captures"): "capture",
    ("configuration.md", "HTTP"): "http",
    ("control.md", "Configuration"): "control",
    ("devices.md", "Configuration"): "devices",
    ("history.md", "History"): "history",
    ("json-log.md", "The JSON log"): "json_log",
    ("manhole.md", "Opening it"): "manhole",
    ("metrics.md", "Metrics for Prometheus"): "metrics",
    ("notify.md", "All keys"): "notify",
    ("observers.md", "From the configuration"): "observers",
    ("tls.md", "Clients connect with TLS"): "tls",
    ("tls.md", "The backend is connected to with TLS"): "backend_tls",
}
"""By page and heading: the section whose keys a table has."""
_KEY = re.compile(r"`([a-z0-9_]+)`")


def tables() -> Iterator[tuple[str, str, list[list[str]]]]:
    """Each table with the column: its page, the heading above it, and its rows."""
    for page in sorted(ROOT.glob("docs/*.md")):
        heading, rows, is_code = "", [], False
        for line in [*page.read_text(encoding="utf-8").split("\n"), ""]:
            is_code ^= line.startswith("```")
            if line.startswith("|"):
                cells = re.split(r"(?<!\\)\|", line)[1:-1]
                rows.append([cell.strip() for cell in cells])
                continue
            if rows and COLUMN in rows[0]:
                yield page.name, heading, rows
            rows = []
            if line.startswith("#") and not is_code:
                heading = line.lstrip("# ")


def words() -> tuple[dict[str, str], list[str]]:
    """The word of each key in the pages, by ``section.key``; and what is wrong with the tables."""
    found: dict[str, str] = {}
    problems: list[str] = []
    for page, heading, (titles, _, *rows) in tables():
        section, column = TABLES.get((page, heading)), titles.index(COLUMN)
        if section is None:
            problems.append(f"{page}: say in TABLES which section the table of {heading!r} is of")
            continue
        for row in rows:
            for key in _KEY.findall(row[0]) or [row[0]]:
                name = f"{section}.{key}" if section else key
                if row[column] in HOLDS:
                    found[name] = row[column]
                else:
                    problems.append(f"{page}: {name} has none of {HOLDS}, but {row[column]!r}")
    return found, problems


WORDS, PROBLEMS = words()


def fields(cls: type) -> list[str]:
    return [each.name for each in attrs.fields(cls) if each.init and each.eq]


def known_keys() -> set[str]:
    """Every key that there is."""
    known = {f"services.{key}" for key, each in SETTINGS.items() if each.path[0] != "devices"}
    own = set(fields(ServiceConfig)) - {"name", "policy"}
    known |= {f"services.{key}" for key in own}
    for section, cls in (
        ("auto_block", AutoBlock),
        ("recorder", RecorderSettings),
        ("tls", ListenTls),
        ("backend_tls", BackendTls),
    ):
        known |= {f"{section}.{key.rstrip('_')}" for key in fields(cls)}  # for_ is a word of Python
    for field in attrs.fields(Config):
        if field.name in ("services", "defaults"):
            continue
        known.add(field.name)
        known |= {f"{field.name}.{key}" for key in fields(_class_of(field.name))}
    # A state is written as a path alone, and of these nobody writes anything.
    return known - {"observers.make", "observers.options", "state.path", "state.config_path"}


def _class_of(section: str) -> type:
    from monconn.config import http, notify, sections

    name = "".join(part.title() for part in section.removesuffix("s").split("_"))
    for module in (sections, notify, http):
        for each in (f"{name}Config", f"{name}sConfig"):
            if hasattr(module, each):
                cls: type = getattr(module, each)
                return cls
    raise AssertionError(f"which class is that of the section {section}?")


def test_each_key_has_its_word() -> None:
    assert not PROBLEMS
    missing = known_keys() - set(WORDS)
    assert not missing, f"these keys are in no table with the column {COLUMN!r}: {missing}"
    others = set(WORDS) - known_keys() - {"observers.any other"}
    assert not others, f"these keys of the tables are not known: {others}"


# -- two values of each


class Seen(Observer):
    """A custom observer."""

    def __init__(self, note: str = "") -> None:
        self.note = note


class Heard(Seen):
    """Another one."""


def values(key: str, world: World, certificates: tuple[Certificate, Certificate]) -> Any:
    """Two values of a key: before and after."""
    one, other = certificates
    own = {
        "services.listen": ("127.0.0.1:0", "127.0.0.2:0"),
        "services.backend": (world.a, world.b),
        "services.tls": (None, {"certificate": str(one.certificate), "key": str(one.key)}),
        "services.backend_tls": (None, {"verify": False}),
        "services.block": ([], ["192.0.2.0/24"]),
        "services.block_files": ([], [f"{world.folder}/networks"]),
        "services.auto_block": (False, {"of": ["rate"]}),
        "auto_block.of": (["rate"], ["rate", "client_reset"]),
        "auto_block.after": (20, 10),
        "auto_block.within": ("1m", "2m"),
        "auto_block.for": ("10m", "1h"),
        "auto_block.never": ([], ["192.0.2.0/24"]),
        "auto_block.at_most": (1000, 100),
        "services.allow": (["127.0.0.0/8"], ["127.0.0.0/8", "192.0.2.0/24"]),
        "services.when_full": ("wait", "refuse"),
        "services.payload": ("allowed", "never"),
        "services.decode": ("auto", "off"),
        "services.keepalive": (True, {"idle": "5s", "interval": "2s", "count": 5}),
        "services.recorder": (False, True),
        "recorder.first": ("2KiB", "1KiB"),
        "recorder.last": ("8KiB", "4KiB"),
        "recorder.keep": (1000, 10),
        "recorder.keep_for": ("1h", "30m"),
        "tls.certificate": (str(one.certificate), str(other.certificate)),
        "tls.key": (str(one.key), str(world.folder / "key-copy.pem")),
        "tls.passphrase_file": (None, str(world.folder / "passphrase")),
        "tls.chain": (None, str(other.certificate)),
        "tls.certificates": (
            {},
            {"www.example.org": {"certificate": str(one.certificate), "key": str(one.key)}},
        ),
        "tls.minimum_version": ("1.2", "1.3"),
        "tls.ciphers": (None, "HIGH"),
        "tls.alpn": ([], ["h2"]),
        "tls.handshake_timeout": (10, 5),
        "backend_tls.ca": (None, str(one.certificate)),
        "backend_tls.verify": (True, False),
        "backend_tls.server_name": (None, "www.example.org"),
        "backend_tls.alpn": ([], ["h2"]),
        "backend_tls.minimum_version": ("1.2", "1.3"),
        "backend_tls.ciphers": (None, "HIGH"),
        "backend_tls.certificate": (None, str(one.certificate)),
        "backend_tls.key": (str(one.key), str(world.folder / "key-copy.pem")),
        "backend_tls.passphrase_file": (None, str(world.folder / "passphrase")),
        "backend_tls.chain": (None, str(other.certificate)),
        "control": (False, {"listen": f"unix:{world.folder}/control"}),
        "control.listen": (f"unix:{world.folder}/control", f"unix:{world.folder}/other"),
        "control.tls": tuple(
            {
                "certificate": str(each.certificate),
                "key": str(each.key),
                "client_authority": str(one.certificate),
            }
            for each in certificates
        ),
        "control.role": ("operate", "view"),
        "state": (f"{world.folder}/state", f"{world.folder}/other-state"),
        "notify": ([], [{"url": "http://127.0.0.1:9/"}]),
        "notify.url": ("http://127.0.0.1:9/one", "http://127.0.0.1:9/other"),
        "notify.on": (["alarm"], ["alarm", "blocked"]),
        "notify.filter": ("service:web", "not:service:web"),
        "notify.secret": ("of eight bytes", "of eight others"),
        "notify.secret_file": (f"{world.folder}/secret", f"{world.folder}/other-secret"),
        "notify.ca": (None, str(one.certificate)),
        "notify.retry_for": ("15m", "5m"),
        "manhole.listen": ("127.0.0.1:0", f"unix:{world.folder}/manhole"),
        "manhole.authorized_keys": (f"{world.folder}/keys", f"{world.folder}/other-keys"),
        "manhole.host_key": (f"{world.folder}/host_key", f"{world.folder}/other-host_key"),
        "json_log.path": (f"{world.folder}/log", f"{world.folder}/other-log"),
        "json_log.format": ("native", "ecs"),
        "json_log.every": ("60s", "30s"),
        "http.listen": ("127.0.0.1:0", f"unix:{world.folder}/http"),
        "http.tls": tuple(
            {"certificate": str(each.certificate), "key": str(each.key)} for each in certificates
        ),
        "http.tokens": (f"{world.folder}/tokens", f"{world.folder}/other-tokens"),
        "http.hosts": (["one.example.org"], ["other.example.org"]),
        "http.allow_origins": (["https://one.example.org"], ["https://other.example.org"]),
        "metrics.listen": ("127.0.0.1:0", f"unix:{world.folder}/metrics"),
        "history.path": (f"{world.folder}/db", f"{world.folder}/other-db"),
        "history.keep": ("30d", "7d"),
        "history.max_size": ("1GiB", "2GiB"),
        "history.resume_counters": (True, False),
        "capture": ({}, False),
        "capture.folder": (f"{world.folder}/captures", f"{world.folder}/other"),
        "capture.filter": ("service:web", "service:web client:127.0.0.0/8"),
        "capture.on": (["client_reset"], ["client_reset", "client_lost"]),
        "capture.within": ("1h", "2h"),
        "capture.first": ("64KiB", "all"),
        "capture.rotate_size": ("64MiB", "32MiB"),
        "capture.max_total": ("1GiB", "2GiB"),
        "devices": ({}, {"kept": 50}),
        "devices.identity": (["mqtt_client_id", "address"], ["address"]),
        "devices.names": ({}, {"192.0.2.7": "pump"}),
        "devices.prefix_v4": (32, 24),
        "devices.prefix_v6": (64, 56),
        "devices.storm_within": ("60s", "30s"),
        "observers": ([], [{"use": f"{__name__}:Seen"}]),
        "observers.use": (f"{__name__}:Seen", f"{__name__}:Heard"),
        "observers.services": (["web"], ["web", "other"]),
        "observers.filter": ("client:127.0.0.0/8", "client:192.0.2.0/24"),
        "observers.any other": ("one", "other"),
    }
    of_kinds: dict[Any, tuple[Any, Any]] = {
        kinds.SECONDS: (110, 220),
        kinds.OPTIONAL_SECONDS: (110, 220),
        kinds.POSITIVE_SECONDS: (110, 220),
        kinds.COUNT: (101, 202),
        kinds.FLAG: (False, True),
        quantities.RATE: ("1000/s", "2000/s"),
        quantities.BANDWIDTH: ("100MiB/s", "200MiB/s"),
        rules.RULE_NAMES: ([], ["rate"]),
        sides.SECONDS_OF_SIDES: (110, 220),
        devices.TIMES: (3, 4),
    }
    if key in own:
        return own[key]
    section, _, name = key.partition(".")
    if section == "services" and name in SETTINGS and SETTINGS[name].kind in of_kinds:
        return of_kinds[SETTINGS[name].kind]
    if key in ("manhole", "json_log", "metrics", "http", "history"):
        return None, USUAL[key]
    default = attrs.fields_dict(_class_of(section))[name].default if name else attrs.NOTHING
    if isinstance(default, bool):
        return default, not default
    if isinstance(default, int):
        return default, default + 1
    raise AssertionError(f"two values of {key} are wanted here, to see whether its word is true")


USUAL: dict[str, dict[str, Any]] = {
    "control": {"listen": "unix:control"},
    "manhole": {"listen": "127.0.0.1:0", "authorized_keys": "keys", "host_key": "host_key"},
    "json_log": {"path": "log"},
    "metrics": {"listen": "127.0.0.1:0"},
    "http": {"listen": "127.0.0.1:0"},
    "history": {"path": "db"},
    "capture": {"folder": "captures", "filter": "service:web", "on": ["client_reset"]},
    "devices": {},
}


def document(
    key: str, value: Any, world: World, certificates: tuple[Certificate, Certificate]
) -> Any:
    """A configuration in which a key has a value; None leaves it out."""
    one, _ = certificates
    section, _, name = key.partition(".")
    given = {} if value is None else {name or section: value}
    if section == "services":
        web: dict[str, Any] = {"backend": f"tls:{world.a}"} if name == "backend_tls" else {}
        return world.config(web | given)
    if section == "recorder":
        return world.config({"recorder": given})
    if section == "auto_block":
        return world.config({"auto_block": {"of": ["rate"]} | given})
    if section == "tls":
        usual: dict[str, Any] = {"certificate": str(one.certificate), "key": str(one.key)}
        if name == "certificate":
            usual["key"] = str(world.folder / "shared-key.pem")
        return world.config({"tls": usual | given})
    if section == "backend_tls":
        usual = {}
        if name in ("key", "passphrase_file", "chain"):
            usual = {"certificate": str(one.certificate), "key": str(one.key)}
        elif name == "certificate" and value is not None:
            usual = {"key": str(one.key)}
        return world.config({"backend": f"tls:{world.a}", "backend_tls": usual | given})
    if not name:
        return {**world.config(), **given}
    if section == "observers":
        entry: dict[str, Any] = {"use": f"{__name__}:Seen"}
        entry |= {"note": value} if name == "any other" else given
        made = world.config(observers=[entry])
        made["services"]["other"] = world.service()
        return made
    if section == "notify":
        scheme = "https" if name == "ca" else "http"
        return world.config(notify=[{"url": f"{scheme}://127.0.0.1:9/"} | given])
    if key == "control.tls":
        given["listen"] = "127.0.0.1:0"
    return {**world.config(), section: USUAL[section] | given}


# -- that its word is true


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Certificate, Certificate]:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("one", "other"):
        (folder / name).mkdir()
    return make_certificate(folder / "one"), make_certificate(folder / "other")


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path, certificates: tuple[Certificate, Certificate]) -> Any:
    from tests.run.test_check import KEY

    one, _ = certificates
    for name in ("keys", "other-keys"):
        (tmp_path / name).write_text(KEY)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "key-copy.pem").write_bytes(one.key.read_bytes())
    (tmp_path / "passphrase").write_text("of no use, as the key is not encrypted\n")
    (tmp_path / "networks").write_text("192.0.2.0/24\n")
    for name in ("secret", "other-secret"):
        (tmp_path / name).write_text(f"eight bytes of a {name}\n")
    with patch.object(reload, "SETTLE_SECONDS", 0.0):
        made = World(tmp_path)
        yield made
        await made.stop()


def of_key(changes: tuple[Change, ...], key: str) -> list[Change]:
    """The changes that are about a key of the tables."""
    section, _, name = key.partition(".")
    if section == "services":
        return [c for c in changes if c.service == "web" and c.key.split(".")[0] == name]
    if section in ("auto_block", "recorder", "tls", "backend_tls"):
        return [c for c in changes if c.service == "web" and c.key.split(".")[0] == section]
    return [c for c in changes if c.section.split("[")[0] == section]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("key", sorted(WORDS))
async def test_a_change_holds_as_the_pages_say(
    key: str, world: World, certificates: tuple[Certificate, Certificate]
) -> None:
    word = WORDS[key]
    before, after = values(key, world, certificates)
    first, second = (document(key, each, world, certificates) for each in (before, after))
    if key == "tls.certificate":  # with one key for both, so that nothing else is different
        first["services"]["web"]["tls"]["key"] = str(certificates[0].key)
        second["services"]["web"]["tls"]["key"] = str(certificates[1].key)
    world.start(first)
    app, monitor = world.app, world.monitor()
    is_plain = not {"tls", "backend_tls"} & first["services"]["web"].keys()
    client = await world.connect() if is_plain and key != "services.backend_tls" else None
    live = monitor.connections()[0] if client else None

    config_before = app.config
    result = await world.reload(second)
    found = of_key(result.changes, key)
    assert found, f"{key} has changed, and nothing is said of it: {result.changes}"
    assert {each.holds for each in found} == {word}
    if client is not None and live is not None:
        assert live.id in monitor
        assert (await client.ask(), live.backend) == (b"x", world.a)

    again = await world.reload()
    if word == "restart":
        assert app.config == attrs.evolve(config_before, services=app.config.services)
        assert again.changes == result.changes, "what waits for a restart is told each time"
        await world.stop_app()
        world.start()
        assert (await world.reload()).changes == ()
        return
    assert again.changes == ()
    await holds(key, world, live)


async def holds(key: str, world: World, live: Any) -> None:
    """Whether what runs is as the file says by now."""
    from monconn.run.sources import load

    written = load(str(world.file)).config
    section, _, name = key.partition(".")
    monitor, app = world.monitor(), world.app
    running = app.supervisor.services[0]
    assert running == written.services[0]
    if section in ("services", "auto_block", "recorder"):
        assert monitor.policy == running.policy
        if name in ("listen", "backend"):
            await world.connect()
            record = monitor.connections()[-1]
            assert record.backend == (world.b if name == "backend" else world.a)
            assert monitor.listen.startswith("127.0.0.2:" if name == "listen" else "127.0.0.1:")
        if name == "recorder":
            await world.connect()
            assert monitor.recorder.find(live.id) is None
            assert monitor.recorder.find(monitor.connections()[-1].id) is not None
    elif section in ("tls", "backend_tls"):
        files = app.supervisor.files_of("web")
        assert files is not None
        made = files.server if section == "tls" else files.client
        assert made is not None
        assert made.settings == getattr(running, section)
    else:
        assert getattr(app.config, section) == getattr(written, section)
        await FOLLOWED[section](world, getattr(written, section))


async def devices_follow(world: World, config: Any) -> None:
    devices = world.app._devices
    for _ in devices.of("web").poll(0.0):
        pass
    assert devices.of("web")._config == config
    assert devices.identity.facts == tuple(e for e in config.identity if e != "address")


async def capture_follows(world: World, config: Any) -> None:
    captures = world.app.operations.captures
    (capture,) = captures._running.values()
    assert (captures._config, capture.first) == (config, config.first)
    assert captures._files is not None
    assert (captures._files.rotate_size, captures._files._config) == (config.rotate_size, config)
    assert capture.triggers is not None
    assert set(capture.triggers.begun) == set(config.on)


async def history_follows(world: World, config: Any) -> None:
    assert world.app._history._config == config


async def json_log_follows(world: World, config: Any) -> None:
    from monconn.sinks.jsonlog import format_of

    log = world.app._json_log
    assert log._every == config.every
    assert log._lines._writer.format == format_of(config)
    await world.connect()
    log._lines.flush()
    path = world.folder / "log"
    is_there = '"event":"opened"' if config.at_open else ""
    await world.until(lambda: is_there in path.read_text())


async def notify_follows(world: World, config: Any) -> None:
    assert [row["url"] for row in world.app.notify.rows()] == [str(each.url) for each in config]


FOLLOWED = {
    "devices": devices_follow,
    "capture": capture_follows,
    "history": history_follows,
    "json_log": json_log_follows,
    "notify": notify_follows,
}
"""What sees whether a section that can follow has done so."""
