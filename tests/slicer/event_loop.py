"""The Qt event loop, run by hand."""

from __future__ import annotations

import time


def until(qapp, condition, limitS=10):
    """Run the event loop until the condition holds; return the longest time in seconds that it was blocked."""
    deadline, longest, last = time.monotonic() + limitS, 0.0, time.monotonic()
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)
        qapp.processEvents()
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return longest
