"""The file of what outlasts the program: what is in it, when it is written, and what is refused."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from unittest.mock import patch

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from monconn.addresses import TcpAddress
from monconn.config.config import Config, ServiceConfig, from_pairs, load, parse
from monconn.config.sections import StateConfig
from monconn.errors import ConfigError, FileError
from monconn.monitor.monitor import Monitor
from monconn.monitor.registry import Registry
from monconn.policy.policy import Policy
from monconn.run import state as state_module
from monconn.run import state_file
from monconn.run.application import Application
from monconn.run.check import check_start
from monconn.run.state import RETRY_SECONDS, STOP_SECONDS, StateService
from monconn.run.state_file import (
    Damaged,
    State,
    StoredBlock,
    StoredUnblock,
    check_state,
    decode,
    default_path,
    encode,
    path_of,
    write_state,
)
from tests.logged import logged_lines
from tests.properties import examples

NET = "10.0.0.0/8"
WALL = 1_700_000_000.0


class Run:
    """A run of the program: its clocks, its services, and the file that it keeps."""

    def __init__(self, path: Path, *, wall: float = WALL, monotonic: float = 50.0) -> None:
        self.clock = Clock()
        self.clock.rightNow = monotonic
        self.offset = wall - monotonic
        self.registry = Registry(self.clock)
        self.waiting: list[Callable[[], None]] | None = None
        self.service = StateService(
            StateConfig(str(path)), self.registry, self.clock, self._in_thread
        )

    def add(self, name: str, **settings: Any) -> Monitor:
        return self.registry.new(name, policy=Policy.of(**settings), clock=self.clock)

    def wall(self) -> float:
        return self.offset + self.clock.seconds()

    def _in_thread(
        self, work: Callable[[], object], done: Callable[[Exception | None], object]
    ) -> None:
        def run() -> None:
            try:
                work()
            except Exception as error:
                done(error)
            else:
                done(None)

        if self.waiting is None:
            run()
        else:
            self.waiting.append(run)

    def start(self) -> Run:
        with patch("time.time", self.wall):
            self.service.startService()
        return self

    def go(self, seconds: float = 5.0) -> None:
        with patch("time.time", self.wall):
            self.clock.pump([0.05] * int(seconds / 0.05))

    def stop(self) -> None:
        stopped: list[object] = []
        with patch("time.time", self.wall):
            self.service.stopService().addCallback(stopped.append)
            self.clock.pump([0.0] * 4)
        assert stopped == [None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def stored(path: Path) -> State:
    return decode(path.read_bytes())


def test_all_of_it_outlasts_a_restart(path: Path) -> None:
    first = Run(path)
    web = first.add("web", block=["192.0.2.0/24", "198.51.100.0/24"])
    first.start()
    with patch("time.time", first.wall):
        first.registry.block(NET, for_seconds=3600, reason="brute force")
        web.block("2001:db8::/32", keep_open=True)
        web.unblock("192.0.2.0/24")
    assert web.admit("10.1.2.3:1", "10.1.2.3") is None
    first.go()
    first.stop()

    # Ten minutes later; the monotonic clock has begun anew.
    second = Run(path, wall=first.wall() + 600, monotonic=7.0)
    web = second.add("web", block=["192.0.2.0/24", "198.51.100.0/24"])
    second.start()
    (entry,) = second.registry.blocks.in_force()
    assert entry.until == pytest.approx(7 + 3600 - 5 - 600)
    assert (str(entry.network), entry.source, entry.reason) == (NET, "operator", "brute force")
    assert (entry.since_at, entry.by, entry.hits) == (WALL, "own code", 1)
    assert list(map(str, web.blocks())) == ["198.51.100.0/24", "2001:db8::/32"]
    assert web.block_entries()[1].keep_open
    assert web.admit("192.0.2.1:1", "192.0.2.1") is not None
    second.clock.advance(3600)
    assert web.admit("10.1.2.3:1", "10.1.2.3") is not None
    second.stop()
    assert [str(each.network) for each in stored(path).blocks] == ["2001:db8::/32"]
    assert [str(each.network) for each in stored(path).unblocked] == ["192.0.2.0/24"]


@pytest.mark.parametrize(
    ("passed", "left"),
    [
        (60.0, 3540.0),
        (3600.0, None),  # it has ended meanwhile
        (1e7, None),
        (-1e6, 3600.0),  # a machine without a battery boots in the past
    ],
)
def test_ends_are_recomputed(path: Path, passed: float, left: float | None) -> None:
    first = Run(path).start()
    with patch("time.time", first.wall):
        first.registry.block(NET, for_seconds=3600)
    first.stop()
    second = Run(path, wall=first.wall() + passed, monotonic=1.0)
    web = second.add("web")
    second.start()
    if left is None:
        assert web.admit("10.1.2.3:1", "10.1.2.3") is not None
        second.go(0.5)
        assert len(second.registry.blocks) == 0  # removed, and told of
    else:
        (entry,) = second.registry.blocks.in_force()
        assert entry.until == pytest.approx(1.0 + left)


def test_it_is_written_soon_and_not_too_often(path: Path) -> None:
    run = Run(path)
    run.add("web")
    run.start()
    run.go()
    assert not path.exists()  # nobody has ever blocked anything
    with patch.object(state_module, "write_state", wraps=write_state) as write:
        for number in range(50):
            run.registry.block(f"10.0.0.{number}")
        run.go(0.1)
        assert write.call_count == 1
        for number in range(50):
            run.registry.block(f"10.0.1.{number}")
        run.go(0.5)
        assert write.call_count == 1
        run.go(1.0)
        assert write.call_count == 2
        run.go(10.0)
        assert write.call_count == 2
    assert len(stored(path).blocks) == 100
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert sorted(each.name for each in path.parent.iterdir()) == ["state.json", "state.json.lock"]
    run.stop()
    assert [each.name for each in path.parent.iterdir()] == ["state.json"]


def test_services_that_are_not_there_keep_what_is_theirs(path: Path) -> None:
    first = Run(path)
    first.add("web").block(NET)
    first.add("ssh", block=["192.0.2.0/24"]).unblock("192.0.2.0/24")
    first.start()
    first.stop()
    second = Run(path)
    second.start()
    second.stop()
    third = Run(path).start()
    web = third.add("web")
    ssh = third.add("ssh", block=["192.0.2.0/24"])
    assert (list(map(str, web.blocks())), ssh.blocks()) == ([NET], [])
    third.registry.delete("web")
    third.go()
    assert [(each.service, str(each.network)) for each in stored(path).blocks] == [("web", NET)]
    assert list(map(str, third.add("web").blocks())) == [NET]
    third.registry.delete("web")
    third.registry.unblock(NET)
    assert third.add("web").blocks() == []


@pytest.mark.parametrize("step", [0, -3600])
def test_a_block_that_ends_while_its_service_is_gone_ends_once(path: Path, step: float) -> None:
    run = Run(path).start()
    web = run.add("web")
    with patch("time.time", run.wall):
        web.block(NET, for_seconds=60)
        web.block("192.0.2.0/24", for_seconds=3600)
        run.registry.delete("web")
    with logged_lines("monconn") as lines:
        run.go(61)
        run.offset += step
        with patch("time.time", run.wall):
            run.registry.add(web)
        run.go()
    assert list(map(str, web.blocks())) == ["192.0.2.0/24"]
    assert ["has ended" in each for each in lines] == [True]


def test_a_failure_is_told_and_tried_again(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(path).start()
    with patch.object(state_module, "write_state", side_effect=OSError(28, "No space left")):
        run.registry.block(NET)
        assert run.service.keeps()
        run.go(RETRY_SECONDS + 1)
    assert run.service.failures == 2
    assert not run.service.keeps()  # which who blocks something is told
    run.go(RETRY_SECONDS + 1)
    assert run.service.keeps()
    assert [str(each.network) for each in stored(path).blocks] == [NET]
    assert run.service.failures == 2


def test_a_disk_that_hangs_delays_the_end_no_longer_than_a_while(path: Path) -> None:
    run = Run(path).start()
    run.waiting = []
    run.registry.block(NET)
    run.go(0.2)
    stopped: list[object] = []
    run.service.stopService().addCallback(stopped.append)
    run.clock.advance(STOP_SECONDS - 0.1)
    assert stopped == []
    run.clock.advance(0.2)
    assert stopped == [None]
    for work in run.waiting:  # it goes on after all
        work()
    assert [str(each.network) for each in stored(path).blocks] == [NET]


def test_what_changes_while_it_is_written_is_written_after_it(path: Path) -> None:
    run = Run(path).start()
    run.waiting = []
    run.registry.block(NET)
    run.go(0.2)
    run.registry.block("11.0.0.0/8")
    run.go(3)
    assert len(run.waiting) == 1
    run.waiting.pop()()
    run.go(40)  # the pause is ten times as long as that took
    run.waiting.pop()()
    assert len(stored(path).blocks) == 2


def test_a_write_that_fails_leaves_the_file_as_it_was(path: Path) -> None:
    write_state(str(path), State(WALL))
    before = path.read_bytes()
    blocks = (StoredBlock(None, ip_network(NET), "operator", "", 0.0, None, "", False, 0),)
    failing = patch("os.rename", side_effect=OSError(5, "Input/output error"))
    with failing, pytest.raises(OSError, match="Input"):
        write_state(str(path), State(WALL, blocks))
    with patch.object(state_file, "MAX_BYTES", 10), pytest.raises(OSError, match="too many"):
        write_state(str(path), State(WALL, blocks))
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


GOOD = {
    **{"service": "web", "network": NET, "source": "operator", "by": "me", "since_at": 1.0},
    **{"until_at": None, "reason": "", "keep_open": False, "hits": 0},
}


def damaged(**changes: Any) -> str:
    return json.dumps(
        {"monconn_state": 1, "saved_at": 1, "blocks": [GOOD | changes], "unblocked": []}
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no state"),
        ('{"a": 1}', "no state"),
        ('{"monconn_state": 2}', "newer monconn"),
        ('{"monconn_state": 1}', "saved_at"),
        ('{"monconn_state": 1, "saved_at": NaN}', "saved_at"),
        ('{"monconn_state": 1, "saved_at": 1, "blocks": 7}', "blocks"),
        (damaged(network="all"), "neither an IP"),
        (damaged(network=7), "network"),
        (damaged(source="configuration"), "source"),
        (damaged(hits=-1), "hits"),
        (damaged(hits=True), "hits"),
        (damaged(until_at="soon"), "until_at"),
        (damaged(until_at=1e300), "until_at"),
        (damaged(keep_open=1), "keep_open"),
        (damaged(reason="x" * 201), "reason"),
        (damaged(service=[]), "service"),
    ],
)
def test_a_damaged_file_is_an_error_and_is_left_alone(
    path: Path, content: str, problem: str
) -> None:
    path.write_text(content)
    path.chmod(0o600)
    run = Run(path)
    with pytest.raises(FileError, match=problem) as caught:
        run.start()
    assert str(path) in str(caught.value)
    with pytest.raises(FileError, match=problem):
        check_state(StateConfig(str(path)))
    run.registry.block(NET)
    run.go()
    assert path.read_text() == content
    assert [each.name for each in path.parent.iterdir()] == [path.name]


json_values = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    st.sampled_from([[], {}, [[]], [{}], [1], {"a": 1}, -0.0, 10**30, "NaN", "10.0.0.0/40"]),
)
KEYS = st.sampled_from([*GOOD, "monconn_state", "saved_at", "blocks", "unblocked"])


@settings(max_examples=examples(150))
@given(st.lists(st.tuples(KEYS, json_values), max_size=3), st.binary(max_size=20))
def test_whatever_is_in_a_file_it_is_a_state_or_damaged(
    changes: list[tuple[str, Any]], noise: bytes
) -> None:
    """A good file of which something is different."""
    content: dict[str, Any] = json.loads(damaged())
    entry = content["blocks"][0]
    for key, value in changes:
        (entry if key in GOOD else content)[key] = value
    check_decoded(json.dumps(content).encode())
    check_decoded(noise)


def check_decoded(data: bytes) -> None:
    try:
        found = decode(data)
    except Damaged:
        return
    assert decode(b"".join(encode(found))) == found


texts = st.text(max_size=20)
times = st.floats(-1e10, 1e10)
networks = st.ip_addresses().map(ip_network)


@settings(max_examples=examples(50))
@given(
    st.builds(
        State,
        times,
        st.lists(
            st.builds(
                StoredBlock,
                st.none() | texts,
                networks,
                st.sampled_from(["operator", "auto"]),
                texts,
                times,
                st.none() | times,
                texts,
                st.booleans(),
                st.integers(0, 1 << 60),
            ),
            max_size=3,
        ).map(tuple),
        st.lists(
            st.builds(StoredUnblock, texts, networks, st.sampled_from(["configuration", "file"])),
            max_size=3,
        ).map(tuple),
    )
)
def test_what_is_written_is_read(written: State) -> None:
    read = decode(b"".join(encode(written)))
    # IPv4 addresses that are written as IPv6 ones become the same network.
    assert len(read.blocks) == len(written.blocks)
    assert attrs.evolve(read, blocks=(), unblocked=()) == State(written.saved_at)
    for one, other in zip(read.blocks, written.blocks, strict=True):
        assert attrs.evolve(one, network=other.network) == other


def test_another_monconn_has_it(path: Path) -> None:
    run = Run(path).start()
    here = rf"in use by process {os.getpid()}"
    no_pauses = patch("monconn.processes._LOCK_PAUSES_SECONDS", ())
    with no_pauses, pytest.raises(FileError, match=here):
        Run(path).start()
    with pytest.raises(FileError, match="in use by process"):
        check_state(StateConfig(str(path)))
    run.stop()
    assert check_state(StateConfig(str(path))) == []
    Run(path).start().stop()


def test_another_monconn_has_it_before_a_service_listens(path: Path) -> None:
    from twisted.internet import reactor

    run = Run(path).start()
    web = ServiceConfig("web", TcpAddress("127.0.0.1", 0), TcpAddress("127.0.0.1", 9))
    config = Config(services=(web,), state=StateConfig(str(path)), control=())
    listened = patch("monconn.run.supervisor.Supervisor.apply")
    no_pauses = patch("monconn.processes._LOCK_PAUSES_SECONDS", ())
    with listened as apply, no_pauses, pytest.raises(FileError, match="in use by process"):
        Application(config, reactor).privilegedStartService()
    apply.assert_not_called()
    run.stop()


def test_a_start_that_fails_has_the_file_no_more(path: Path) -> None:
    run = Run(path)
    run.service.privilegedStartService()
    with pytest.raises(FileError, match="in use by process"):
        check_state(StateConfig(str(path)))
    assert run.service.stopService().called  # as a listener could not be opened
    assert check_state(StateConfig(str(path))) == []
    Run(path).start().stop()


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_to_is_refused(path: Path, mode: int) -> None:
    path.write_text(damaged())
    path.chmod(mode)
    with pytest.raises(FileError, match="chmod 600"):
        Run(path).start()


def test_a_file_that_is_too_big_is_refused(path: Path) -> None:
    path.write_text(damaged())
    with patch.object(state_file, "MAX_BYTES", 10), pytest.raises(FileError, match="too big"):
        Run(path).start()


def test_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    folder = os.environ["XDG_STATE_HOME"]
    one, other = default_path("/etc/monconn/web 1.yaml"), default_path("/srv/web 1.yaml")
    assert one.startswith(f"{folder}/monconn/state-web_1-")
    assert one != other
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/monconn:/var/lib/other")
    assert default_path("/srv/web 1.yaml") == f"/var/lib/monconn/{Path(other).name}"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "there.json")
    assert path_of(StateConfig(str(link))) == str(tmp_path / "there.json")


SERVICE = 'services: {web: {listen: "127.0.0.1:0", backend: ":9"}}\n'


def test_which_configurations_have_one(tmp_path: Path) -> None:
    def state(text: str) -> StateConfig | None:
        file = tmp_path / "monconn.yaml"
        file.write_text(text)
        return load(file).state

    default = StateConfig(None, str(tmp_path / "monconn.yaml"))
    assert state(SERVICE) == default
    assert state("web: {listen_port: 1, backend_port: 2}\n") == default
    assert state(f"{SERVICE}state: false\n") is None
    assert state(f"{SERVICE}state: {tmp_path}/x\n") == StateConfig(f"{tmp_path}/x")
    assert from_pairs([":1=:2"]).state is None
    assert parse(SERVICE, "text").state is None
    for wrong in ("true", "[]", "''", str(tmp_path)):
        with pytest.raises(ConfigError, match="state"):
            state(f"{SERVICE}state: {wrong}\n")


def test_a_default_that_cannot_be_made_is_only_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    run = Run(tmp_path / "unused")
    config = StateConfig(None, str(tmp_path / "monconn.yaml"))
    service = StateService(config, run.registry, run.clock, run._in_thread)
    service.startService()
    assert not service.is_kept
    run.registry.block(NET)
    run.go()
    assert service.stopService().called
    (remark,) = check_state(config)
    assert "ends with it" in remark.message
    with pytest.raises(FileError, match="state"):
        Run(tmp_path / "missing" / "state").start()
    with pytest.raises(FileError, match="no folder"):
        check_state(StateConfig(str(tmp_path / "missing" / "state")))


def test_check_finds_it_under_its_key(tmp_path: Path) -> None:
    file = tmp_path / "monconn.yaml"
    (tmp_path / "state").write_text("{")
    (tmp_path / "state").chmod(0o600)
    file.write_text(f"{SERVICE}control: false\nstate: {tmp_path}/state\n")
    (finding,) = check_start(load(file), str(file))
    assert (finding.level, finding.path) == ("error", ("state",))
    assert "no JSON" in finding.message
