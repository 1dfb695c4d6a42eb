"""The benchmark: its arithmetic and its loads. A failed run must not give a figure."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from benchmarks import processes, report
from benchmarks.contestants import BY_NAME, CONTESTANTS, Contestant, make_certificate, missing
from benchmarks.measure import (
    LOADS_BY_NAME,
    UNLIMITED,
    check_lines,
    cost,
    run_load,
    speed,
    timed,
)
from benchmarks.plot import Panel, draw, number_text
from benchmarks.results import Results, Sample, Summary, difference, highest, ratio, summary
from benchmarks.run import rotated
from benchmarks.servers import (
    BenchmarkError,
    LoadProcess,
    Server,
    StartError,
    first_byte,
    free_port,
)
from benchmarks.targets import TARGETS, Target
from tests import ROOT

CONDITIONS = report.Conditions(
    machine={"processors": "2"},
    versions={"monconn": "0.1.0"},
    rounds=3,
    seconds=0.5,
    others_cpus=0.0,
    absent={"socat": "socat is not installed"},
)


def results_of(load: str, metric: str, **values: list[float]) -> Results:
    """Results with one figure per round and contestant; ``_`` in a name stands for ``-``."""
    return Results(
        [
            Sample(number, name.replace("_", "-"), load, {metric: value})
            for name, each in values.items()
            for number, value in enumerate(each)
        ]
    )


# -- arithmetic


def test_summary_is_median_and_range() -> None:
    assert summary([3.0, 1.0, 9.0]) == Summary(3.0, 1.0, 9.0)


def test_summary_of_nothing_is_none() -> None:
    assert summary([]) is None


def test_ratio_is_taken_within_each_round() -> None:
    assert ratio({0: 2.0, 1: 30.0}, {0: 1.0, 1: 10.0}) == {0: 2.0, 1: 3.0}


def test_ratio_leaves_out_rounds_that_one_side_lacks() -> None:
    assert ratio({0: 2.0, 1: 3.0, 2: 4.0}, {1: 1.0, 2: 0.0}) == {1: 3.0}


def test_difference_leaves_out_rounds_that_one_side_lacks() -> None:
    assert difference({0: 5.0, 1: 7.0}, {1: 4.0}) == {1: 3.0}


def test_highest_is_taken_within_each_round() -> None:
    assert highest([{0: 1.0, 1: 5.0}, {0: 2.0}]) == {0: 2.0, 1: 5.0}


def test_best_is_the_cheapest_setting_of_one_forwarder() -> None:
    results = results_of("bulk-1", "cpu_s_per_gb", haproxy=[0.9], haproxy_splice=[0.4], nginx=[0.1])
    assert results.best("haproxy", "bulk-1", "cpu_s_per_gb") == "haproxy-splice"


def test_rotated_begins_elsewhere() -> None:
    assert rotated([1, 2, 3], 4) == [2, 3, 1]
    assert rotated([], 4) == []


def test_cost_and_speed_per_unit() -> None:
    bulk, messages = LOADS_BY_NAME["bulk-1"], LOADS_BY_NAME["messages-64"]
    assert cost(bulk, 2_000_000_000, 0.5) == {"cpu_s_per_gb": 0.25}
    assert cost(messages, 1000, 0.02) == pytest.approx({"cpu_us": 20.0})
    result = {"done": 1000, "seconds": 0.5, "p50_us": 7.0, "p99_us": 9.0}
    assert speed(messages, result) == {"per_s": 2000.0, "p50_us": 7.0, "p99_us": 9.0}


def test_nothing_done_is_a_failure() -> None:
    with pytest.raises(BenchmarkError):
        cost(LOADS_BY_NAME["connect"], 0, 0.5)


# -- targets and report


def target(what: str, unit: str) -> Target:
    (found,) = [each for each in TARGETS if each.what == what and each.unit == unit]
    return found


BULK_TARGET = target("bulk, nobody watching, 1 stream: processor time per GB", "× HAProxy's")


@pytest.mark.parametrize(
    ("monconn", "verdict"),
    [([0.2, 0.3, 0.1], "met"), ([0.3, 0.2, 0.3], "missed"), ([0.25] * 3, "met")],
)
def test_verdict_goes_by_the_median(monconn: list[float], verdict: str) -> None:
    results = results_of("bulk-1", "cpu_s_per_gb", monconn=monconn, haproxy=[1.0] * 3)
    assert BULK_TARGET.verdict(results) == verdict


def test_verdict_without_the_peer_is_not_met() -> None:
    results = results_of("bulk-1", "cpu_s_per_gb", monconn=[0.1])
    assert BULK_TARGET.verdict(results) == "not measured"


@pytest.mark.parametrize(("monconn", "verdict"), [(2.1, "met"), (1.9, "missed")])
def test_the_fastest_peer_sets_the_limit(monconn: float, verdict: str) -> None:
    results = results_of(
        "bulk-8", "gb_per_s", monconn=[monconn], haproxy=[1.0], nginx_256k=[2.0], direct=[9.0]
    )
    faster = target("bulk, nobody watching, 8 streams: GB/s", "× the fastest peer's")
    assert faster.verdict(results) == verdict


def test_tuned_haproxy_is_the_harder_peer() -> None:
    results = results_of(
        "bulk-1", "cpu_s_per_gb", monconn=[0.2], haproxy=[1.0], haproxy_splice=[0.4]
    )
    tuned = target(BULK_TARGET.what, "× tuned HAProxy's")
    assert (BULK_TARGET.verdict(results), tuned.verdict(results)) == ("met", "missed")


def test_added_latency_is_what_a_forwarder_adds() -> None:
    results = results_of("messages-1", "p50_us", direct=[20.0], haproxy=[50.0], monconn=[65.0])
    added = target("added latency, 1 connection, p50", "× HAProxy's")
    assert added.summary(results) == Summary(1.5, 1.5, 1.5)


def test_memory_of_fewer_than_5000_is_no_measure() -> None:
    figures = {"held_bytes": 1.0, "connections": 1500.0}
    results = Results([Sample(0, "monconn", "held", figures)])
    assert target("5,000 held connections: memory in all", "MiB").verdict(results) == "not measured"


def test_report_says_what_is_missed() -> None:
    missed = results_of("bulk-1", "cpu_s_per_gb", monconn=[0.5], haproxy=[1.0])
    text = report.results_text(missed, CONDITIONS)
    assert "\n## Targets\n" in text
    (row,) = [line for line in text.splitlines() if "0.25 × HAProxy's" in line and "1 st" in line]
    assert "**missed**" in row
    assert "0.50" in row
    assert "missed" in report.terminal_text(missed)


def test_report_says_what_is_met() -> None:
    met = results_of("bulk-1", "cpu_s_per_gb", monconn=[0.2], haproxy=[1.0])
    text = report.results_text(met, CONDITIONS)
    (row,) = [line for line in text.splitlines() if "0.25 × HAProxy's" in line and "1 st" in line]
    assert "missed" not in row
    assert re.search(r"\| met +\|$", row)


def test_report_lists_failures_and_missing_contestants() -> None:
    results = results_of("bulk-1", "cpu_s_per_gb", monconn=[0.2])
    results.failures.append("nginx, bulk-1, round 2: bytes are not the server's")
    text = report.results_text(results, CONDITIONS)
    assert "nginx, bulk-1, round 2: bytes are not the server's" in text
    assert "socat is not installed" in text


def test_report_warns_of_a_busy_machine() -> None:
    busy = attrs.evolve(CONDITIONS, others_cpus=0.9)
    results = results_of("bulk-1", "cpu_s_per_gb", monconn=[0.2])
    assert "too many" in report.results_text(results, busy)
    assert "too many" not in report.results_text(results, CONDITIONS)


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda contestant: contestant.name)
def test_settings_are_written_down_without_this_machines_paths(contestant: Contestant) -> None:
    text = report.settings_text(contestant)
    assert {"PORT", "BACKEND"} <= set(re.findall(r"[A-Z]+", text))
    assert not re.search(r"/(usr|home|root|tmp|var|opt|work)\b", text)


def test_spread_is_printed_if_there_is_any() -> None:
    assert report.spread_text(Summary(0.171, 0.163, 0.2)) == "0.17 (0.16–0.20)"
    assert report.spread_text(Summary(14.0, 14.0, 14.0)) == "14.0"
    assert report.spread_text(None) == "–"
    assert number_text(12_345.6) == "12,346"


def test_plot_has_a_bar_for_each_and_cuts_off_the_longest() -> None:
    bars = [("monconn", Summary(1.0, 0.9, 1.2)), ("a & b", Summary(100.0, 90.0, 120.0))]
    root = ElementTree.fromstring(draw([Panel("cost", bars), Panel("empty", [])]))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["cost", "monconn", "1.00", "a & b", "100 (cut off)"]
    widths = [float(each.attrib["width"]) for each in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert widths[1] == pytest.approx(widths[2] / 10)


# -- processes

BUSY_CHILD = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import sys, time
while time.process_time() < 0.3: pass
print("done", flush=True)
sys.stdin.read()
'''], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
for line in sys.stdin:
    child.stdin.close()
    child.wait()
    print("waited", flush=True)
"""


