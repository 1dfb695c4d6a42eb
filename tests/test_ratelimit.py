"""How often something may be done, and the summary of what was left out."""

from __future__ import annotations

from twisted.internet.task import Clock

from monconn.ratelimit import RateLimitedLog, RateLimiter


def passed(limiter: RateLimiter, calls: int) -> int:
    return sum(limiter.take() for _ in range(calls))


def test_the_limit_holds_within_one_second() -> None:
    assert passed(RateLimiter(Clock(), 5), 100) == 5


def test_no_more_pass_around_the_boundary_of_two_seconds() -> None:
    clock = Clock()
    limiter = RateLimiter(clock, 5)
    clock.advance(0.9)
    assert passed(limiter, 100) == 5
    clock.advance(0.2)
    assert passed(limiter, 100) == 0
    clock.advance(0.8)
    assert passed(limiter, 100) == 5


def test_any_second_has_at_most_the_limit() -> None:
    clock = Clock()
    limiter = RateLimiter(clock, 10)
    times = []
    for _ in range(400):  # five seconds at 80 calls a second
        if limiter.take():
            times.append(clock.seconds())
        clock.advance(1 / 80)
    assert len(times) == 50
    assert all(later - first >= 1 for first, later in zip(times, times[10:], strict=False))


def test_a_slow_caller_is_never_limited() -> None:
    clock = Clock()
    limiter = RateLimiter(clock, 2)
    for _ in range(20):
        assert limiter.take()
        clock.advance(0.5)


def test_suppressed_lines_are_summarized_once_a_second() -> None:
    clock = Clock()
    written: list[tuple[int, str]] = []
    log = RateLimitedLog(clock, 1, lambda count, kinds: written.append((count, kinds)))
    assert log.has_room()
    assert not log.has_room()
    for kind in ("error", "client_closed", "client_closed"):
        log.add(kind)
    assert not written
    clock.advance(1)
    assert written == [(3, "2 client_closed, 1 error")]
    clock.advance(10)
    assert len(written) == 1
    assert not clock.getDelayedCalls()


def test_a_flush_does_not_wait() -> None:
    clock = Clock()
    written: list[int] = []
    log = RateLimitedLog(clock, 1, lambda count, _: written.append(count))
    log.flush()
    assert not written
    log.add("error")
    log.flush()
    assert written == [1]
    assert not clock.getDelayedCalls()
