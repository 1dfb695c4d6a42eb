"""``make soak``: a mixed load, a kill amid it, and whether everything comes back."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).parent.parent)

from benchmarks.contestants import make_certificate
from benchmarks.servers import BenchmarkError, compile_load
from soak.audit import audit, in_totals, lost_by_kill, snapshot
from soak.isolation import HEADER, LEGEND, Isolation
from soak.loads import ROOT, Mixed
from soak.process import Backends, Monconn, Place, SoakError

SECONDS = 120.0
ISOLATION_SECONDS = 50.0
"""What the attacks take of it."""
WARM_UP_SECONDS = 8.0
ROUND_SECONDS = 30.0
ALLOWED_GROWTH = 1.1
"""Resident memory after a load, divided by that before."""
LINE_CHARACTERS = 80
RETAINED_PIPE_ENDS = 32
"""Of 16 pipes that the relay retains for splicing, as many as were needed at once."""
MUST_COME_BACK = ("timers", "threads", "readers", "relay sockets", "descriptors")


class Report:
    """Prints what was found, and remembers whether anything was wrong."""

    def __init__(self) -> None:
        self.faults = 0
        self._since = time.monotonic()

    def say(self, text: str) -> None:
        now = f"{time.monotonic() - self._since:6.1f} s  "
        wrapper = textwrap.TextWrapper(
            LINE_CHARACTERS - len(now), break_long_words=False, break_on_hyphens=False
        )
        lines = [line for each in text.splitlines() for line in wrapper.wrap(each)]
        print(now + f"\n{' ' * len(now)}".join(lines), flush=True)

    def row(self, text: str) -> None:
        """Print a row of a table."""
        print(text, flush=True)

    def check(self, faults: list[str], right: str) -> None:
        """Print the faults, or what is right."""
        for fault in faults[:20]:
            self.say(f"FAULT {fault}")
        if len(faults) > 20:
            self.say(f"FAULT … and {len(faults) - 20} more")
        if right and not faults:
            self.say(f"ok    {right}")
        self.faults += len(faults)


@contextlib.contextmanager
def started(*command: str) -> Iterator[int]:
    """Run a backend; gives its port."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        try:
            assert process.stdout is not None
            yield int(json.loads(process.stdout.readline())["port"])
        finally:
            process.kill()


@contextlib.contextmanager
def place_for(folder: Path, load_program: Path) -> Iterator[Place]:
    """Start all backends; gives the place for monconn."""
    python = (sys.executable, "-m", "soak.peers")
    path = str(folder / "full_queue.sock")
    with (
        started(str(load_program), "serve") as checked,
        started(*python, "behave") as behaving,
        started(*python, "acknowledge") as devices,
        started(*python, "deaf") as deaf,
        socket.socket(socket.AF_UNIX) as full,
        socket.socket(socket.AF_UNIX) as first,
    ):
        full.bind(path)
        full.listen(0)
        first.connect(path)  # the queue of a backlog of 0 has room for one
        make_certificate(folder)
        _make_keys(folder)
        yield Place(folder, Backends(checked, behaving, devices, deaf, path))


def _make_keys(folder: Path) -> None:
    """The key of an operator, for the manhole."""
    key = folder / "operator_key"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    shutil.copy(f"{key}.pub", folder / "authorized_keys")


