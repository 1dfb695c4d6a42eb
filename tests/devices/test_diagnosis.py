from __future__ import annotations

import struct
from typing import Any

import pytest

from monconn.devices.diagnosis import diagnose
from monconn.model.record import ConnectionRecord
from monconn.net.sockets import TCP_INFO_BYTES

NOW = 110.0
SENT_AGAIN = " and {} segments were sent again, of 100 with data"


def tcp(
    rtt_seconds: float = 0.0002,
    retransmits: int = 0,
    segments: int = 100,
    limited: float = 0,
    busy: float = 0,
) -> bytes:
    raw = bytearray(TCP_INFO_BYTES)
    raw[2], raw[3] = 3, 2  # retransmissions and probes that are not answered
    struct.pack_into("=I", raw, 68, int(rtt_seconds * 1e6))
    struct.pack_into("=I", raw, 100, retransmits)
    struct.pack_into("=I", raw, 156, segments)
    struct.pack_into("=Q", raw, 168, int(busy * 1e6))
    struct.pack_into("=Q", raw, 176, int(limited * 1e6))
    return bytes(raw)


def record(**fields: Any) -> ConnectionRecord:
    known: dict[str, Any] = {
        "id": 7,
        "service": "web",
        "client": "192.0.2.1:4711",
        "client_ip": "192.0.2.1",
        "listener": ":80",
        "backend": "10.0.0.5:80",
        "opened_at": 1_700_000_000.0,
        "opened": 100.0,
        "connected": 100.001,
        "first_up": 100.002,
        "last_up": 100.002,
        "asked": 100.002,
        "last_down": 100.003,
        "first_down": 100.003,
        "client_tcp": tcp(),
        "backend_tcp": tcp(),
    }
    return ConnectionRecord(**known | fields)


@pytest.mark.parametrize(
    ("fields", "looks_like", "because"),
    [
        ({}, "nothing slow", "the backend's first byte took 1.0ms"),
        ({"first_down": 102.502}, "slow backend", "the backend's first byte took 2.50s"),
        ({"first_down": None}, "slow backend", "the backend has not answered for 10.0s"),
        (
            {"client_tcp": tcp(rtt_seconds=0.3)},
            "slow network to the client",
            "a round trip to the client takes 300ms," + SENT_AGAIN.format(0),
        ),
        (
            {"client_tcp": tcp(retransmits=20)},
            "slow network to the client",
            "a round trip to the client takes 0.20ms," + SENT_AGAIN.format(20),
        ),
        (
            {"backend_tcp": tcp(rtt_seconds=0.3), "first_down": 100.303},
            "slow network to the backend",
            "a round trip to the backend takes 300ms," + SENT_AGAIN.format(0),
        ),
        (
            {"client_tcp": tcp(limited=3.5)},
            "slow client",
            "the client was slow to read what it was sent: 3.50s in all",
        ),
        (
            {"backend_tcp": tcp(limited=3.5)},
            "slow backend",
            "the backend was slow to read what it was sent: 3.50s in all",
        ),
    ],
)
def test_diagnosis(fields: dict[str, Any], looks_like: str, because: str) -> None:
    diagnosis = diagnose(record(**fields), NOW)
    assert diagnosis["looks_like"] == looks_like
    assert because in diagnosis["because"]
    if looks_like != "nothing slow":
        assert diagnosis["because"][0] == because


def test_the_greatest_delay_is_named_and_the_other_is_listed() -> None:
    both = record(first_down=105.0, client_tcp=tcp(rtt_seconds=0.3))
    diagnosis = diagnose(both, NOW)
    assert diagnosis["looks_like"] == "slow backend"
    assert diagnosis["because"][1].startswith("a round trip to the client takes 300ms")
    other = record(first_down=100.4, client_tcp=tcp(rtt_seconds=2.0))
    assert diagnose(other, NOW)["looks_like"] == "slow network to the client"


def test_a_few_retransmits_are_nothing() -> None:
    assert diagnose(record(client_tcp=tcp(retransmits=2)), NOW)["looks_like"] == "nothing slow"
    many = tcp(retransmits=19, segments=1000)
    assert diagnose(record(client_tcp=many), NOW)["looks_like"] == "nothing slow"


def test_each_figure_is_listed_once() -> None:
    because = diagnose(record(first_down=105.0), NOW)["because"]
    assert len(because) == len(set(because)) == 3


def test_without_figures_nothing_is_known() -> None:
    blind = record(opened=NOW, connected=None, first_down=None, client_tcp=None, backend_tcp=None)
    assert diagnose(blind, NOW) == {"looks_like": "unknown", "because": []}


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 0.001),
        ({"connected": None}, None),
        ({"first_up": None, "last_up": None, "asked": None, "first_down": None}, None),
        ({"asked": None, "first_down": 100.101}, 0.1),  # the backend speaks first
        ({"asked": 103.0, "first_down": 103.1}, 0.1),  # a long question
        (
            {"asked": 99.0, "connected": 100.5, "first_down": 101.0},
            0.5,
        ),  # sent before it was connected
        ({"first_down": None}, 9.998),
        ({"first_down": None, "closed": 103.002}, 3.0),
    ],
)
def test_how_long_the_backend_took(fields: dict[str, Any], seconds: float | None) -> None:
    assert record(**fields).answer_seconds(NOW) == pytest.approx(seconds)