@pytest.fixture
def parent() -> Iterator[subprocess.Popen[str]]:
    """A process whose child has used 0.3 s of processor time, and lives until it is stopped."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY_CHILD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        processes.stop(process)


def test_children_count_while_they_live_and_afterwards(parent: subprocess.Popen[str]) -> None:
    assert parent.stdin is not None
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert processes.family(parent.pid) == [parent.pid, child]
    alive = processes.cpu_seconds(parent.pid)
    assert alive >= 0.3
    parent.stdin.write("end it\n")
    parent.stdin.flush()
    parent.stdout.readline()
    assert processes.family(parent.pid) == [parent.pid]
    assert processes.cpu_seconds(parent.pid) >= alive - 0.02  # that of the ended counts in ticks


def test_bytes_in_pipes_are_found() -> None:
    before = processes.pipe_bytes(os.getpid())
    read_end, write_end = os.pipe()
    try:
        os.write(write_end, b"x" * 1000)
        assert processes.pipe_bytes(os.getpid()) == before + 1000
    finally:
        os.close(read_end)
        os.close(write_end)


def test_pinning_to_one_processor_is_temporary(parent: subprocess.Popen[str]) -> None:
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    allowed = os.sched_getaffinity(child)
    with processes.on_one_processor([parent.pid]):
        assert os.sched_getaffinity(parent.pid) == os.sched_getaffinity(child) == {max(allowed)}
    assert os.sched_getaffinity(parent.pid) == os.sched_getaffinity(child) == allowed


def test_stop_kills_what_does_not_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.1)
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{stubborn}; signal.pause()"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        processes.stop(process)
        assert process.returncode == -signal.SIGKILL
        processes.stop(process)


# -- the load generator


@pytest.fixture
def direct(load_program: Path, tmp_path: Path) -> Iterator[Server]:
    """A backend without a forwarder."""
    with Server(None, tmp_path / "direct", load_program, tmp_path, 10) as server:
        yield server


def test_messages_come_back(direct: Server) -> None:
    with direct.load("messages", 5, 2, 0.05) as load:
        assert load.opened["done"] == 5
        first, second = load.run(), load.run()
    assert first["done"] >= 2
    assert second["done"] >= 2
    assert 0 < first["p50_us"] <= first["p99_us"]


def test_connections_are_counted_to_the_last(direct: Server) -> None:
    with direct.load("connect", 8, 100, 10) as load:
        assert load.run()["done"] == 100


@pytest.mark.parametrize("streams", [1, 3])
def test_every_byte_arrives(direct: Server, streams: int) -> None:
    with direct.load("bulk", streams, 40_000_003, 10) as load:
        assert load.run()["done"] == 40_000_003
        assert load.run()["done"] == 40_000_003


def test_a_run_ends_in_time(direct: Server) -> None:
    with direct.load("bulk", 2, UNLIMITED, 0.05) as load:
        assert 0.05 <= load.run()["seconds"] < 5


def test_without_a_forwarder_there_is_speed_but_no_cost(direct: Server) -> None:
    assert set(run_load(direct, LOADS_BY_NAME["bulk-1"], 0.05)) == {"gb_per_s"}


def command(load_program: Path, mode: str, port: int, count: int = 100) -> list[str]:
    return [str(load_program), mode, str(port), "2", str(count), "0.2"]


@pytest.mark.parametrize("mode", ["connect", "messages", "bulk"])
def test_a_refused_connection_is_a_failure(load_program: Path, mode: str) -> None:
    with (
        pytest.raises(BenchmarkError, match="refused"),
        LoadProcess(command(load_program, mode, free_port())) as load,
    ):
        load.run()


@contextmanager
def bad_backend(answer: Callable[[bytes], bytes]) -> Iterator[int]:
    """Answers each message with a given answer; an empty one closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve(client: socket.socket) -> None:
            with client:
                while message := client.recv(64, socket.MSG_WAITALL):
                    data = answer(message)
                    if not data:
                        return
                    client.sendall(data)

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_quietly, args=(serve, client), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _quietly(serve: Callable[[socket.socket], None], client: socket.socket) -> None:
    try:
        serve(client)
    except OSError:
        pass  # the load has gone