class Soak:
    """One run.

    :param place: for monconn.
    :param load_program: what ``compile_load`` made.
    :param seed: of what is random.
    :param report: takes what is found.
    """

    def __init__(self, place: Place, load_program: Path, seed: int, report: Report) -> None:
        self._place = place
        self._load = load_program
        self._rng = random.Random(seed)
        self._report = report

    def run(self, seconds: float) -> None:
        """Load, kill, and load again until the time has passed; then everything must be back."""
        ends = time.monotonic() + seconds
        monconn = Monconn(self._place)
        try:
            killed_at = self._kill(monconn)
            monconn = Monconn(self._place)
            self._report.check(lost_by_kill(self._place, killed_at), "restarted after kill -9")
            self._mixed(monconn, WARM_UP_SECONDS)
            start, opened = monconn.quiet_figures(), self._opened()
            while True:
                self._mixed(monconn, min(ROUND_SECONDS, max(ends - time.monotonic(), 1)))
                now = monconn.quiet_figures()
                self._compare(start, now, self._opened() - opened)
                if time.monotonic() > ends:
                    break
            self._stop(monconn)
        finally:
            if monconn.process.poll() is None:
                monconn.kill()

    def isolate(self, scale: float) -> None:
        """Attack it in every way, and see how long others wait."""
        monconn = Monconn(self._place)
        try:
            self._report.say(LEGEND)
            self._report.row(HEADER)
            for outcome in Isolation(monconn, self._load, scale).outcomes():
                self._report.row(str(outcome))
                self._report.check(outcome.faults, "")
            monconn.quiet_figures()
            self._stop(monconn)
        finally:
            if monconn.process.poll() is None:
                monconn.kill()

    def _opened(self) -> int:
        return sum(each.connections for each in in_totals(self._place).values())

    def _kill(self, monconn: Monconn) -> float:
        """A load during which monconn is killed; returns when (wall-clock seconds)."""
        load = Mixed(monconn, self._load, self._rng.randrange(1 << 30))
        load.run(WARM_UP_SECONDS, killed=True)
        return load.killed_at

    def _mixed(self, monconn: Monconn, seconds: float) -> None:
        """A mixed load, and whether all that is said of it agrees."""
        monconn.quiet_figures()
        before = snapshot(self._place)
        load = Mixed(monconn, self._load, self._rng.randrange(1 << 30))
        load.run(seconds)
        monconn.quiet_figures()
        self._report.say(done_in_words(load.counts))
        self._report.check(load.faults, f"no client or watcher saw a fault in {seconds:.0f} s")
        churned = load.counts["churned"]
        self._report.check(
            audit(self._place, before, churned),
            "totals, log, history, metrics and clients agree to the byte",
        )

    def _compare(self, start: dict[str, int], now: dict[str, int], connections: int) -> None:
        """Whether what is in use has come back, and how it drifts."""
        faults = [
            f"{name}: {start[name]} before the load, {now[name]} after it"
            for name in MUST_COME_BACK
            if now[name] > start[name]
        ]
        pipe_ends = now["pipe ends"] - start["pipe ends"]
        if pipe_ends > RETAINED_PIPE_ENDS:
            faults.append(f"{pipe_ends} more ends of pipes, and {RETAINED_PIPE_ENDS} are retained")
        growth = now["resident bytes"] / start["resident bytes"]
        if growth > ALLOWED_GROWTH:
            faults.append(f"resident memory has grown {growth:.2f}-fold")
        self._report.check(faults, f"in use as before the load: {_in_words(now)}")
        self._report.say(drift(start, now, connections))

    def _stop(self, monconn: Monconn) -> None:
        status = monconn.stop()
        faults = [] if status == 0 else [f"exit status {status}"]
        text = monconn.log.read_text(errors="replace")
        faults += ["the log has a traceback"] * ("Traceback" in text)
        left = [each.name for each in self._place.folder.glob("*.sock")]
        faults += [f"left behind: {name}" for name in left if name == "control.sock"]
        self._report.check(faults, "SIGTERM: ended in order, no traceback, no socket left")


_ENDINGS = {"chaos_backend C": "backend closes", "chaos_backend R": "backend resets"}


