"""The soak, for a few seconds: its loads run, and all that is said of them agrees."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from soak.audit import Figures, audit, in_log, lost_by_kill, snapshot
from soak.isolation import HEADER, LEGEND, Isolation, Outcome
from soak.loads import Mixed
from soak.process import Monconn, Place
from soak.run import Report, done_in_words, drift, place_for
from soak.under_test import count_pipes
from tests import ROOT


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, load_program: Path
) -> Iterator[tuple[Place, Path]]:
    """Backends, and where the load generator is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with place_for(tmp_path_factory.mktemp("soak"), load_program) as made:
            yield made, load_program


def test_a_mixed_load_a_kill_and_a_restart(place: tuple[Place, Path]) -> None:
    """All sources agree on a load, and a kill costs its last moments only."""
    monconn = Monconn(place[0])
    try:
        before = snapshot(place[0])
        load = Mixed(monconn, place[1], seed=1)
        load.run(3)
        assert load.faults == []
        for name in ("churned", "messages", "bulk_bytes", "tls_connections", "scrapes", "listings"):
            assert load.counts[name], name
        monconn.quiet_figures()
        assert audit(place[0], before, load.counts["churned"]) == []
        assert audit(place[0], before, load.counts["churned"] + 1) != []
        killed = Mixed(monconn, place[1], seed=2)
        killed.run(2, killed=True)
        assert lost_by_kill(place[0], killed.killed_at) == []
        monconn = Monconn(place[0])
        assert monconn.stop() == 0
    finally:
        monconn.process.kill()
        monconn.process.wait()


def test_attacks(place: tuple[Place, Path]) -> None:
    """Each is carried out; how long turns take is not judged here."""
    monconn = Monconn(place[0])
    try:
        outcomes = list(Isolation(monconn, place[1], scale=0.01, seconds=0.5).outcomes())
        assert len(outcomes) > 10
        for outcome in outcomes:
            assert [each for each in outcome.faults if "a turn took" not in each] == []
            assert outcome.wall_seconds > 0
    finally:
        assert monconn.stop() == 0


def test_figures_of_a_log(tmp_path: Path) -> None:
    """Closed connections are summed up by service."""
    log = tmp_path / "log"
    log.write_text(
        '{"event":"opened","service":"a"}\n'
        '{"event":"closed","service":"a","up":1,"down":2}\n'
        '{"event":"closed","service":"a","up":10,"down":20}\n'
        '{"event":"closed","service":"b","up":5,"down":6}\n'
    )
    assert in_log(log) == {"a": Figures(2, 11, 22), "b": Figures(1, 5, 6)}
    assert Figures(2, 11, 22).since(Figures(1, 1, 2)) == Figures(1, 10, 20)


def test_make_soak_is_there() -> None:
    """The target runs the program, which explains itself."""
    done = subprocess.run(
        ["make", "soak", "ARGS=--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "--seconds" in done.stdout, done.stderr


def test_what_it_prints_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line has 80 characters at most; figures of a short load are not blown up."""
    report = Report()
    counts: Counter[str] = Counter(churned=10**7, bulk_bytes=10**12, chaos_reset=10**6)
    report.say(done_in_words(counts))
    names = ("resident bytes", "memory blocks", "descriptors", "timers")
    start = dict.fromkeys(names, 0)
    report.say(drift(start, start | {"resident bytes": 4 << 20}, 5000))
    report.check(["monconn does not start:\nmonconn: why"], "")
    report.say(LEGEND)
    report.row(HEADER)
    report.row(str(Outcome("name", 0.0123, 0.1, 1.0, 1 << 30, [])))
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    assert "resident bytes +4.0 MiB (+800)" in " ".join(printed.split())
    assert "\n          monconn: why\n" in printed
    assert len(HEADER) == len(str(Outcome("name", 0.0123, 0.1, 1.0, 1 << 30, [])))


def test_an_interrupted_run_ends_with_one_line() -> None:
    command = [sys.executable, str(ROOT / "soak" / "run.py"), "--part", "isolation"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "attacks; in ms" in line:  # monconn and all backends are up
                process.send_signal(signal.SIGINT)
                break
        rest = process.stdout.read()
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert rest.endswith("  interrupted\n")


def test_ends_of_pipes_are_counted_apart() -> None:
    """The relay retains pipes, more or fewer of them: they are no leak of descriptors."""
    before = count_pipes()
    reader, writer = os.pipe()
    try:
        assert count_pipes() == before + 2
    finally:
        os.close(reader)
        os.close(writer)
    assert count_pipes() == before