@pytest.mark.parametrize("mode", ["connect", "messages", "bulk"])
def test_an_early_end_is_a_failure(load_program: Path, mode: str) -> None:
    with (
        bad_backend(lambda message: b"") as port,
        pytest.raises(BenchmarkError, match="closed"),
        LoadProcess(command(load_program, mode, port)) as load,
    ):
        load.run()


@pytest.mark.parametrize("mode", ["connect", "messages"])
def test_a_wrong_answer_is_a_failure(load_program: Path, mode: str) -> None:
    with (
        bad_backend(lambda message: b"x" * 64) as port,
        pytest.raises(BenchmarkError, match="not what was sent"),
        LoadProcess(command(load_program, mode, port)) as load,
    ):
        load.run()


def test_wrong_bytes_are_a_failure(load_program: Path) -> None:
    def answer(message: bytes) -> bytes:
        return message if message[:1] == b"E" else b"\x07" * 1000

    with (
        bad_backend(answer) as port,
        LoadProcess(command(load_program, "bulk", port, count=2000)) as load,
        pytest.raises(BenchmarkError, match="not the server's"),
    ):
        load.run()


def test_missing_bytes_are_a_failure(load_program: Path) -> None:
    def answer(message: bytes) -> bytes:
        return message if message[:1] == b"E" else b""

    with (
        bad_backend(answer) as port,
        LoadProcess(command(load_program, "bulk", port)) as load,
        pytest.raises(BenchmarkError, match="closed"),
    ):
        load.run()