def test_a_later_answer_that_does_not_come_is_listed() -> None:
    diagnosis = diagnose(record(last_up=105.0, last_down=100.003), NOW)
    assert diagnosis["looks_like"] == "nothing slow"  # it may owe none
    text = "the backend has sent nothing for 5.00s since the client's last bytes"
    assert text in diagnosis["because"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"connected": 104.0, "asked": 104.0, "first_down": 104.001}, "took 4.00s to accept"),
        ({"connected": None, "first_down": None}, "has not accepted for 10.0s"),
    ],
)
def test_a_backend_that_is_slow_to_accept(fields: dict[str, Any], text: str) -> None:
    diagnosis = diagnose(record(**fields), NOW)
    assert diagnosis["looks_like"] == "slow to connect"
    assert diagnosis["because"][0] == f"the backend {text}"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("backend_refused", "the backend refused after 302ms"),
        ("backend_unreachable", "the backend was found unreachable after 302ms"),
        ("error", "the attempt to connect to the backend failed after 302ms"),
    ],
)
def test_a_backend_that_was_not_reached_is_not_called_slow(reason: Any, text: str) -> None:
    ended = {"connected": None, "first_down": None, "backend_tcp": None, "closed": 100.302}
    diagnosis = diagnose(record(reason=reason, asked=None, **ended), NOW)
    assert diagnosis["looks_like"] == "nothing slow"
    assert diagnosis["because"][0] == text
    assert not any("has not accepted" in each for each in diagnosis["because"])
    timeout = diagnose(record(reason="connect_timeout", asked=None, **ended), NOW)
    assert timeout["looks_like"] == "slow to connect"


def test_counts_of_segments_have_separators() -> None:
    many = diagnose(record(client_tcp=tcp(retransmits=1004, segments=31_357)), NOW)
    assert "1,004 segments were sent again, of 31,357 with data" in many["because"][0]


def test_retransmitted_syns_are_no_loss_of_data() -> None:
    opening = tcp(retransmits=4, segments=1)
    assert diagnose(record(backend_tcp=opening), NOW)["looks_like"] == "nothing slow"


def test_a_full_window_now_and_then_is_nothing() -> None:
    seldom = tcp(limited=0.6, busy=3600)
    assert diagnose(record(client_tcp=seldom), NOW)["looks_like"] == "nothing slow"


UNANSWERED = " 5 questions (bytes sent again, probes) are unanswered"
AT = "2023-11-14T22:13:23.000+00:00"


@pytest.mark.parametrize(
    ("fields", "looks_like", "because"),
    [
        (
            {"client_unreachable": 103.0},
            "client unreachable",
            f"client unreachable since {AT}, for 7.00s:{UNANSWERED}",
        ),
        (
            {"backend_unreachable": 103.0, "first_down": None},
            "backend unreachable",
            f"backend unreachable since {AT}, for 7.00s:{UNANSWERED}",
        ),
        (  # of one that is closed, as of its end
            {"client_unreachable": 103.0, "closed": 105.0, "client_tcp": tcp(retransmits=20)},
            "client unreachable",
            f"client unreachable since {AT}, for 2.00s:{UNANSWERED}",
        ),
        (  # the kernel has given up, by keepalive for example
            {"reason": "client_lost", "client_heard": 103.0, "closed": 107.0, "first_down": None},
            "client unreachable",
            f"client unreachable since {AT}: nothing was heard of it after that",
        ),
        (
            {"reason": "backend_lost", "backend_heard": 103.0, "closed": 107.0},
            "backend unreachable",
            f"backend unreachable since {AT}: nothing was heard of it after that",
        ),
    ],
)
def test_a_side_that_is_unreachable_comes_first(
    fields: dict[str, Any], looks_like: str, because: str
) -> None:
    diagnosis = diagnose(record(**fields), NOW)
    assert diagnosis["looks_like"] == looks_like
    assert diagnosis["because"][0] == because


@pytest.mark.parametrize(
    "fields",
    [
        {"first_down": None},  # it has never answered
        {"first_down": 102.502},
        {"backend_tcp": tcp(limited=3.5)},
        {"last_up": 105.0},
    ],
)
def test_a_backend_that_has_ended_is_not_called_slow(fields: dict[str, Any]) -> None:
    diagnosis = diagnose(record(backend_end="fin", **fields), NOW)
    assert diagnosis["looks_like"] == "nothing slow"
    assert not any("has not answered" in each for each in diagnosis["because"])
    assert not any("has sent nothing" in each for each in diagnosis["because"])


def test_a_backend_that_answered_late_and_then_ended_was_slow() -> None:
    late = record(backend_end="fin", first_down=102.502, closed=103.0)
    assert diagnose(late, NOW)["looks_like"] == "slow backend"
