"""Network namespaces: addresses, interfaces, ports and limits of one's own."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from .programs import HANG_SECONDS

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000  # sched.h


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
    subprocess.run(["ip", *command.split()], check=True, timeout=HANG_SECONDS)


def set_ephemeral_ports(first: int, last: int) -> None:
    """Leave only these ports to sockets that connect."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", "w", encoding="ascii") as file:
        file.write(f"{first} {last}")