# -- a forwarder before it


def test_a_forwarder_costs_something(load_program: Path, tmp_path: Path) -> None:
    contestant = BY_NAME["monconn"]
    with Server(contestant, tmp_path / "monconn", load_program, tmp_path, 10) as server:
        figures = run_load(server, LOADS_BY_NAME["messages-64"], 0.1)
        pid = server.pid
    assert 0 < server.startup_seconds < 20
    assert figures["cpu_us"] > 0
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("name", ["monconn-all", "haproxy-log"])
def test_what_is_logged_is_counted(load_program: Path, tmp_path: Path, name: str) -> None:
    contestant = attrs.evolve(BY_NAME[name], settle_seconds=0.3)
    if missing(contestant):
        pytest.skip(missing(contestant))
    short = Path(tempfile.mkdtemp(dir="/tmp"))  # a UNIX socket's path has 107 characters at most
    try:
        with Server(contestant, short / "forwarder", load_program, tmp_path, 10) as server:
            # Few, as the queue of a datagram socket may have room for 10 only.
            with server.load("connect", 2, 8, 10) as load:
                figures = timed(server, load, LOADS_BY_NAME["connect"])
            assert server.lines() == 8 + 1  # one was made to see that it runs
    finally:
        shutil.rmtree(short)
    assert figures["cpu_us"] > 0


def test_memory_in_use_is_part_of_what_is_resident(load_program: Path, tmp_path: Path) -> None:
    contestant = BY_NAME["monconn-in-use"]
    if missing(contestant):
        pytest.skip(missing(contestant))
    with Server(contestant, tmp_path / "monconn", load_program, tmp_path, 10) as server:
        before = server.bytes_in_use()
        with server.load("messages", 50, 50, 0):
            during = server.bytes_in_use()
        assert 0 < before < during < processes.rss_bytes(server.pid)


def test_a_log_that_loses_lines_is_a_failure() -> None:
    json_log, syslog = BY_NAME["monconn-json"], BY_NAME["haproxy-log"]
    check_lines(json_log, 100, 100)
    check_lines(syslog, 80, 100)
    for contestant, lines in ((json_log, 99), (syslog, 79)):
        with pytest.raises(BenchmarkError, match=f"{lines} lines of 100 connections"):
            check_lines(contestant, lines, 100)


def test_a_forwarder_that_does_not_start_says_why(load_program: Path, tmp_path: Path) -> None:
    broken = attrs.evolve(
        BY_NAME["monconn"], command=lambda place: ["python", "-c", "raise SystemExit('no way')"]
    )
    server = Server(broken, tmp_path / "broken", load_program, tmp_path, 10)
    with pytest.raises(StartError, match="no way"), server:
        pass
    assert not server.is_running()


def test_the_watched_data_path_is_watched(load_program: Path, direct: Server) -> None:
    port = free_port()
    pair = f"127.0.0.1:{port}=127.0.0.1:{direct._port}"
    with subprocess.Popen(
        [sys.executable, str(ROOT / "benchmarks" / "watched.py"), pair],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()  # it listens
            assert first_byte(port, is_tls=False)
            with LoadProcess(command(load_program, "bulk", port, count=1_000_000)) as load:
                load.run()
        finally:
            process.terminate()
        watched = re.search(r"watched (\d+) bytes", process.stdout.read())
    assert watched is not None
    assert int(watched[1]) > 1_000_000


@pytest.mark.parametrize("mode", ["bulk", "connect", "held"])
def test_tls_loads(load_program: Path, tmp_path: Path, mode: str) -> None:
    make_certificate(tmp_path)
    contestant = BY_NAME["monconn-tls"]
    with (
        Server(contestant, tmp_path / "monconn", load_program, tmp_path, 10) as server,
        server.load(mode, 2, 10, 10) as load,  # until there are ten
    ):
        assert load.run()["done"] > 0
