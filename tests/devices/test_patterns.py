"""What realistic clients do, and which of it is an alarm."""

from __future__ import annotations

import random

import pytest

from .test_devices import Connection, World

MINUTE = 60.0
HOUR = 3600.0
SEEDS = range(8)


def request(world: World, seconds: float = 0.2) -> None:
    """One short connection, such as curl's."""
    connection = world.enter()
    connection.speak(80)
    world.clock.advance(seconds)
    connection.end("client_closed")


@pytest.mark.parametrize("seed", SEEDS)
def test_curl_by_hand(seed: int) -> None:
    world, dice = World(), random.Random(seed)
    for _ in range(40):
        request(world)
        world.wait(dice.expovariate(1 / 15.0))
    world.wait(HOUR)
    assert world.kinds() == []


@pytest.mark.parametrize("seconds", [0.05, 1.0, 5.0])
def test_ten_minutes_of_curl_in_a_loop(seconds: float) -> None:
    world = World()
    for _ in range(int(10 * MINUTE / (seconds + 0.2))):
        request(world)
        world.wait(seconds)
    world.wait(HOUR)
    assert world.kinds() == []


@pytest.mark.parametrize("keepalive", [False, True])
def test_ab(keepalive: bool) -> None:
    """``ab -n 10000 -c 50``, thrice within ten minutes."""
    world = World()
    for _ in range(3):
        if keepalive:  # ab -k
            many = [world.enter() for _ in range(50)]
            for _ in range(100):
                for connection in many:
                    connection.speak(90)
                world.clock.advance(0.1)
            for connection in many:
                connection.end("client_closed")
        else:
            for _ in range(200):
                many = [world.enter() for _ in range(50)]
                for connection in many:
                    connection.speak(90)
                    connection.end("backend_closed")
                world.clock.advance(0.05)
        world.wait(2 * MINUTE)
    world.wait(HOUR)
    assert world.kinds() == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_browser(seed: int) -> None:
    """Six connections with keep-alive: bursts of requests, pauses to read, idle ones closed."""
    world, dice = World(), random.Random(seed)
    idle: list[Connection] = []
    raised = []
    for _ in range(40):
        if not idle:
            idle = [world.enter() for _ in range(6)]
        for _ in range(dice.randint(3, 20)):  # a page
            dice.choice(idle).speak(500)
            world.wait(dice.uniform(0.02, 0.6))
        pause = dice.lognormvariate(2.8, 1.0)
        world.wait(min(pause, MINUTE))
        if pause > MINUTE:  # keepalive_timeout of the server
            for connection in idle:
                connection.end("backend_closed")
            idle = []
            world.wait(pause - MINUTE)
        raised += world.kinds()
    for connection in idle:
        connection.end("client_closed")
    world.wait(HOUR)
    assert raised + world.kinds() == []


@pytest.mark.parametrize("mean", [2.0, 6.0, 20.0, 60.0])
def test_a_person_at_a_keyboard_whose_messages_come_at_random(mean: float) -> None:
    """Sessions of SSH, each of which ends in a long pause."""
    dice, sessions = random.Random(int(mean)), 40
    world = World()
    for number in range(sessions):
        connection = world.enter(f"10.0.1.{number}")
        for _ in range(120):
            connection.speak()
            world.wait(dice.expovariate(1 / mean))
        world.wait(10 * mean)
        connection.end("client_closed")
    begun = {device for kind, device, _ in world.alarms() if kind == "silent"}
    assert len(begun) <= 0.03 * sessions


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("seconds", [10.0, 40.0, 2 * MINUTE])
def test_a_person_who_types_and_pauses(seconds: float, seed: int) -> None:
    world, dice = World(), random.Random(seed)
    connection = world.enter()
    for _ in range(20):
        started = world.clock.seconds()
        while world.clock.seconds() - started < seconds:
            connection.speak()
            world.wait(dice.uniform(0.05, 2.0))
        world.wait(dice.uniform(5.0, 60.0))
    world.wait(HOUR)
    assert world.kinds() == []


