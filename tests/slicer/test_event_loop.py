"""The measure of the event loop measures."""

import time

import pytest
from event_loop import Heartbeat, until
from PySide6.QtCore import QTimer


@pytest.mark.flaky(reruns=2)
def test_a_free_loop_beats_and_a_blocked_one_is_noticed(qapp):
    with Heartbeat() as free:
        end = time.monotonic() + 0.3
        until(qapp, lambda: time.monotonic() > end)
    assert free.beats > 5
    with Heartbeat() as blocked:
        QTimer.singleShot(20, lambda: time.sleep(0.25))
        end = time.monotonic() + 0.4
        until(qapp, lambda: time.monotonic() > end)
    assert 0.25 <= blocked.longestS <= blocked.longestWallS
    assert free.longestS < blocked.longestS
