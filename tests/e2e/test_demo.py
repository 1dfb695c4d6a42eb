"""``monconn demo``, as its user sees it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable

from .programs import SCRIPTS, Program, connect


def test_demo(start: Callable[..., Program]) -> None:
    demo = start(SCRIPTS / "monconn", "demo")
    port = int(demo.out.wait_for(r"nc -N 127\.0\.0\.1 (\d+) ")[1])
    with connect(port) as client:
        client.sendall(b"hello\n")
        assert client.recv(100) == b"ok 6\n"
    demo.out.wait_for(r"demo: 127\.0\.0\.1:\d+ client_closed after \S+, up 6 B, down 5 B$")
    devices = [f"127.0.0.{number}" for number in range(11, 16)]
    for device in devices:  # in the introduction, and then in the table
        demo.out.wait_for(rf"^  {re.escape(device)}  \w+: ")
        demo.out.wait_for(rf"^ *\d+ +{re.escape(device)}:\d+ +open ")
    demo.out.wait_for(r"demo: 127\.0\.0\.14:\d+ client_closed after ")  # the visitor
    demo.send(signal.SIGINT)
    assert demo.status() == 0
    for device in devices[:3]:  # those that would stay for ever
        demo.out.wait_for(rf"demo: {re.escape(device)}:\d+ stopping after ")
    assert str(demo.err) == ""
    assert not re.search("Traceback|error|warn", str(demo.out))
