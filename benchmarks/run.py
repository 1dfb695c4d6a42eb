"""``python benchmarks/run.py``: measures all contestants in rounds, and writes the results."""

from __future__ import annotations

import argparse
import os
import platform
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import attrs

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).parent.parent)

from benchmarks import contestants, measure, processes, report
from benchmarks.contestants import CONTESTANTS, PLAIN, TLS, Contestant
from benchmarks.measure import LOADS, LOADS_BY_NAME
from benchmarks.results import Results, Sample
from benchmarks.servers import BenchmarkError, Server, StartError, compile_load
from benchmarks.targets import HELD

T = TypeVar("T")

HERE = Path(__file__).parent
NOT_LOADS = ("held", "tls-held", "stalled", "startup")
SPARE_DESCRIPTORS = 1000


@attrs.frozen
class Plan:
    """How much to measure."""

    rounds: int
    seconds: float
    """The duration of each measurement."""
    budget_seconds: float
    """When this has passed, the run is stopped, and the results so far are reported."""
    stalled: int
    tls_held: int
    held_rounds: int
    held_by_peers: bool
    starts: int


FULL = Plan(5, 0.8, 560.0, 1000, 1000, 3, True, 5)
QUICK = Plan(2, 0.3, 100.0, 200, 200, 1, False, 2)


class TimeUp(Exception):
    """The time of the plan has passed."""


class Bench:
    """One benchmark run.

    :param plan: how much to measure.
    :param taking_part: whom to measure.
    :param loads: the names of the loads.
    :param folder: for temporary files.
    """

    def __init__(
        self, plan: Plan, taking_part: list[Contestant], loads: list[str], folder: Path
    ) -> None:
        self.results = Results()
        self.rounds_done = 0
        self._plan = plan
        self._contestants = taking_part
        self._loads = loads
        self._folder = folder
        self._held = held_connections()
        self._load_program = compile_load(folder)
        self._servers: dict[str, Server] = {}
        self._starts = 0
        self._began = time.monotonic()
        contestants.make_certificate(folder)

    def run(self) -> None:
        """Measure until everything is done or the time is up."""
        self._startups()
        self._memory()
        try:
            self._rounds()
        finally:
            for server in self._servers.values():
                server.terminate()
            for server in self._servers.values():
                server.stop()

    # -- loads, all contestants in turn

    def _rounds(self) -> None:
        loads = [load for load in LOADS if load.name in self._loads]
        if not loads:
            return
        longest = 0.0
        for number in range(self._plan.rounds):
            since = time.monotonic()
            if since + longest > self._began + self._plan.budget_seconds:
                say(f"no time for more than {number} rounds")
                return
            self._start_all()
            for turn, load in enumerate(loads):
                self._progress(f"round {number + 1} of {self._plan.rounds}: {load.title}")
                for server in rotated(self._taking(load.name), number + turn):
                    with self._reporting_failure(
                        server.contestant, f"{load.name}, round {number + 1}"
                    ):
                        figures = measure.run_load(server, load, self._plan.seconds)
                        self._add(number, server.name, load.name, figures)
            self.rounds_done += 1
            longest = max(longest, time.monotonic() - since)

    def _start_all(self) -> None:
        """Start the contestants that do not run: all at first, later those that have crashed."""
        loaded = [contestant for contestant in self._contestants if contestant.loads]
        for contestant in [None, *loaded] if self._wants_direct() else loaded:
            server = self._server(contestant)
            before = self._servers.get(server.name)
            if before is not None:
                if before.is_running():
                    continue
                before.stop()
            self._progress(f"starting {report.title_of(server.name)}")
            self._servers[server.name] = server
            with self._reporting_failure(contestant, "start"):
                server.start()
                measure.warm_up(server)

    def _wants_direct(self) -> bool:
        return any(load in PLAIN for load in self._loads)

    def _taking(self, load: str) -> list[Server]:
        return [
            server
            for server in self._servers.values()
            if load in (server.contestant.loads if server.contestant else PLAIN)
            and server.is_running()
        ]

    # -- measurements that need a new process

    def _startups(self) -> None:
        """Measure start-up. The first start does not count: it fills caches and compiles Python."""
        if "startup" not in self._loads:
            return
        for number in range(-1, self._plan.starts):
            for contestant in self._contestants:
                if contestant.loads != PLAIN:
                    continue
                self._progress(f"starting {contestant.title}")
                with (
                    self._reporting_failure(contestant, "startup"),
                    self._server(contestant) as server,
                ):
                    if number >= 0:
                        figures = {"seconds": server.startup_seconds}
                        self._add(number, contestant.name, "startup", figures)

    def _memory(self) -> None:
        for number in range(self._plan.held_rounds):
            for contestant in self._contestants:
                is_wanted = self._plan.held_by_peers or not contestant.peer
                if contestant.says_memory_in_use:  # by the byte: it does not vary
                    is_wanted = number == 0
                if contestant.loads == TLS or (contestant.holds and is_wanted):
                    self._memory_of(contestant, number)

    def _memory_of(self, contestant: Contestant, number: int) -> None:
        runs: dict[str, Callable[[Server], dict[str, float]]] = {
            "held": lambda server: measure.run_held(server, self._held, self._plan.seconds),
            "stalled": lambda server: measure.run_stalled(server, self._plan.stalled),
        }
        if contestant.says_memory_in_use:
            del runs["stalled"]
        if contestant.loads == TLS:
            held = min(self._plan.tls_held, self._held)
            runs = {"tls-held": lambda server: measure.run_tls_held(server, held)}
        for name, run in runs.items():
            if name not in self._loads:
                continue
            self._progress(f"memory of {contestant.title}, {name}")
            with self._reporting_failure(contestant, name), self._server(contestant) as server:
                self._add(number, contestant.name, name, run(server))

    # -- the rest

    def _server(self, contestant: Contestant | None) -> Server:
        self._starts += 1
        folder = self._folder / str(self._starts)
        return Server(contestant, folder, self._load_program, self._folder, self._held)

    def _add(self, number: int, contestant: str, load: str, figures: dict[str, float]) -> None:
        self.results.samples.append(Sample(number, contestant, load, figures))

    @contextmanager
    def _reporting_failure(self, contestant: Contestant | None, what: str) -> Iterator[None]:
        """Do one run; if it fails, say so, and continue with the others.

        A contestant that did not start is left out: there is no time to wait for it again.
        """
        try:
            yield
        except BenchmarkError as error:
            text = f"{contestant.name if contestant else 'direct'}, {what}: {error}"
            say(text)
            self.results.failures.append(text)
            if isinstance(error, StartError):
                self._contestants = [each for each in self._contestants if each != contestant]

    def _progress(self, text: str) -> None:
        say(f"{time.monotonic() - self._began:4.0f} s  {text}")


