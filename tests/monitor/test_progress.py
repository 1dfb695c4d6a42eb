"""Whether the bytes that wait for a peer make progress."""

from __future__ import annotations

import pytest

from monconn.monitor.progress import SendProgress


@pytest.mark.parametrize(
    "checks",  # each: bytes waiting, bytes delivered, now, stalled since
    [
        [(0, 0, 1.0, None)],
        [(5, 0, 1.0, 1.0), (5, 0, 2.0, 1.0), (9, 0, 3.0, 1.0)],
        # progress, though more waits than before
        [(5, 0, 1.0, 1.0), (9, 3, 2.0, 2.0), (9, 3, 3.0, 2.0)],
        # all delivered; what waits later waits from then on
        [(5, 0, 1.0, 1.0), (0, 5, 2.0, None), (5, 5, 3.0, 3.0), (5, 5, 4.0, 3.0)],
        # delivered and waiting again between two checks
        [(5, 0, 1.0, 1.0), (5, 5, 2.0, 2.0)],
        [(0, 7, 1.0, None), (5, 7, 2.0, 2.0), (5, 7, 3.0, 2.0)],
    ],
)
def test_backlog(checks: list[tuple[int, int, float, float | None]]) -> None:
    backlog = SendProgress()
    for waiting, delivered, now, since in checks:
        backlog.check(waiting, delivered, now)
        assert backlog.stalled_since == since


def test_progress_is_reported_when_pending_bytes_were_acknowledged() -> None:
    backlog = SendProgress()
    assert backlog.check(0, 10, 1.0) is None
    assert backlog.check(5, 20, 2.0) is None  # nothing had waited before
    assert backlog.check(5, 20, 3.0) is None
    assert backlog.check(2, 23, 4.0) == 3.0
    assert backlog.check(0, 25, 5.0) == 4.0
    assert backlog.check(0, 25, 6.0) is None