def done_in_words(counts: Counter[str]) -> str:
    """What clients and watchers did in a mixed load."""
    ways = ", ".join(
        f"{count:,} {_ENDINGS.get(name, name.removeprefix('chaos_'))}"
        for name, count in sorted(counts.items())
        if name.startswith("chaos_") and name != "chaos_connections"
    )
    return (
        f"done: {counts['churned']:,} short connections; {counts['messages']:,} messages on"
        f" 200 open ones; {counts['bulk_bytes'] >> 20:,} MiB of bulk; {counts['stalled']:,}"
        f" clients that read nothing; {counts['tls_connections']:,} TLS connections,"
        f" {counts['tls_bytes'] >> 20:,} MiB over TLS; {counts['chaos_connections']:,} echoes"
        f" checked ({ways}); {counts['devices_connections']:,} connections of devices,"
        f" {counts['devices_messages']:,} messages; watched by {counts['scrapes']:,} scrapes,"
        f" {counts['listings']:,} lists, {counts['events']:,} events, {counts['tops']:,} tops"
    )


def drift(start: dict[str, int], now: dict[str, int], connections: int) -> str:
    """What has grown, and by how much that would be for a million connections."""
    per_million = 1e6 / max(connections, 1)
    parts = []
    for name, unit, text in (
        ("resident bytes", 1 << 20, " MiB"),
        ("memory blocks", 1000, " thousand"),
        ("descriptors", 1, ""),
        ("timers", 1, ""),
    ):
        grown = (now[name] - start[name]) / unit
        parts.append(f"{name} {grown:+,.1f}{text} ({grown * per_million:+,.0f})")
    return f"drift after {connections:,} connections (per million): {', '.join(parts)}"


def _in_words(figures: dict[str, int]) -> str:
    mib = figures["resident bytes"] / (1 << 20)
    counts = ", ".join(f"{figures[name]} {name}" for name in MUST_COME_BACK)
    return f"{mib:.1f} MiB, {counts}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make soak ARGS=", description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long (%(default)g)")
    parser.add_argument("--seed", type=int, default=None, help="repeat what is random in a run")
    parser.add_argument("--part", choices=("mixed", "isolation"), help="only one of the two")
    parser.add_argument("--scale", type=float, default=1.0, help="of the attacks' connections")
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else random.randrange(1 << 30)
    report = Report()
    parts = {
        None: f"a mixed load, with kill -9, then attacks: {arguments.seconds:g} s or a little more",
        "mixed": f"a mixed load, with kill -9: {arguments.seconds:g} s or a little more",
        "isolation": "attacks: a minute or so",
    }
    report.say(f"{parts[arguments.part]}; seed {seed}")
    load, processors = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > processors:
        # A turn takes more processor time, too, if others use the caches in between.
        report.say(
            f"note: other programs keep this machine busy (load {load:.1f} on {processors}"
            " processors): turns take longer, and limits may not hold"
        )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.environ["PYTHONPATH"] = str(ROOT)
    folder = Path(tempfile.mkdtemp(prefix="monconn-soak-"))
    is_over = False

    def interrupt(*_: object) -> None:
        report.say("interrupted")
        shutil.rmtree(folder, ignore_errors=True)
        os.killpg(0, signal.SIGKILL)  # at once: what sees another go first would say so

    signal.signal(signal.SIGINT, interrupt)
    try:
        load_program = compile_load(folder)
        with place_for(folder, load_program) as place:
            soak = Soak(place, load_program, seed, report)
            if arguments.part != "isolation":
                attacks = 0 if arguments.part == "mixed" else ISOLATION_SECONDS
                soak.run(arguments.seconds - attacks)
            if arguments.part != "mixed":
                soak.isolate(arguments.scale)
        is_over = True
    except (BenchmarkError, SoakError) as error:
        report.check([str(error)], "")
    finally:
        if is_over and not report.faults:
            shutil.rmtree(folder)
        else:
            report.say(f"logs and history are kept in {folder}")
    report.say(
        f"{report.faults} fault{'' if report.faults == 1 else 's'}" if report.faults else "all held"
    )
    return 1 if report.faults else 0


def in_own_group() -> int:
    """Run :func:`main` in a process group of its own, which a signal ends as a whole.

    Else Ctrl-C would reach monconn and each program of the load, and each would have a traceback.
    """
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        return main()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os.kill(pid, signal.SIGINT))
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(in_own_group())
