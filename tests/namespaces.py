"""Network namespaces: addresses, interfaces, ports and limits of one's own."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import attrs
import pytest

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000  # sched.h
_COMMAND_SECONDS = 30
CABLES = 5
_THEIR_MAC = "02:00:00:00:00:02"


class Namespace:
    """A thread in a network namespace of its own, as are the programs that it starts.

    Its sockets may be used in other threads.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1)
        try:
            self.run(self._enter)
        except BaseException:
            self._thread.shutdown()
            raise

    def _enter(self) -> None:
        if shutil.which("ip") is None:
            pytest.skip("there is no ip command (iproute2)")
        if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET):
            error = os.strerror(ctypes.get_errno())
            pytest.skip(f"this system gives us no network namespace: {error}")
        ip("link set lo up")

    def run(self, call: Callable[[], T]) -> T:
        """Call something in the thread."""
        return self._thread.submit(call).result()

    def close(self) -> None:
        """End the thread; the namespace ends with its last socket and program."""
        self._thread.shutdown()


def ip(command: str) -> None:
    """Run the ``ip`` command in the namespace of the thread that calls."""
    subprocess.run(["ip", *command.split()], check=True, timeout=_COMMAND_SECONDS)


def set_ephemeral_ports(first: int, last: int) -> None:
    """Leave only these ports to sockets that connect."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w", encoding="ascii") as file:
        file.write(f"{first} {last}")


@attrs.frozen
class Network:
    """Our machine and that of the peers, with :data:`CABLES` between them.

    The sockets of the thread that has made it are on our machine.
    """

    _name: str
    _ours: int
    _theirs: int

    def ours(self, cable: int) -> str:
        """Our address at the end of a cable."""
        return f"10.99.{cable}.1"

    def theirs(self, cable: int) -> str:
        """The address of the peers' machine."""
        return f"10.99.{cable}.2"

    @contextmanager
    def among_the_peers(self) -> Iterator[None]:
        """Have this thread make its sockets on the peers' machine."""
        _enter(self._theirs)
        try:
            yield
        finally:
            _enter(self._ours)

    def start_python(self, code: str, *args: str) -> subprocess.Popen[bytes]:
        """Start a program on the peers' machine."""
        command = ["ip", "netns", "exec", f"{self._name}p", sys.executable, "-c", code, *args]
        return subprocess.Popen(command, stdin=subprocess.PIPE)

    def cut(self, cable: int, way: str = "silence") -> None:
        """Nothing answers at the other end of a cable, from now on.

        :param way: ``silence``, or whose link goes down: ``their_link``, ``our_link``.
        """
        ours, theirs = f"-n {self._name}m", f"-n {self._name}p"
        if way == "silence":
            # Else the address could not be resolved any more, which the kernel knows.
            known = f"{self.theirs(cable)} lladdr {_THEIR_MAC} dev ours{cable}"
            ip(f"{ours} neigh replace {known}")
            ip(f"{theirs} addr flush dev peer{cable}")
        elif way == "their_link":
            ip(f"{theirs} link set peer{cable} down")
        else:
            ip(f"{ours} link set ours{cable} down")


@contextmanager
def two_machines() -> Iterator[Network]:
    """Make a :class:`Network`; skips the test where namespaces are not permitted."""
    name = f"monconn{os.getpid()}"
    with ExitStack() as stack:

        def opened(path: str) -> int:
            descriptor = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            return descriptor

        home = opened("/proc/thread-self/ns/net")
        for machine in "mp":
            try:
                ip(f"netns add {name}{machine}")
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"this needs root, network namespaces and ip of iproute2: {error}")
            stack.callback(ip, f"netns del {name}{machine}")
        network = Network(name, *(opened(f"/run/netns/{name}{each}") for each in "mp"))
        for cable in range(CABLES):
            ip(f"-n {name}m link add ours{cable} type veth peer name peer{cable} netns {name}p")
            ip(f"-n {name}p link set peer{cable} address {_THEIR_MAC}")
            ends = (("m", "ours", network.ours(cable)), ("p", "peer", network.theirs(cable)))
            for machine, end, address in ends:
                ip(f"-n {name}{machine} addr add {address}/24 dev {end}{cable}")
                ip(f"-n {name}{machine} link set {end}{cable} up")
        _enter(network._ours)
        stack.callback(_enter, home)
        yield network


def _enter(namespace: int) -> None:
    """Have this thread make its sockets in a namespace."""
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
