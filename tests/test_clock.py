"""Timers under each reactor that we install, or that serves a program of ours, and a wall clock
that leaps."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
from twisted.internet.task import Clock

from monconn.clock import SteadyClock, make_steady

HOUR_SECONDS = 3600.0
INSTALL = {
    "the command's": "from monconn.faces.cli.run import install_reactor; install_reactor()",
    "the command's, without epoll": (
        "from monconn.faces.cli import run; run.HAS_EPOLL = False; run.install_reactor()"
    ),
    "twistd --reactor=monconn": "from monconn.relay.sockets import reactor; reactor.install()",
    "twistd monconn": (
        "from monconn.run.plugin import make_service\n"
        "from monconn.config.config import from_pairs\n"
        "make_service(from_pairs(['127.0.0.1:0=127.0.0.1:9']))"
    ),
    "twistd --reactor=asyncio monconn": (
        "from twisted.internet import asyncioreactor; asyncioreactor.install()\n"
        "from monconn.run.plugin import make_service\n"
        "from monconn.config.config import from_pairs\n"
        "make_service(from_pairs(['127.0.0.1:0=127.0.0.1:9']))"
    ),
}
# A timer that is set before the leap, one that is set after it, and periodic work are counted
# until all were there; those that a leap ends at once would be there before the marker.
LEAP = """
import signal, sys, time
true_time, leap = time.time, 0.0
time.time = lambda: true_time() + leap  # before Twisted binds it
{install}
from twisted.internet import reactor
from twisted.internet.task import LoopingCall
seen = set()
def see(name):
    if len(seen) < 4:
        seen.add(name)
        if len(seen) == 4:
            reactor.stop()
def jump():
    global leap
    leap = float(sys.argv[1])
    started = time.monotonic()
    reactor.callLater(0.2, lambda: see("late" if time.monotonic() - started >= 0.19 else "early"))
    reactor.callLater(0, see, "at once")
periodic = LoopingCall(see, "periodic")
reactor.callLater(0.05, jump)
reactor.callLater(0.1, lambda: (see("before"), periodic.start(0.02)))
signal.alarm(20)  # ends the process, if timers wait for the wall clock
reactor.run()
print(sorted(seen))
"""


@pytest.mark.parametrize("leap", [-HOUR_SECONDS, HOUR_SECONDS], ids=["back", "ahead"])
@pytest.mark.parametrize("how", INSTALL)
def test_a_leap_of_the_wall_clock_moves_no_timer(how: str, leap: float) -> None:
    code = LEAP.format(install=INSTALL[how])
    done = subprocess.run(
        [sys.executable, "-c", code, str(leap)], capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.strip() == "['at once', 'before', 'late', 'periodic']"


def test_what_shows_a_reactors_time_as_a_date_shows_the_right_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = SteadyClock().seconds
    assert seconds() == pytest.approx(time.time(), abs=60)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - HOUR_SECONDS)
    assert seconds() >= now - 1  # and goes on from there


def test_only_a_reactor_whose_timers_are_not_set_yet_is_made_steady() -> None:
    from twisted.internet.selectreactor import SelectReactor

    reactor: Any = SelectReactor()
    wall = reactor.seconds
    timer = reactor.callLater(60, lambda: None)
    make_steady(reactor)
    assert reactor.seconds is wall
    timer.cancel()
    make_steady(reactor)
    steady = reactor.seconds
    assert steady is not wall
    make_steady(reactor)
    assert reactor.seconds is steady  # not begun anew


def test_a_clock_that_is_no_reactor_of_twisteds_is_left_as_it_is() -> None:
    clock = Clock()
    make_steady(clock)
    clock.advance(5)
    assert clock.seconds() == 5