def say(text: str) -> None:
    print(text, flush=True)


def rotated(items: list[T], by: int) -> list[T]:
    """The same order, starting elsewhere."""
    by %= len(items) or 1
    return items[by:] + items[:by]


def held_connections() -> int:
    """The number of idle connections: as many as wanted, or as the descriptor limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    possible = (hard - SPARE_DESCRIPTORS) // 2
    if possible < HELD:
        say(f"only {possible} connections can be held here: ulimit -Hn is {hard}")
    return min(HELD, possible)


def machine() -> dict[str, str]:
    """The machine's processor, kernel and so on, without its name."""
    kernel = re.match(r"[\d.]+", platform.release())
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "processors": f"{len(os.sched_getaffinity(0))} × {model[1] if model else 'unknown'}",
        "kernel": f"{platform.system()} {kernel[0] if kernel else ''}",
        "date": time.strftime("%Y-%m-%d"),
    }


def _time_is_up(*_: object) -> None:
    raise TimeUp


def _end(signal_number: int, _: object) -> None:
    raise SystemExit(128 + signal_number)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="in less than two minutes")
    parser.add_argument("--rounds", type=int, help="how many rounds")
    names = [contestant.name for contestant in CONTESTANTS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", default=names)
    loads = [*LOADS_BY_NAME, *NOT_LOADS]
    parser.add_argument("--load", nargs="+", choices=loads, metavar="NAME", default=loads)
    parser.add_argument(
        "--output",
        type=Path,
        help="the folder for RESULTS.md; left out, a run of everything writes beside this file",
    )
    arguments = parser.parse_args()
    is_whole = arguments.only is names and arguments.load is loads and not arguments.quick
    if arguments.output is None and is_whole:
        arguments.output = HERE
    return arguments


def main() -> int:
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    if arguments.rounds is not None:
        plan = attrs.evolve(plan, rounds=arguments.rounds)
    chosen = [each for each in CONTESTANTS if each.name in arguments.only]
    absent = {each.title: contestants.missing(each) for each in chosen}
    absent = {title: why for title, why in absent.items() if why}
    for title, why in absent.items():
        say(f"without {title}: {why}")
    taking_part = [each for each in chosen if each.title not in absent]

    signal.signal(signal.SIGALRM, _time_is_up)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    since, busy, own = time.monotonic(), processes.busy_seconds(), _own_seconds()
    with tempfile.TemporaryDirectory(prefix="monconn-bench-") as folder:
        os.chmod(folder, 0o755)  # nginx's worker is nobody when root starts it
        try:
            bench = Bench(plan, taking_part, arguments.load, Path(folder))
        except BenchmarkError as error:
            say(str(error))
            return 1
        signal.alarm(int(plan.budget_seconds))
        try:
            bench.run()
        except KeyboardInterrupt:
            return 130
        except TimeUp:
            bench.results.failures.append("the time was up before everything was measured")
        signal.alarm(0)
    taken = time.monotonic() - since
    others = processes.busy_seconds() - busy - (_own_seconds() - own)
    conditions = report.Conditions(
        machine(),
        contestants.versions(),
        bench.rounds_done,
        plan.seconds,
        max(others, 0.0) / taken,
        absent,
    )
    say("\n" + report.terminal_text(bench.results))
    say(f"other programs kept {conditions.others_cpus:.2f} processors busy; {taken:.0f} s in all")
    if arguments.output:
        write(arguments.output, bench.results, conditions)
    return 1 if bench.results.failures else 0


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def write(folder: Path, results: Results, conditions: report.Conditions) -> None:
    """Write the results and their plot; the folder is made if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "RESULTS.md").write_text(report.results_text(results, conditions), encoding="utf-8")
    (folder / report.PLOT).write_text(report.plot_text(results), encoding="utf-8")
    say(f"written: {folder / 'RESULTS.md'}")


if __name__ == "__main__":
    sys.exit(main())
