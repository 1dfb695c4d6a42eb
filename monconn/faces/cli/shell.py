"""``monconn shell``: the system's own ssh, led to the manhole."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from typing import NoReturn

from monconn.errors import ControlError, quoted
from monconn.faces.control.client import Client

_PROGRAM = "ssh"
_HOST = "monconn"
_ON_LOOPBACK = re.compile(r"(127\.[0-9.]+|\[::1\]|localhost):([0-9]{1,5})")
_THROUGH_A_SOCKET = "from monconn.faces.cli.shell import pass_on; pass_on()"


def open_shell(server: Client, words: tuple[str, ...]) -> NoReturn:
    """Become ssh: a prompt, or one command.

    :param words: what to run there; a prompt if there are none.
    :raises ControlError: there is no manhole, or no ssh.
    """
    where = server.hello.get("manhole")
    if where is None:
        raise ControlError(
            "this monconn has no manhole: give it one in its configuration,"
            " manhole: {listen: 127.0.0.1:2222, authorized_keys: FILE}"
        )
    if shutil.which(_PROGRAM) is None:
        raise ControlError(f"there is no {_PROGRAM} here, which the manhole is talked to with")
    sys.stdout.flush()
    os.execvp(_PROGRAM, ssh_command(where, words))


def ssh_command(where: str, words: tuple[str, ...]) -> list[str]:
    """How to reach a manhole.

    :param where: ``unix:PATH`` or ``HOST:PORT``.
    :raises ControlError: it is neither, or not on this machine.
    """
    # Whoever has told us where it is could have told us its key: the first one is taken.
    trust = ["-o", "StrictHostKeyChecking=accept-new", "-o", f"HostKeyAlias={_HOST}-{where}"]
    command = [_PROGRAM, *trust]
    if where.startswith("unix:"):
        proxy = [sys.executable, "-c", _THROUGH_A_SOCKET, where.removeprefix("unix:")]
        return [*command, "-o", f"ProxyCommand={shlex.join(proxy)}", "--", _HOST, *words]
    found = _ON_LOOPBACK.fullmatch(where)
    if found is None:  # ssh would take some texts for options of its own
        raise ControlError(f"{quoted(where)} is no place for a manhole")
    return [*command, "-p", found[2], "--", found[1].strip("[]"), *words]


def pass_on() -> None:
    """Pass bytes between the standard streams and the UNIX socket that the arguments name."""
    import selectors
    import socket

    with socket.socket(socket.AF_UNIX) as sock, selectors.DefaultSelector() as selector:
        sock.connect(sys.argv[1])
        selector.register(0, selectors.EVENT_READ)
        selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd == 0:
                    data = os.read(0, 65536)
                    sock.sendall(data)
                    if not data:
                        sock.shutdown(socket.SHUT_WR)
                        selector.unregister(0)
                else:
                    data = sock.recv(65536)
                    if not data:
                        return
                    while data:
                        data = data[os.write(1, data) :]
