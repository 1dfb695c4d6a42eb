"""The manhole, tested from outside with the OpenSSH client and with plain sockets."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import socket
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, succeed
from twisted.internet.threads import deferToThread
from zope.interface import implementer

from monconn.addresses import TcpAddress, UnixAddress
from monconn.clock import MonotonicClock
from monconn.errors import ListenError
from monconn.faces.manhole.service import ManholeService
from monconn.model.actions import Action, Actor
from monconn.model.reasons import Reason
from monconn.model.record import ConnectionRecord
from monconn.monitor.interfaces import IConnection, Observer
from monconn.monitor.registry import Registry

pytest.importorskip("twisted.conch.manhole_ssh")

from twisted.conch.ssh.keys import Key
from twisted.cred.credentials import SSHPrivateKey
from twisted.cred.error import UnauthorizedLogin

from monconn.faces.manhole import keys, server
from monconn.faces.manhole.completion import complete
from tests import running_reactor

HANG_SECONDS = 30
LOOPBACK = TcpAddress("127.0.0.1", 0)
PIPE_THROUGH = (
    "import os, select, socket, sys\n"
    "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
    "ways = {0: s.fileno(), s.fileno(): 1}\n"
    "while True:\n"
    "    for fd in select.select(list(ways), [], [])[0]:\n"
    "        data = os.read(fd, 65536)\n"
    "        if not data: sys.exit()\n"
    "        os.write(ways[fd], data)\n"
)

LIST_USAGE = "list [FILTER...] [--closed] [--sort=COLUMN] [--limit=N]"


@attrs.frozen
class Settings:
    """A configuration of the manhole."""

    listen: TcpAddress | UnixAddress
    authorized_keys: str
    host_key: str | None = None


@implementer(IConnection)
class Connection:
    """A live connection without sockets, which ends at once when asked to."""

    def __init__(self, registry: Registry, record: ConnectionRecord) -> None:
        self.record = record
        self.ended: list[tuple[Reason, bool]] = []
        self._monitor = registry.get(record.service)

    def end(self, reason: Reason, reset: bool = False) -> None:
        self.ended.append((reason, reset))
        self.record.end(reason, self._monitor.clock.seconds())
        self._monitor.closed(self)

    def measure(self) -> None:
        """There are no sockets to measure."""

    def policy_changed(self) -> None:
        """There are no timeouts to arm."""


@attrs.frozen
class Ran:
    """A client that has ended."""

    status: int
    out: str
    err: str


class World:
    """A manhole, services to operate on, and a client with keys."""

    def __init__(self, folder: Path, ssh: str, keygen: str) -> None:
        self.folder = folder
        self._ssh, self._keygen = ssh, keygen
        self.registry = Registry()
        self.registry.new("web", listen=":80", backend="10.0.0.5:80")
        self.registry.new("mail", listen=":25", backend="10.0.0.6:25")
        self.authorized = folder / "authorized_keys"
        self.host_key = folder / "host_key"
        self.key = self.make_key("right")
        self.authorize(self.key)
        self.service: ManholeService | None = None

    def make_key(self, name: str, *options: str) -> Path:
        path = self.folder / name
        kind = options or ("-t", "ed25519")
        command = [self._keygen, "-q", "-N", "", "-C", name, *kind, "-f", str(path)]
        subprocess.run(command, check=True, timeout=HANG_SECONDS)
        return path

    def authorize(self, *paths: Path) -> None:
        self.write_authorized("".join(path.with_suffix(".pub").read_text() for path in paths))

    def write_authorized(self, text: str) -> None:
        self.authorized.write_text(text)
        self.authorized.chmod(0o600)

    def make(self, listen: TcpAddress | UnixAddress = LOOPBACK) -> ManholeService:
        settings = Settings(listen, str(self.authorized), str(self.host_key))
        return ManholeService(settings, self.registry, running_reactor(), MonotonicClock())

    def open(self, listen: TcpAddress | UnixAddress = LOOPBACK) -> ManholeService:
        self.service = self.make(listen)
        self.service.privilegedStartService()
        self.service.startService()
        return self.service

    def close(self) -> Deferred[Any]:
        return (self.service and self.service.stopService()) or succeed(None)

    def connect(self, service: str = "web", client: str = "10.1.2.3:4567") -> Connection:
        monitor = self.registry.get(service)
        record = monitor.admit(client, client.rpartition(":")[0])
        assert record is not None
        connection = Connection(self.registry, record)
        monitor.opened(connection)
        return connection

    def command(
        self, *arguments: str, key: Path | None = None, options: tuple[str, ...] = ()
    ) -> list[str]:
        assert self.service is not None
        assert self.service.where is not None
        where = self.service.where
        command = [self._ssh, "-F", "/dev/null", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"]
        command += ["-o", f"UserKnownHostsFile={self.folder / 'known_hosts'}"]
        command += ["-o", "StrictHostKeyChecking=accept-new", "-o", "IdentityAgent=none"]
        command += ["-i", str(key or self.key), *options]
        if where.startswith("unix:"):
            program = self.folder / "pipe_through.py"
            program.write_text(PIPE_THROUGH)
            proxy = f"{sys.executable} {program} {where.removeprefix('unix:')}"
            return [*command, "-o", f"ProxyCommand={proxy}", "ops@manhole", *arguments]
        host, _, port = where.rpartition(":")
        return [*command, "-p", port, f"ops@{host.strip('[]')}", *arguments]

    def ssh(
        self,
        *arguments: str,
        key: Path | None = None,
        options: tuple[str, ...] = (),
        stdin: str = "",
    ) -> Deferred[Ran]:
        command = self.command(*arguments, key=key, options=options)

        def run() -> Ran:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, timeout=HANG_SECONDS
            )
            err = re.sub(r"Warning: Permanently added .*\n", "", done.stderr)
            return Ran(done.returncode, done.stdout, err)

        return deferToThread(run)


@pytest_twisted.async_yield_fixture
async def world(tmp_path: Path, program: Callable[[str], str]) -> AsyncIterator[World]:
    tmp_path.chmod(0o700)
    made = World(tmp_path, program("ssh"), program("ssh-keygen"))
    yield made
    await made.close()


# -- who can log in


@pytest_twisted.ensureDeferred
async def test_an_authorized_key_is_accepted_and_logged(world: World, logged: list[str]) -> None:
    world.open()
    ran = await world.ssh("stats")
    assert ran.status == 0, ran.err
    assert ran.out.splitlines()[0].startswith("web: connections 0")
    key = Key.fromFile(str(world.key.with_suffix(".pub")))
    printed = subprocess.run(["ssh-keygen", "-lf", world.key], capture_output=True, text=True)
    assert keys.fingerprint(key) in printed.stdout
    [login] = [line for line in logged if line.startswith("login")]
    assert re.search(r'of "ops" from 127\.0\.0\.1:\d+ with SHA256:', login)
    assert keys.fingerprint(key) in login
    assert any(re.search(r'127\.0\.0\.1:\d+ ran "stats": status 0', line) for line in logged)


@pytest_twisted.ensureDeferred
async def test_a_wrong_key_is_refused_and_logged(world: World, logged: list[str]) -> None:
    world.open()
    ran = await world.ssh("stats", key=world.make_key("wrong"))
    assert (ran.status, ran.out) == (255, "")
    assert "Permission denied (publickey)" in ran.err
    [refusal] = [line for line in logged if line.startswith("refused")]
    assert re.search(r"with SHA256:\S+: not in authorized_keys$", refusal)
    assert not any(line.startswith("login") for line in logged)


@pytest_twisted.ensureDeferred
async def test_passwords_are_not_offered(world: World) -> None:
    world.open()
    only = ("-o", "PubkeyAuthentication=no", "-o", "BatchMode=no", "-v")
    wanted = ("-o", "PreferredAuthentications=none,password,keyboard-interactive")
    ran = await world.ssh("stats", options=(*only, *wanted, "-o", "NumberOfPasswordPrompts=1"))
    assert ran.status == 255
    offered = set(re.findall(r"Authentications that can continue: (\S*)", ran.err))
    assert offered == {"publickey"}
    assert "Next authentication method: password" not in ran.err


@pytest_twisted.ensureDeferred
async def test_no_key_is_refused(world: World) -> None:
    world.open()
    missing = world.folder / "no_such_key"
    ran = await world.ssh("stats", key=missing)
    assert ran.status == 255
    assert "Permission denied (publickey)" in ran.err


@pytest.mark.parametrize(
    "options",
    [("-t", "ed25519"), ("-t", "ecdsa", "-b", "384"), ("-t", "rsa", "-b", "2048")],
    ids=["ed25519", "ecdsa", "rsa"],
)
@pytest_twisted.ensureDeferred
async def test_each_type_of_key(world: World, options: tuple[str, ...]) -> None:
    key = world.make_key("other", *options)
    world.authorize(key)
    world.open()
    assert (await world.ssh("blocks", key=key)).out == "nothing is blocked\n"


@pytest.mark.parametrize(
    ("algorithm", "signed", "refusal"),
    [
        (b"rsa-sha2-256", b"data", None),
        (b"rsa-sha2-512", b"data", None),
        (b"ssh-rsa", b"data", "unacceptable signature algorithm"),
        (b"rsa-sha2-512", b"other", "wrong signature"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_signatures(
    world: World, algorithm: bytes, signed: bytes, refusal: str | None
) -> None:
    path = world.make_key("rsa", "-t", "rsa", "-b", "2048")
    world.authorize(path)
    key = Key.fromFile(str(path))
    signature = key.sign(signed, algorithm)
    printed = SSHPrivateKey(b"ops", algorithm, key.public().blob(), b"data", signature)
    authorized = keys.AuthorizedKeys(str(world.authorized))
    judged = server.KeyChecker(authorized).requestAvatarId(printed)
    if refusal is None:
        assert await judged == b"ops"
    else:
        with pytest.raises(UnauthorizedLogin, match=refusal):
            await judged


@pytest_twisted.ensureDeferred
async def test_a_key_of_a_type_that_is_not_understood(world: World, logged: list[str]) -> None:
    world.open()
    public = world.key.with_suffix(".pub")
    command: list[str | Path] = [world._keygen, "-q", "-s", world.key, "-I", "x", public]
    subprocess.run(command, check=True, timeout=HANG_SECONDS)
    certificate = world.folder / "right-cert.pub"
    options = ("-o", f"CertificateFile={certificate}", "-o", "LogLevel=ERROR")
    ran = await world.ssh("blocks", options=options)
    assert (ran.status, ran.out) == (0, "nothing is blocked\n")  # by the plain key beside it
    assert any("with a key that is not understood: " in line for line in logged)


@pytest_twisted.ensureDeferred
async def test_an_rsa_key_that_is_too_short(world: World, logged: list[str]) -> None:
    short = world.make_key("short", "-t", "rsa", "-b", "1024")
    world.authorize(short, world.key)
    world.open()
    options = ("-o", "RequiredRSASize=1024")
    assert (await world.ssh("stats", key=short, options=options)).status == 255
    assert any("not used: an RSA key of fewer than 2048 bits" in line for line in logged)
    assert (await world.ssh("stats")).status == 0


@pytest_twisted.ensureDeferred
async def test_a_removed_key_is_refused_at_once(world: World) -> None:
    other = world.make_key("other")
    world.authorize(world.key, other)
    world.open()
    assert (await world.ssh("stats")).status == 0
    world.authorize(other)
    assert (await world.ssh("stats")).status == 255
    assert (await world.ssh("stats", key=other)).status == 0


@pytest_twisted.ensureDeferred
async def test_a_file_that_others_may_write_is_not_used(world: World, logged: list[str]) -> None:
    world.open()
    world.authorized.chmod(0o620)
    assert (await world.ssh("stats")).status == 255
    assert any("is writable by others (mode 0620)" in line for line in logged)
    world.authorized.unlink()
    assert (await world.ssh("stats")).status == 255


@pytest.mark.parametrize(
    "entry",
    ['command="stats" {}', 'from="10.0.0.0/8" {}', "restrict {}", "cert-authority {}", "# {}"],
)
@pytest_twisted.ensureDeferred
async def test_an_entry_with_options_is_not_used(
    world: World, logged: list[str], entry: str
) -> None:
    other = world.make_key("other")
    world.authorize(other)
    world.open()
    mine = entry.format(world.key.with_suffix(".pub").read_text())
    world.write_authorized(mine + other.with_suffix(".pub").read_text())
    assert (await world.ssh("stats")).status == 255
    assert (await world.ssh("stats", key=other)).status == 0
    if not entry.startswith("#"):
        assert any("authorized_keys:1: not used: options" in line for line in logged)


# -- the host key


@pytest_twisted.ensureDeferred
async def test_the_host_key_is_created_once(world: World) -> None:
    world.host_key = world.folder / "state" / "monconn" / "ssh_host_ed25519_key"
    world.open()
    assert stat.S_IMODE(world.host_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.host_key.parent.stat().st_mode) == 0o700
    assert [path.name for path in world.host_key.parent.iterdir()] == [world.host_key.name]
    made = world.host_key.read_bytes()
    await world.ssh("stats")
    await world.close()
    world.open()
    assert world.host_key.read_bytes() == made
    known = (world.folder / "known_hosts").read_text()
    assert re.fullmatch(r"\[127\.0\.0\.1\]:\d+ ssh-ed25519 \S+\n", known)


def test_where_the_host_key_is_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/somewhere")
    assert keys.default_host_key() == Path("/somewhere/monconn/ssh_host_ed25519_key")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", "/home/ops")
    expected = "/home/ops/.local/state/monconn/ssh_host_ed25519_key"
    assert keys.default_host_key() == Path(expected)


# -- a manhole that does not open


def _remove(world: World) -> None:
    world.authorized.unlink()


def _empty(world: World) -> None:
    world.write_authorized("# nobody\nnonsense\n")


def _open_to_all(world: World) -> None:
    world.authorized.chmod(0o666)


def _folder_open_to_all(world: World) -> None:
    world.folder.chmod(0o777)


def _folder_instead(world: World) -> None:
    world.authorized.unlink()
    world.authorized.mkdir()


def _pipe_instead(world: World) -> None:
    world.authorized.unlink()
    os.mkfifo(world.authorized, 0o600)


def _host_key_open(world: World) -> None:
    keys.host_key(world.host_key)
    world.host_key.chmod(0o640)


def _host_key_public(world: World) -> None:
    world.host_key.write_text(world.key.with_suffix(".pub").read_text())
    world.host_key.chmod(0o600)


def _host_key_with_passphrase(world: World) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(world.host_key)]
    subprocess.run(command, check=True)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_remove, 'authorized_keys "{file}" cannot be read: no such file or directory'),
        (_empty, "authorized_keys {file}: has no usable key"),
        (
            _open_to_all,
            'authorized_keys "{file}" is writable by others (mode 0666): chmod 600 {file}',
        ),
        (
            _folder_open_to_all,
            'authorized_keys "{file}": others could replace it, as they may write to its folder:'
            " chmod go-w {folder}",
        ),
        (_folder_instead, 'authorized_keys "{file}" is a folder, and no regular file'),
        (_pipe_instead, 'authorized_keys "{file}" is a FIFO, and no regular file'),
        (_host_key_open, 'host key "{key}" is open to other users (mode 0640): chmod 600 {key}'),
        (_host_key_public, "host key {key}: not a private key of type ed25519"),
        (_host_key_with_passphrase, "host key {key}: not a private key, or one with a passphrase"),
    ],
)
def test_files_that_are_not_trusted(
    world: World, spoil: Callable[[World], None], message: str
) -> None:
    spoil(world)
    service = world.make()
    with pytest.raises(ListenError) as raised:
        service.privilegedStartService()
    world.folder.chmod(0o700)
    expected = message.format(file=world.authorized, folder=world.folder, key=world.host_key)
    assert str(raised.value) == f"manhole: {expected}"
    assert service.where is None
    assert service.stopService() is None


@pytest.mark.parametrize("host", ["", "0.0.0.0", "192.0.2.1", "example.org", "::"])
def test_beyond_loopback_it_does_not_listen(world: World, host: str) -> None:
    with pytest.raises(ListenError, match="can be reached from other machines"):
        world.make(TcpAddress(host, 0)).privilegedStartService()


def test_a_name_that_resolves_to_another_address(world: World) -> None:
    with (
        patch("monconn.faces.manhole.service.is_loopback", side_effect=[True, False]),
        pytest.raises(ListenError, match="can be reached from other machines"),
    ):
        world.make(TcpAddress("localhost", 0)).privilegedStartService()


def test_without_conch_the_message_says_what_to_install(world: World) -> None:
    with (
        patch.dict(sys.modules, {"twisted.conch.manhole_ssh": None}),
        pytest.raises(ListenError, match=r"pip install 'monconn\[manhole\]'"),
    ):
        world.make().privilegedStartService()


def test_conch_is_not_imported_until_it_opens() -> None:
    program = (
        "import sys, monconn.faces.manhole.service; print([m for m in sys.modules if 'conch' in m])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=HANG_SECONDS
    )
    assert done.stdout == "[]\n", done.stderr


def test_an_address_in_use(world: World) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match="manhole: cannot listen on 127"):
            world.make(TcpAddress("127.0.0.1", port)).privilegedStartService()


# -- one-shot commands


@pytest_twisted.ensureDeferred
async def test_list_and_show(world: World) -> None:
    world.open()
    assert await world.ssh("list") == Ran(0, "no connections\n", "")
    first, second = world.connect(), world.connect("mail", "10.9.9.9:1")
    first.record.up = 2048
    ran = await world.ssh("list")
    heading, *rows = ran.out.splitlines()
    assert heading.split()[:4] == ["ID", "CLIENT", "NAME", "SERVICE"]
    assert [row.split()[0] for row in rows] == [str(first.record.id), str(second.record.id)]
    assert "10.1.2.3:4567" in rows[0]
    assert "2.0 KiB" in rows[0]
    assert len((await world.ssh("list", "mail")).out.splitlines()) == 2
    printed = (await world.ssh("show", str(first.record.id))).out
    assert re.search(r"^client +10\.1\.2\.3:4567$", printed, re.MULTILINE)
    assert re.search(r"^up +2\.0 KiB \(2,048 bytes\)", printed, re.MULTILINE)


@pytest_twisted.ensureDeferred
async def test_close(world: World) -> None:
    world.open()
    first, second = world.connect(), world.connect()
    ran = await world.ssh("close", str(first.record.id))
    assert ran == Ran(0, f"connection {first.record.id} closed\n", "")
    ran = await world.ssh("close", str(second.record.id), "--reset")
    assert ran == Ran(0, f"connection {second.record.id} reset\n", "")
    assert (first.ended, second.ended) == ([("operator", False)], [("operator", True)])
    ran = await world.ssh("close", str(first.record.id))
    assert ran == Ran(1, "", f"no live connection has the id {first.record.id}\n")


@pytest_twisted.ensureDeferred
async def test_block_and_unblock(world: World) -> None:
    world.open()
    connection = world.connect()
    assert (await world.ssh("block", "10.1.0.0/16")).out == "10.1.0.0/16 blocked\n"
    assert connection.ended == [("blocked", False)]
    assert (await world.ssh("block", "10.1.0.0/16")).out == "10.1.0.0/16 was blocked already\n"
    blocks = (await world.ssh("blocks")).out.splitlines()
    assert [line.split()[:3] for line in blocks[1:]] == [["10.1.0.0/16", "all", "operator"]]
    assert (await world.ssh("unblock", "10.1.0.0/16")).out == "10.1.0.0/16 unblocked\n"
    assert (await world.ssh("unblock", "10.1.0.0/16")).out == "10.1.0.0/16 was not blocked\n"
    timed = await world.ssh("block", "10.1.0.0/16", "--for=1h", "--service=web", "--reason=scan")
    assert re.fullmatch(r"10\.1\.0\.0/16 blocked at web until [-0-9: ]+\n", timed.out)
    again = await world.ssh("block", "10.1.0.0/16", "--service=web", "--keep-open")
    assert again.out.startswith("10.1.0.0/16 blocked at web, and was so before until another time")
    inside = await world.ssh("unblock", "10.1.2.3")
    assert inside.out == "10.1.2.3/32 was not blocked; 10.1.0.0/16 is blocked, which it is in\n"
    assert (await world.ssh("block", "10.1.0.0/16", "--for=soon")).status == 2
    assert (await world.ssh("unblock", "10.1.0.0/16", "--service=web")).status == 0


@pytest.mark.parametrize(
    ("arguments", "status", "err"),
    [
        ("show 99999999", 1, "no connection has the id 99999999, or had it lately\n"),
        ("list --sort", 2, f'"--sort" is not --sort=COLUMN; usage: {LIST_USAGE}\n'),
        ("list --limit=many", 2, f'"many" is no number of rows; usage: {LIST_USAGE}\n'),
        ("list --closed=yes", 2, f'"--closed=yes" is not --closed; usage: {LIST_USAGE}\n'),
        ("stats nobody", 1, 'there is no service named "nobody"\n'),
        ("show x", 2, '"x" is not the id of a connection; usage: show ID\n'),
        (
            "close",
            2,
            "missing operand; usage: close ID|TERM... [--reset] [--spread=TIME] [--dry-run]\n",
        ),
        ("blocks now", 2, 'unexpected operand "now"; usage: blocks\n'),
        ("__import__('os')", 2, 'there is no command "__import__(os)"; try: help\n'),
        ("'", 2, '"\'": no closing quotation\n'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_commands_that_cannot_be_carried_out(
    world: World, arguments: str, status: int, err: str
) -> None:
    world.open()
    assert await world.ssh(arguments) == Ran(status, "", err)


@pytest_twisted.ensureDeferred
async def test_list_has_an_order_and_a_limit(world: World) -> None:
    world.open()
    ran = await world.ssh("list --sort=-client --limit=1")
    assert (ran.status, ran.err) == (0, "")
    ran = await world.ssh("list --closed --sort=lasted web")
    assert (ran.status, ran.err) == (0, "")
    ran = await world.ssh("list --sort=colour")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith('"colour" is nothing to sort by; there are id, client, ')


@pytest_twisted.ensureDeferred
async def test_help_and_a_bad_network(world: World) -> None:
    world.open()
    ran = await world.ssh("help")
    assert ran.out.startswith("list [FILTER...] ")
    assert "close ID|TERM... [--reset] [--spread=TIME] [--dry-run] " in ran.out
    ran = await world.ssh("block", "nonsense")
    assert ran.status == 2
    assert ran.err.endswith("[--keep-open] [--dry-run]\n")


@pytest_twisted.ensureDeferred
async def test_a_command_with_a_bug_is_logged_and_fails(
    world: World, logged_failures: list[Any]
) -> None:
    world.open()
    with patch("monconn.faces.manhole.commands.run", side_effect=RuntimeError("broken")):
        ran = await world.ssh("stats")
    assert ran == Ran(1, "", "it failed; the log says why\n")
    assert [str(failure.value) for failure in logged_failures] == ["broken"]
    logged_failures.clear()


@pytest_twisted.ensureDeferred
async def test_a_long_answer_arrives_completely(world: World) -> None:
    world.open()
    for number in range(20_000):
        world.connect(client=f"10.0.0.1:{number}")
    ran = await world.ssh("list")
    assert (ran.status, len(ran.out.splitlines())) == (0, 20_001)


@pytest_twisted.ensureDeferred
async def test_a_command_at_a_terminal(world: World) -> None:
    world.open()

    def talk() -> tuple[str, int]:
        session = Session(world.command("blocks", options=("-tt",)))
        seen = session.read_until(r"blocked\r\n")
        return seen, session.status()

    seen, status = await deferToThread(talk)
    assert seen.endswith("nothing is blocked\r\n")
    assert status == 0


@pytest_twisted.ensureDeferred
async def test_sessions_on_one_connection_are_limited(world: World, logged: list[str]) -> None:
    world.open()
    shared = ("-o", f"ControlPath={world.folder / 'mux'}", "-o", "LogLevel=ERROR")
    with patch.object(server, "MAX_SESSIONS", 1):
        master = Session(world.command(options=("-M", *shared)))
        await deferToThread(master.read_until, r"monconn> $")
        await world.ssh("blocks", options=(*shared, "-o", "ControlMaster=no"))
    # The client has fallen back to a second connection.
    assert any('refused a channel of type "session"' in line for line in logged)
    assert sum(line.startswith("login") for line in logged) == 2
    ran = await world.ssh("blocks", options=(*shared, "-o", "ControlMaster=no"))
    assert ran.out == "nothing is blocked\n"
    assert sum(line.startswith("login") for line in logged) == 2
    master.type("\x04")
    assert await deferToThread(master.status) == 0


@pytest_twisted.ensureDeferred
async def test_filters(world: World) -> None:
    world.open()
    first, second = world.connect(), world.connect("mail", "10.9.9.9:1")
    for arguments in (["service:mail"], ["client:10.9.0.0/16", "not:service:web"], ["9.9:1"]):
        _, row = (await world.ssh("list", *arguments)).out.splitlines()
        assert row.split()[0] == str(second.record.id)
    assert (await world.ssh("list", "idle:1h..")).out == "no connections\n"
    ran = await world.ssh("list", "stat:open")
    assert ran.status == 2
    assert "in term 1" in ran.err
    assert ran.err.endswith(f"usage: {LIST_USAGE}\n")
    ran = await world.ssh("close", "client:10.0.0.0/8", "not:service:web")
    assert ran == Ran(0, f"connection {second.record.id} closed\n", "")
    assert first.ended == []
    assert await world.ssh("close", "service:mail") == Ran(0, "no connections\n", "")
    ran = await world.ssh("close", "mail")
    assert (ran.status, ran.out) == (2, "")
    assert "write service:mail" in ran.err


@pytest_twisted.ensureDeferred
async def test_some_of_the_ids_are_unknown(world: World) -> None:
    world.open()
    first, second = world.connect(), world.connect()
    ids = (str(first.record.id), "99999998", str(second.record.id), "99999999")
    ran = await world.ssh("close", *ids)
    assert ran.status == 1
    assert ran.out == f"connection {ids[0]} closed\nconnection {ids[2]} closed\n"
    assert ran.err == "no live connection has the id 99999998, 99999999\n"


@pytest_twisted.ensureDeferred
async def test_dry_runs_change_nothing(world: World, actions: list[Action]) -> None:
    world.open()
    connection = world.connect()
    number = connection.record.id
    for arguments, answer in (
        (["close", str(number)], f"connection {number} would be closed"),
        (["close", "service:web", "--reset"], f"connection {number} would be reset"),
        (["block", "10.0.0.0/8"], "10.0.0.0/8 would be blocked, connections ended: 1"),
        (["unblock", "10.0.0.0/8"], "10.0.0.0/8 was not blocked"),
    ):
        assert await world.ssh(*arguments, "--dry-run") == Ran(0, f"{answer}\n", "")
    assert (connection.ended, actions) == ([], [])
    await world.ssh("block", "192.0.2.1")
    ran = await world.ssh("unblock", "192.0.2.1", "--dry-run")
    assert ran.out == "192.0.2.1/32 would be unblocked\n"
    assert (await world.ssh("blocks", "--dry-run")).err == (
        'there is no option "--dry-run"; usage: blocks\n'
    )


@pytest.fixture
def actions(world: World) -> list[Action]:
    """The actions that observers are notified of."""
    seen: list[Action] = []

    class ActionObserver(Observer):
        def acted(self, action: Action) -> None:
            seen.append(action)

    world.registry.observe(ActionObserver())
    return seen


@pytest_twisted.ensureDeferred
async def test_actions_are_those_of_the_login(world: World, actions: list[Action]) -> None:
    world.open()
    first, second, third = (world.connect() for _ in range(3))
    printed = subprocess.run(["ssh-keygen", "-lf", world.key], capture_output=True, text=True)
    name = printed.stdout.split()[1]
    await world.ssh("close", str(first.record.id), "--reset")
    await world.ssh("block", "192.0.2.1")
    lines = f'close({second.record.id})\nblock("192.0.2.2")\nunblock("192.0.2.2")\n'
    await world.ssh(options=("-T", "-l", "alice"), stdin=lines)

    def talk() -> None:
        session = Session(world.command(options=("-l", "bob")))
        session.read_until(r"monconn> $")
        session.ask(f"close({third.record.id})")
        session.type("\x04")
        session.status()

    await deferToThread(talk)
    users = ["ops", "ops", "alice", "alice", "alice", "bob"]
    assert [each.kind for each in actions] == [
        *("reset", "block", "close", "block", "unblock", "close")
    ]
    assert [each.actor for each in actions] == [Actor.ssh(name, user) for user in users]
    assert [each.count for each in actions] == [1, 0, 1, 0, 0, 1]


@pytest_twisted.ensureDeferred
async def test_what_is_done_to_a_monitor_directly_is_the_logins_too(
    world: World, actions: list[Action]
) -> None:
    world.open()
    lines = 'for each in registry: each.block("192.0.2.1")\n\n1/0\n'
    await world.ssh(options=("-T", "-l", "alice"), stdin=lines)
    monitor = next(iter(world.registry))
    monitor.unblock("192.0.2.1")
    assert [(each.kind, each.actor.kind, each.actor.user) for each in actions] == [
        *[("block", "ssh", "alice")] * len(world.registry),
        ("unblock", "code", ""),
    ]


# -- the rest of SSH


@pytest_twisted.ensureDeferred
async def test_nothing_is_forwarded(world: World, logged: list[str]) -> None:
    world.open()
    ran = await world.ssh(options=("-W", "127.0.0.1:1"))
    assert ran.status == 255
    assert "administratively prohibited" in ran.err
    assert any('refused a channel of type "direct-tcpip"' in line for line in logged)
    ran = await world.ssh(
        "stats", options=("-R", "0:127.0.0.1:1", "-o", "ExitOnForwardFailure=yes")
    )
    assert ran.status == 255
    ran = await world.ssh("sftp", options=("-s",))
    assert (ran.status, ran.out) == (255, "")


@pytest_twisted.ensureDeferred
async def test_a_login_may_not_take_long(world: World, logged: list[str]) -> None:
    with patch.object(server, "LOGIN_SECONDS", 0.05):
        world.open()
        with socket.create_connection(_tcp(world)) as client:
            assert await deferToThread(_read_all, client) == b"SSH-2.0-monconn\r\n"
    assert any("did not log in within" in line for line in logged)


@pytest_twisted.ensureDeferred
async def test_a_login_ends_the_timeout(world: World) -> None:
    with patch.object(server, "LOGIN_SECONDS", 5):
        world.open()
        session = Session(world.command(options=("-tt",)))
        await deferToThread(session.read_until, "monconn>")
    [connection] = world.service._factory.connections  # type: ignore[union-attr]
    assert connection.is_authenticated
    assert not connection._login_timeout.active()
    session.end()


@pytest_twisted.ensureDeferred
async def test_connections_without_a_login_are_limited(world: World, logged: list[str]) -> None:
    with patch.object(server, "MAX_UNAUTHENTICATED", 4):
        world.open()
        clients = [socket.create_connection(_tcp(world)) for _ in range(20)]
        for client in clients[:16]:
            await deferToThread(_read_all, client)  # displaced
        assert len(world.service._factory.connections) == 4  # type: ignore[union-attr]
        assert (await world.ssh("stats")).status == 0
        for client in clients:
            client.close()
    assert sum("displaced" in line for line in logged) <= server.STRANGERS_LINES_A_SECOND + 1


@pytest.mark.parametrize(
    "data",
    [b"SSH-2.0-x\r\n" + b"\xff" * 64, b"SSH-2.0-x\r\n" + bytes(64), b"GET / HTTP/1.1\r\n" * 300],
)
@pytest_twisted.ensureDeferred
async def test_garbage_is_logged_without_traceback(world: World, data: bytes) -> None:
    world.open()
    with socket.create_connection(_tcp(world)) as client:
        client.sendall(data)
        await deferToThread(_read_all, client)


def _tcp(world: World) -> tuple[str, int]:
    assert world.service is not None
    host, _, port = str(world.service.where).rpartition(":")
    return host, int(port)


def _read_all(client: socket.socket) -> bytes:
    client.settimeout(HANG_SECONDS)
    whole = b""
    try:
        while data := client.recv(65536):
            whole += data
    except ConnectionResetError:
        pass
    return whole.partition(b"\n")[0] + b"\n" if whole else b""


def _turn() -> Deferred[None]:
    from twisted.internet import reactor
    from twisted.internet.task import deferLater

    return deferLater(reactor, 0.005)


# -- other addresses


@pytest_twisted.ensureDeferred
async def test_at_a_unix_socket(world: World, logged: list[str]) -> None:
    path = world.folder / "manhole.sock"
    service = world.open(UnixAddress(str(path), 0o666))
    assert service.where == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (await world.ssh("blocks")).out == "nothing is blocked\n"
    assert any(re.search(r"login of .* from unix:\d+ with SHA256:", line) for line in logged)
    await world.close()
    assert not path.exists()


@pytest_twisted.ensureDeferred
async def test_at_ipv6(world: World) -> None:
    world.open(TcpAddress("::1", 0))
    assert (await world.ssh("blocks")).out == "nothing is blocked\n"


# -- lines from a pipe


@pytest_twisted.ensureDeferred
async def test_lines_from_a_pipe(world: World) -> None:
    world.open()
    connection = world.connect()
    lines = (
        f'monitor("web")\nfor n in monitors:\n  print("name", n)\n\nclose({connection.record.id})'
    )
    ran = await world.ssh(options=("-T",), stdin=lines)
    assert ran.status == 0
    first, *rest = ran.out.splitlines()
    assert first.startswith("web: connections 1,")
    assert rest == ["name web", "name mail", f"connection {connection.record.id} closed"]
    assert "\x1b" not in ran.out
    assert connection.ended == [("operator", False)]


@pytest_twisted.ensureDeferred
async def test_a_last_line_from_a_pipe_that_fails(world: World) -> None:
    world.open()
    ran = await world.ssh(options=("-T",), stdin="close(99999999)\n")
    assert (ran.status, ran.out) == (1, "no live connection has the id 99999999\n")
    assert (await world.ssh(options=("-T",), stdin="")).status == 0
    ran = await world.ssh(options=("-T",), stdin="exit()\nprint(1)\n")
    assert (ran.status, ran.out) == (0, "")
    ran = await world.ssh(options=("-T",), stdin="raise SystemExit\nprint(1)\n")
    assert (ran.status, ran.out) == (0, "")
    ran = await world.ssh(options=("-T",), stdin="x" * 100_000)
    assert (ran.status, ran.out) == (1, "the line is too long\n")


@pytest_twisted.ensureDeferred
async def test_lines_wait_for_answers(world: World) -> None:
    world.open()
    number = world.connect().record.id
    lines = f'connections("web")\nshow({number})\nprint("last")\nconnections("state:x")\nshow(0)'
    ran = await world.ssh(options=("-T",), stdin=lines)
    heading, row, first_field, *_, last, mistake, unknown = ran.out.splitlines()
    assert heading.split()[:2] == ["ID", "CLIENT"]
    assert row.split()[:2] == [str(number), "10.1.2.3:4567"]
    assert re.fullmatch(rf"id +{number}", first_field)
    assert last == "last"
    assert mistake.startswith("filter: ")
    assert unknown == "no connection has the id 0, or had it lately"
    assert ran.status == 1


@pytest_twisted.ensureDeferred
async def test_empty_lines_do_not_hide_a_failure(world: World) -> None:
    world.open()
    ran = await world.ssh(options=("-T",), stdin="1 / 0\n\n\n")
    assert ran.status == 1
    assert "ZeroDivisionError" in ran.out


# -- at a terminal


class Session:
    """A client at a terminal."""

    def __init__(self, command: list[str], columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        self.resize(columns)
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True
        )
        os.close(slave)
        self.seen = ""

    def resize(self, columns: int, lines: int = 24) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    def notify_of_size(self) -> None:
        """As the kernel would, if this were its controlling terminal."""
        import signal

        self._process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read_until(self, pattern: str) -> str:
        """The output up to the end of a pattern; without colours unless the pattern has some."""
        give_up = time.monotonic() + HANG_SECONDS
        while True:
            text = self.seen if "\x1b" in pattern else _plain(self.seen)
            found = re.search(pattern, text)
            if found:
                self.seen = text[found.end() :]
                return text[: found.end()]
            assert time.monotonic() < give_up, f"{pattern!r} is not in {text!r}"
            assert select.select([self._master], [], [], HANG_SECONDS)[0], f"only {text!r}"
            self.seen += os.read(self._master, 65536).decode()

    def ask(self, line: str) -> str:
        """Type a line, and return what follows up to the next prompt."""
        self.type(f"{line}\r")
        self.read_until(re.escape(line) + r"\r\n")
        return self.read_until(r"monconn> $").replace("\r\n", "\n")

    def status(self) -> int:
        try:
            return self._process.wait(HANG_SECONDS)
        finally:
            self.end()

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z@]", "", text)


def test_the_screen_of_the_tests_reads_colours() -> None:
    assert _plain("\x1b[1;32mmonconn>\x1b[0m x") == "monconn> x"


@pytest_twisted.ensureDeferred
async def test_the_prompt(world: World, logged: list[str]) -> None:
    world.open()
    connection = world.connect()
    number = connection.record.id

    def talk() -> int:
        session = Session(world.command())
        greeting = session.read_until("\x1b\\[1;32mmonconn>\x1b\\[0m ")
        assert "monconn: 2 services, 1 connection. help()" in greeting
        assert session.ask('monitor("web")').startswith("web: connections 1,")
        assert "mail: connections 0" in session.ask("monitors")
        assert session.ask('monitors["mail"].name').startswith("'mail'")
        assert session.ask("monitor('x')").startswith('there is no service named "x"\n')
        assert "10.1.2.3:4567" in session.ask("connections()")
        assert session.ask("close(99999999)") == (
            "no live connection has the id 99999999\nmonconn> "
        )
        assert session.ask(f"close({number})") == f"connection {number} closed\nmonconn> "
        assert session.ask('block("x")').startswith('"x" is neither an IP address')
        assert session.ask('block("10.0.0.0/8")') == "10.0.0.0/8 blocked\nmonconn> "
        assert session.ask('unblock("10.0.0.0/8")') == "10.0.0.0/8 unblocked\nmonconn> "
        assert "ZeroDivisionError" in session.ask("1 / 0")
        assert "Ctrl-D does" in session.ask("help()")
        session.type("\x04")
        return session.status()

    assert await deferToThread(talk) == 0
    assert connection.ended == [("operator", False)]
    assert any("has a prompt" in line for line in logged)


@pytest_twisted.ensureDeferred
async def test_what_is_typed_ahead_comes_after_the_answer(world: World) -> None:
    world.open()
    world.connect()

    def talk() -> int:
        session = Session(world.command())
        session.read_until(r"monconn> $")
        session.type("connections()\rprint('one')\rprint('two')\r\x04")
        session.read_until(r"(?s)IDLE\r\n.* 10\.1\.2\.3:4567 .*\r\none\r\n.*\r\ntwo\r\n")
        return session.status()

    assert await deferToThread(talk) == 0


@pytest_twisted.ensureDeferred
async def test_the_result_of_a_deferred_comes_while_a_line_is_typed(world: World) -> None:
    world.open()

    def talk() -> int:
        session = Session(world.command())
        session.read_until(r"monconn> $")
        session.ask("from twisted.internet.defer import Deferred; later = Deferred()")
        assert session.ask("later").startswith("<Deferred #0>")
        session.ask("from twisted.internet import reactor")
        session.type("_ = reactor.callLater(0.1, later.callback, 5)\rprint('ty")
        session.read_until(r"Deferred #0 called back: 5\r\n(?s:.*)monconn> print\('ty")
        session.type("ped')\r")
        session.read_until(r"\r\ntyped")
        session.read_until(r"monconn> $")
        session.type("\x04")
        return session.status()

    assert await deferToThread(talk) == 0


@pytest_twisted.ensureDeferred
async def test_half_a_line_is_coloured_and_edited(world: World) -> None:
    world.open()

    def talk() -> int:
        session = Session(world.command())
        session.read_until(r"monconn> $")
        session.type("12 + 'x")
        session.read_until("\x1b\\[36m12\x1b")
        session.type("\x7f\x7f30\r")
        session.read_until(r"\r\n42")
        session.read_until(r"monconn> $")
        session.type("\x1b[A\x1b[D\x1b[D5\r")  # recalls the line, and puts 5 before the 30
        session.read_until(r"\r\n542")
        session.type("if 1:\rprint('in' 'side')\x01\t\r\r")
        session.read_until("\r\ninside")
        session.type("\xfc\x03")  # not ASCII: rings the bell
        session.read_until("\x07?.*KeyboardInterrupt")
        session.type("exit()\r")
        return session.status()

    assert await deferToThread(talk) == 0


@pytest_twisted.ensureDeferred
async def test_tab_completes(world: World) -> None:
    world.open()

    def talk() -> int:
        session = Session(world.command())
        session.read_until(r"monconn> $")
        session.type("connec\t()\r")
        session.read_until(r"monconn> connections\(\)\r\nno connections")
        session.read_until(r"monconn> $")
        session.type('monitor("w\t)\r')
        session.read_until(r'monitor\("web"\)\r\nweb: connections')
        session.read_until(r"monconn> $")
        session.type("monitors.\t")
        session.read_until(r"monitors\.get +monitors\.items[^>]*monconn> monitors\.")
        session.type("\x03\x04")
        return session.status()

    assert await deferToThread(talk) == 0


@pytest_twisted.ensureDeferred
async def test_a_window_that_changes_its_size(world: World) -> None:
    world.open()
    world.connect()

    def talk() -> tuple[list[str], int]:
        session = Session(world.command(), columns=200)
        session.read_until(r"monconn> $")
        wide = session.ask("connections()")
        session.resize(30)
        session.notify_of_size()
        give_up = time.monotonic() + HANG_SECONDS
        while (narrow := session.ask("connections()")) == wide or _widest(narrow) > 30:
            assert time.monotonic() < give_up
        session.type("\x04")
        return [wide, narrow], session.status()

    tables, status = await deferToThread(talk)
    assert "IDLE" in tables[0]
    assert _widest(tables[0]) > 60
    assert "IDLE" not in tables[1]
    assert _widest(tables[1]) in range(20, 31)
    assert all("10.1.2.3:4567" in each for each in tables)
    assert status == 0


def _widest(text: str) -> int:
    return max(map(len, text.splitlines()))


@pytest_twisted.ensureDeferred
async def test_a_terminal_whose_input_ends(world: World) -> None:
    world.open()
    ran = await world.ssh(options=("-tt",), stdin="")
    assert ran.status == 0, ran.err
    assert "leaves." in ran.out


@pytest_twisted.ensureDeferred
async def test_stopping_ends_the_sessions(world: World) -> None:
    world.open()
    session = Session(world.command())
    await deferToThread(session.read_until, r"monconn> $")
    await world.close()
    assert "closes the manhole" in await deferToThread(session.read_until, "manhole")
    assert await deferToThread(session.status) == 255
    assert world.service is not None
    assert world.service.where is None
    assert world.service.close_listener() is None


# -- completion alone


@pytest.mark.parametrize(
    ("text", "addition", "candidates"),
    [
        ("conn", "ections", ["connections"]),
        ("x = conn", "ections", ["connections"]),
        ('monitor("we', 'b"', ['web"']),
        ("monitors['m", "", ["mail'", "mx'"]),
        ("text.upp", "er", ["text.upper"]),
        ("nobody.x", "", []),
        ("imp", "ort", ["import"]),
        ("(", "", []),
        ("f().conn", "", []),
        ("connections('m", "", ["mail'", "mx'"]),
    ],
)
def test_completion(text: str, addition: str, candidates: list[str]) -> None:
    names = {"connections": print, "text": "x"}
    found = complete(text, names, ["web", "mail", "mx"])
    assert (found.addition, found.candidates) == (addition, candidates)
