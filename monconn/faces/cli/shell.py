"""``monconn shell``: the manhole, by the ssh command of this machine."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from monconn.errors import ControlError, quoted
from monconn.faces.control.client import Client

_PROGRAM = "ssh"
_HOST = "monconn"
_ON_LOOPBACK = re.compile(r"(127\.[0-9.]+|\[::1\]|localhost):([0-9]{1,5})")
_PROXY_CODE = "from monconn.faces.cli.shell import copy_streams; copy_streams()"


def open_shell(server: Client, command: Sequence[str]) -> NoReturn:
    """Replace this process by ssh.

    :param command: what to run in the manhole; a prompt if it is empty.
    :raises ControlError: there is no manhole, or no ssh.
    """
    where = server.hello.get("manhole")
    if where is None:
        raise ControlError(
            "this monconn has no manhole: give it one in its configuration,"
            " manhole: {listen: 127.0.0.1:2222, authorized_keys: FILE}"
        )
    if shutil.which(_PROGRAM) is None:
        raise ControlError(f"the manhole is reached by {_PROGRAM}, which is not installed here")
    sys.stdout.flush()
    os.execvp(_PROGRAM, ssh_command(where, command))


def ssh_command(where: str, command: Sequence[str]) -> list[str]:
    """The ssh command, with arguments, that reaches a manhole.

    :param where: ``unix:PATH`` or ``HOST:PORT``.
    :raises ControlError: ``where`` is neither, or not on this machine.
    """
    # The control port is trusted with the address, so it might as well have named the key: the
    # first key is accepted. The alias keeps it apart from the keys of this host's own sshd.
    trust = ["-o", "StrictHostKeyChecking=accept-new", "-o", f"HostKeyAlias={_HOST}-{where}"]
    ssh = [_PROGRAM, *trust]
    if where.startswith("unix:") and where.isprintable():  # a line end would be another option
        proxy = [sys.executable, "-c", _PROXY_CODE, where.removeprefix("unix:")]
        shell_line = shlex.join(proxy).replace("%", "%%")  # ssh has tokens of its own, such as %h
        return [*ssh, "-o", f"ProxyCommand={shell_line}", "--", _HOST, *command]
    found = _ON_LOOPBACK.fullmatch(where)
    if found is None:  # ssh would take a text that begins with - for an option
        raise ControlError(f"{quoted(where)} is no address of a manhole")
    return [*ssh, "-p", found[2], "--", found[1].strip("[]"), *command]


def copy_streams() -> None:
    """Copy bytes both ways between standard input and output and a UNIX socket.

    ssh runs this as its ProxyCommand; the first argument of the program is the socket's path.
    """
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