@pytest.mark.parametrize("reason", ["", "client_lost"])
@pytest.mark.parametrize(
    ("seconds", "learned_seconds"), [(1.0, 5 * MINUTE), (10.0, 5 * MINUTE), (MINUTE, 20 * MINUTE)]
)
def test_a_sensor_that_reports_over_one_connection_and_stops(
    seconds: float, learned_seconds: float, reason: str
) -> None:
    """With 20 % of jitter, and two reports missed: one before its rhythm is known, one after."""
    for seed in SEEDS:
        world, dice = World(), random.Random(seed)
        connection = world.enter()
        connection.speak()
        count = int(1.3 * learned_seconds / seconds)
        missed = {int(0.7 * count): 2.0, int(0.95 * count): 2.4}
        for number in range(count):
            world.wait(seconds * missed.get(number, dice.uniform(0.8, 1.2)))
            connection.speak()
        world.wait(2 * seconds)
        assert world.kinds() == []
        if reason:
            connection.end(reason)
        world.wait(2 * seconds + 10.0)
        assert world.kinds() == ["silent"]
        back = world.enter() if reason else connection
        back.speak()
        world.wait(2.0)
        assert world.kinds() == ["-silent"]


def test_somebody_who_once_seemed_regular_does_not_raise_an_alarm_with_each_pause() -> None:
    """Such as a program that uploads for ten minutes, and then now and again for a little."""
    world = World()
    connection = world.enter()
    world.speak_every(connection, 1.0, 600)
    world.wait(MINUTE)
    assert world.kinds() == ["silent"]
    for _ in range(20):
        world.speak_every(connection, 1.0, 20)
        world.wait(MINUTE)
    assert world.kinds() == ["-silent"]


def test_a_device_that_leaves_in_good_order_stays_known() -> None:
    world = World()
    for seconds in (20 * MINUTE, 10 * MINUTE):
        connection = world.enter()
        connection.speak()
        world.speak_every(connection, MINUTE, int(seconds / MINUTE))
        connection.end("client_closed")
        world.wait(HOUR)
    connection = world.enter()
    connection.speak()
    world.speak_every(connection, MINUTE, 2)
    connection.end("client_lost")
    assert world.kinds() == []
    world.wait(4 * MINUTE)
    assert world.kinds() == ["silent"]


@pytest.mark.parametrize("visits", range(8, 13))
def test_a_few_visits_by_the_clock_are_no_rhythm(visits: int) -> None:
    world = World()
    world.visit_every(5.0, visits)
    world.wait(HOUR)
    assert world.kinds() == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("seconds", [MINUTE, 10 * MINUTE, HOUR])
def test_a_sensor_that_connects_for_each_reading_and_stops(seconds: float, seed: int) -> None:
    """Such as cron's job; a little late now and then, and once it misses a turn."""
    world, dice = World(), random.Random(seed)
    for number in range(20):
        request(world)
        late = dice.uniform(0.0, 0.05 * seconds)
        world.clock.advance(late)
        world.wait(seconds * (2 if number == 7 else 1) - late - 0.2)
    assert world.kinds() == []
    for _ in range(5):
        world.wait(seconds)
    assert world.kinds() == ["silent"]
    request(world)
    assert world.kinds() == ["-silent"]


def test_a_sensor_that_sleeps() -> None:
    """MQTT: a message each five minutes, a ping each minute, then a sleep after DISCONNECT."""
    world = World()
    for _ in range(3):
        connection = world.enter()
        connection.speak(40)
        world.speak_every(connection, MINUTE, 15)
        connection.end("client_closed")
        world.wait(8 * HOUR)
    assert world.kinds() == []


def test_a_device_that_pings_between_its_readings_and_vanishes() -> None:
    """A reading each 90 s, and pings 60 s after the last packet: 60 and 30 s by turns."""
    world = World()
    connection = world.enter()
    connection.speak(40)
    for number in range(28):
        world.speak_every(connection, 59.0 if number % 2 else 29.0, 1)
    assert world.kinds() == []
    world.wait(4 * MINUTE)
    assert world.kinds() == ["silent"]
    connection.end("client_lost")  # keepalive gives up
    world.wait(HOUR)
    assert world.kinds() == []
    back = world.enter()
    back.speak(40)
    world.wait(2.0)
    assert world.kinds() == ["-silent"]


def test_a_device_that_crashes_and_reconnects_in_a_loop() -> None:
    world = World()
    for _ in range(30):
        connection = world.enter()
        connection.speak(40)
        world.wait(3.0)
        connection.end("client_reset")
        world.wait(1.0)
    assert world.kinds() == ["reconnect_storm"]
    connection = world.enter()
    world.speak_every(connection, 5.0, 20)
    assert world.kinds() == ["-reconnect_storm"]


def test_a_load_balancer_that_checks_whether_the_port_is_open() -> None:
    """Each two seconds, closed at once: a rhythm, whose end is told once it has lasted."""
    world = World()
    for _ in range(int(HOUR / 2)):
        world.enter().end("client_closed")
        world.wait(2.0)
    assert world.kinds() == []
    world.wait(MINUTE)
    assert world.kinds() == ["silent"]
