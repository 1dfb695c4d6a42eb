"""What signals do, alike under ``monconn``, ``twistd`` and ``twist``; and an end that is certain.

SIGTERM, SIGINT (Ctrl-C) and SIGQUIT stop the program, and so does SIGHUP if there is a controlling
terminal, which is gone then. Without one, SIGHUP has the configuration read again. No other signal
that an administrator may send ends it.

SIGUSR1 reopens the JSON log. Its handler is in :class:`monconn.sinks.jsonlog.JsonLogService`, as
that also runs in programs of others that handle their signals themselves; it calls the handler that
was there before, which is ``twistd``'s own for its log file.
"""

from __future__ import annotations

import _thread
import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol

from twisted.internet.error import ReactorNotRunning

from monconn.log import Logger

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
OTHER_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)
"""Tools send these to have logs reopened or programs replaced; by default they would kill."""
LAST_SECONDS = 8.0
"""From the second signal to the end, whatever hangs. Each sink may wait for its disk or its reader
for a second or two."""
EXIT_SECONDS = 3.0
"""From the reactor's end to the process': Python waits for threads that are not daemons, and runs
what was registered by ``atexit``."""
JOIN_SECONDS = 0.1

_log = Logger()


class StopReactor(Protocol):
    """The part of a reactor that :class:`StopSignals` needs (``IReactorCore`` and others)."""

    def callWhenRunning(self, call: Callable[[], object], /) -> object:
        """Call something once the reactor runs."""

    def callFromThread(self, call: Callable[[], object], /) -> object:
        """Call something in the reactor's thread, soon."""

    def stop(self) -> None:
        """Stop.

        :raises ReactorNotRunning: it has been stopped already.
        """


class StopSignals:
    """The first signal stops the reactor and its services gracefully; the second at once.

    :param reactor: the reactor that will run.
    :param stop_now: ends the connections that the first signal has left to end by themselves.
    :param received: called with each signal's name, and whether it is a further one, before it
        takes effect.
    :param hurry: called with the number of the second signal, in its handler: unlike the others
        also if the reactor's thread hangs.
    :param hung_up: called with ``SIGHUP``, where that stops nothing.
    """

    def __init__(
        self,
        reactor: StopReactor,
        stop_now: Callable[[], object],
        received: Callable[[str, bool], object] = lambda name, again: None,
        hurry: Callable[[int], object] = lambda number: None,
        hung_up: Callable[[str], object] = lambda name: None,
    ) -> None:
        self._reactor = reactor
        self._stop_now = stop_now
        self._received_call = received
        self._hurry = hurry
        self._hung_up_call = hung_up
        self._numbers: tuple[signal.Signals, ...] = STOP_SIGNALS
        self._early: int | None = None
        self._count = 0
        self._stopping = False

    def install(self) -> None:
        """Install our handlers, before the reactor runs and again once it does.

        When it starts, the reactor installs handlers of its own, with which ``twistd`` and
        ``twist`` re-raise the signal after a clean stop, and so do not exit with status 0.
        """
        # Somebody who has a signal ignored, as nohup(1) does with SIGHUP, means that.
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            if has_terminal():
                self._numbers = (*STOP_SIGNALS, signal.SIGHUP)
            else:
                signal.signal(signal.SIGHUP, self._hung_up)
        for number in OTHER_SIGNALS:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, ignore)
        _handle(self._numbers, self._note)
        self._reactor.callWhenRunning(self._take_over)

    def _note(self, number: int, frame: Any) -> None:
        self._early = number
        self._count = 1
        # A second one ends the program even while it starts, in the middle of a call of C, too.
        _handle(STOP_SIGNALS, deadly())
        if signal.SIGHUP in self._numbers:
            signal.signal(signal.SIGHUP, ignore)
        _write_line(
            f"{signal.Signals(number).name}: stops as soon as it has started;"
            " a second signal ends it at once"
        )

    def _take_over(self) -> None:
        _handle(self._numbers, self._received)
        if self._early is not None:
            self._act_on(self._early)

    def _received(self, number: int, frame: Any) -> None:
        if self._count and number == signal.SIGHUP:
            return  # the kernel and the shell both send one when a terminal is closed
        self._count += 1
        if self._count > 1:
            _handle(STOP_SIGNALS, deadly())
            self._hurry(number)
        self._reactor.callFromThread(partial(self._act_on, number))

    def _hung_up(self, number: int, frame: Any) -> None:
        # In the reactor's thread, and not in the handler: that may have interrupted anything.
        self._reactor.callFromThread(partial(self._hung_up_call, signal.Signals(number).name))

    def _act_on(self, number: int) -> None:
        self._received_call(signal.Signals(number).name, self._stopping)
        self.stop()

    def stop(self) -> None:
        """Stop as a signal does, without one."""
        if self._stopping:
            self._stop_now()
            return
        self._stopping = True
        try:
            self._reactor.stop()
        except ReactorNotRunning:  # something else has stopped it already: this is the second time
            self._stop_now()


