"""``monconn shell``: how ssh reaches the manhole."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
from click.testing import CliRunner

from monconn.errors import ControlError
from monconn.faces.cli.main import main
from monconn.faces.cli.shell import ssh_command
from tests.faces.control.conftest import Port, with_port


@pytest.mark.parametrize(
    ("where", "end"),
    [
        ("127.0.0.1:2222", ["2222", "--", "127.0.0.1", "list"]),
        ("[::1]:2222", ["2222", "--", "::1", "list"]),
    ],
)
def test_over_tcp(where: str, end: list[str]) -> None:
    assert ssh_command(where, ("list",))[-4:] == end


@pytest.mark.parametrize(
    "where", ["-oProxyCommand=x:22", "192.0.2.1:22", "nonsense", "unix:/a\nProxyCommand x"]
)
def test_invalid_manhole_addresses(where: str) -> None:
    with pytest.raises(ControlError, match="is no address of a manhole"):
        ssh_command(where, ())


def test_over_a_unix_socket() -> None:
    command = ssh_command("unix:/run/my manhole", ("show", "42"))
    assert command[-3:] == ["monconn", "show", "42"]
    (proxy,) = [word for word in command if word.startswith("ProxyCommand=")]
    assert proxy.endswith("'/run/my manhole'")
    (proxy,) = [word for word in ssh_command("unix:/run/%h", ()) if word.startswith("ProxyC")]
    assert proxy.endswith(" /run/%%h")


def test_the_proxy_copies_bytes_both_ways(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        listener.settimeout(20)
        code = "from monconn.faces.cli.shell import copy_streams; copy_streams()"
        with subprocess.Popen(
            [sys.executable, "-c", code, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as proxy:
            assert proxy.stdin is not None
            assert proxy.stdout is not None
            server, _ = listener.accept()
            with server:
                proxy.stdin.write(b"hello")
                proxy.stdin.close()
                assert server.makefile("rb").read() == b"hello"
                server.sendall(bytes(100_000))
            assert proxy.stdout.read() == bytes(100_000)
            assert proxy.wait(20) == 0


@with_port
def test_without_a_manhole_the_message_says_how_to_enable_one(port: Port) -> None:
    result = CliRunner().invoke(main, ["shell", "--control", port.where])
    assert result.exit_code == 1
    assert "authorized_keys: FILE" in result.stderr


@with_port
def test_with_a_manhole_it_becomes_ssh(port: Port) -> None:
    assert port.service is not None
    port.service._factory.operations.manhole = lambda: "127.0.0.1:2222"
    with patch.object(os, "execvp") as execvp, patch("shutil.which", return_value="/bin/ssh"):
        CliRunner().invoke(main, ["shell", "--control", port.where, "close", "42", "--reset"])
    program, command = execvp.call_args.args
    assert program == "ssh"
    assert command[-4:] == ["127.0.0.1", "close", "42", "--reset"]
