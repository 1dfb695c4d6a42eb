"""What a relay's record says of MQTT at the end, in every order of events."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from monconn.decode.first_bytes import decoding
from monconn.model.reasons import Side
from tests.decode.test_mqtt import (
    ACCEPTED,
    ACCEPTED_5,
    GOODBYE,
    PINGREQ,
    PINGRESP,
    connect,
    publish,
)

from .test_relay import Stage

REFUSED = b"\x20\x02\x00\x05"


class MqttStage(Stage):
    """A relay whose service has ``decode: mqtt``."""

    def __init__(self) -> None:
        super().__init__()
        self.relay.decoding = decoding("mqtt")
        self.open()

    def up(self, data: bytes) -> None:
        self.data(self.client, data)

    def down(self, data: bytes) -> None:
        self.data(self.backend, data)

    def fin(self, side: Side) -> None:
        self.relay.eof(self.end_of(side))

    def over(self) -> tuple[str | None, str]:
        """The reason and the detail, once both sides are closed."""
        for side in ("client", "backend"):
            if self.record.closed is None:
                self.relay.gone(self.end_of(side))
        assert self.monitor.connections() == []
        return self.record.reason, self.record.detail


@pytest.fixture
def mqtt() -> MqttStage:
    stage = MqttStage()
    stage.up(connect())
    stage.down(ACCEPTED)
    return stage


def test_a_goodbye_before_either_end(mqtt: MqttStage) -> None:
    mqtt.up(publish() + GOODBYE)
    mqtt.fin("backend")
    mqtt.fin("client")

    assert mqtt.over() == ("backend_closed", "device said goodbye")


def test_a_goodbye_and_the_devices_own_end(mqtt: MqttStage) -> None:
    mqtt.up(GOODBYE)
    mqtt.fin("client")
    mqtt.fin("backend")

    assert mqtt.over() == ("client_closed", "device said goodbye")


def test_a_refusal_and_the_brokers_end() -> None:
    mqtt = MqttStage()
    mqtt.up(connect())
    mqtt.down(REFUSED)
    mqtt.fin("backend")
    mqtt.fin("client")

    assert mqtt.over() == ("backend_closed", "broker said not authorised")


def test_a_broker_that_closes_after_half_a_keepalive_too_much(mqtt: MqttStage) -> None:
    mqtt.clock.advance(30)
    mqtt.up(PINGREQ)
    mqtt.down(PINGRESP)
    mqtt.clock.advance(90.2)
    mqtt.fin("backend")
    mqtt.clock.advance(5)  # the device's kernel answers later
    mqtt.fin("client")

    assert mqtt.over() == (
        "backend_closed",
        "device missed its own MQTT keepalive of 60 s by 30.2 s",
    )


def test_a_device_that_vanishes(mqtt: MqttStage) -> None:
    mqtt.clock.advance(92)
    mqtt.relay.broken(mqtt.client, "timeout", "connection timed out")

    assert mqtt.over() == (
        "client_lost",
        "connection timed out; device missed its own MQTT keepalive of 60 s by 32.0 s;"
        " device vanished without DISCONNECT",
    )


def test_a_device_that_resets_after_the_brokers_end(mqtt: MqttStage) -> None:
    mqtt.clock.advance(91)
    mqtt.fin("backend")
    mqtt.relay.broken(mqtt.client, "reset", "")

    assert mqtt.over() == (
        "client_reset",
        "device missed its own MQTT keepalive of 60 s by 31.0 s",
    )


def test_a_broker_that_hangs_and_a_device_that_waits_for_its_answer(mqtt: MqttStage) -> None:
    mqtt.clock.advance(60)
    mqtt.up(PINGREQ)
    mqtt.clock.advance(61)
    mqtt.fin("client")
    mqtt.clock.advance(10)
    mqtt.relay.broken(mqtt.backend, "reset", "")

    assert mqtt.over() == (
        "backend_reset",
        "device's ping had no answer for 61.0 s; device closed without DISCONNECT",
    )


@pytest.mark.parametrize("held_seconds", [100.0, 60.0])
def test_what_we_do_not_read_is_not_missed(mqtt: MqttStage, held_seconds: float) -> None:
    mqtt.relay.filled(mqtt.backend)  # the broker takes nothing
    mqtt.clock.advance(held_seconds)
    if held_seconds < 100:
        mqtt.relay.drained(mqtt.backend)
        mqtt.clock.advance(100 - held_seconds)
    mqtt.fin("backend")
    mqtt.fin("client")

    assert mqtt.over() == ("backend_closed", "")


def test_a_session_is_taken_over() -> None:
    mqtt = MqttStage()
    mqtt.up(connect(level=5))
    mqtt.down(ACCEPTED_5)
    mqtt.down(b"\xe0\x02\x8e\x00")
    mqtt.fin("backend")
    mqtt.fin("client")

    assert mqtt.over() == ("backend_closed", "broker said session taken over")


def test_an_operator_ends_it(mqtt: MqttStage) -> None:
    mqtt.relay.end("operator")
    mqtt.up(GOODBYE)  # too late to be a cause

    assert mqtt.over() == ("operator", "")


@pytest.mark.parametrize("after", ["connect", "connack", "publish"])
def test_it_is_followed_as_long_as_it_lives(after: str) -> None:
    mqtt = MqttStage()
    steps: list[Callable[[], None]] = [
        lambda: mqtt.up(connect()),
        lambda: mqtt.down(ACCEPTED),
        lambda: mqtt.up(publish()),
    ]
    for step in steps[: ("connect", "connack", "publish").index(after) + 1]:
        step()

    assert mqtt.client.is_watched
    assert mqtt.backend.is_watched