def has_terminal() -> bool:
    """Whether the process has a controlling terminal; a daemon, or a service of systemd, has none.

    Not whether a standard stream is one: all of them may be redirected, and SIGHUP comes all the
    same when the terminal is closed.
    """
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))  # ENXIO without one
    except OSError:
        return False
    return True


def ignore(number: int, frame: Any) -> None:
    """Handle a signal by doing nothing; unlike ``SIG_IGN`` it is not inherited by programs."""


def deadly() -> Any:
    """The handler of a signal that is to end the program at once.

    The kernel's, which needs no cooperation; but it spares the first process of a container.
    """
    return signal.SIG_DFL if os.getpid() != 1 else lambda number, frame: os._exit(128 + number)


def end_hurried(number: int) -> None:
    """Have the process end soon after its second signal, whatever hangs.

    May be called in a signal's handler.
    """
    _end_after(LAST_SECONDS, 128 + number)


def end_soon(status: int) -> None:
    """Have the process end soon, as its reactor has, whatever hangs.

    From here on a SIGHUP or another signal that does nothing cannot change the exit status: Python
    gives signals with handlers of its own back to the kernel before it ends, which would kill.
    """
    for number in (signal.SIGHUP, *OTHER_SIGNALS):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_IGN)
    _end_after(EXIT_SECONDS, status)


def _end_after(seconds: float, status: int) -> None:
    def end() -> None:
        time.sleep(seconds)
        os._exit(status)

    # Not by threading, whose lock the code that a signal has interrupted may hold.
    try:
        _thread.start_new_thread(end, ())
    except RuntimeError:  # the system gives us no more threads; the kernel ends us then
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def end_beside_threads(status: Callable[[], int]) -> None:
    """Have the process end without Python's own last steps if a thread still hangs then.

    Python 3.10 crashes in these (SIGSEGV, 7 times in 60) if threads wait in a ``getaddrinfo``.
    Handlers of ``atexit`` that are registered later run nevertheless.

    :param status: returns the exit status.
    """

    def end() -> None:
        own = threading.current_thread()
        if any(each.daemon and each is not own for each in threading.enumerate()):
            flush_streams()
            os._exit(status())

    atexit.register(end)


class _PoolThread(threading.Thread):
    """A thread that no one waits for: neither Python's end nor the pool, when the reactor stops."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, daemon=True, **kwargs)

    def join(self, timeout: float | None = None) -> None:
        super().join(JOIN_SECONDS if timeout is None else timeout)


def abandon_pool_threads(reactor: Any) -> None:
    """Have the threads of a reactor's pool not delay its end: a ``getaddrinfo`` may hang in one.

    :param reactor: one that does not run yet.
    """
    reactor.getThreadPool().threadFactory = _PoolThread


def _handle(numbers: Iterable[int], handler: Any) -> None:
    for number in numbers:
        signal.signal(number, handler)


def _write_line(text: str) -> None:
    """Write a line to standard error; from a signal's handler, so not through a stream."""
    try:
        os.write(2, f"monconn: {text}\n".encode())
    except OSError:
        pass


def flush_streams() -> None:
    """Flush Python's standard streams, which would be done later, where it could not be bounded."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):  # there is none, or its reader has gone
            pass
