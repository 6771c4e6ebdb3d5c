"""The Qt event loop, run by hand, and a heartbeat that tells how long it was blocked."""

from __future__ import annotations

import time
from pathlib import Path

from PySide6.QtCore import Qt, QTimer

#: Interval of the heartbeat.
BEAT_MS = 10
_SCHEDULER = Path("/proc/thread-self/schedstat")


def until(qapp, condition, limitS=60):
    """Run the event loop until the condition holds."""
    deadline = time.monotonic() + limitS
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.005)
        qapp.processEvents()


def connected(panel, qapp, server):
    """Connect the panel to a server and return its widgets."""
    panel.ui.addressComboBox.currentText = server.address
    panel.ui.testConnectionButton.click()
    until(qapp, lambda: not panel.display.isBusy)
    return panel.ui


class Heartbeat:
    """Measures the longest time between two beats of a timer on the event loop.

    Time in which the main thread could have run, but other programs had the processor, is taken off (Linux keeps
    account of it): the figure says what this program does to its user, on a busy machine too.

    Attributes:
        longestS: Longest time between two beats, without that.
        longestWallS: The same on the clock on the wall.
        beats: How many there were.
    """

    def __init__(self) -> None:
        self.longestS = self.longestWallS = 0.0
        self.beats = 0
        self._timer = QTimer()
        self._timer.setTimerType(Qt.PreciseTimer)
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)

    def __enter__(self) -> Heartbeat:
        self._last = _now()
        self._timer.start()
        return self

    def __exit__(self, *_) -> None:
        self._beat()
        self._timer.stop()

    def _beat(self) -> None:
        now = _now()
        wall, waited = now[0] - self._last[0], now[1] - self._last[1]
        self.longestWallS = max(self.longestWallS, wall)
        self.longestS = max(self.longestS, wall - waited)
        self.beats += 1
        self._last = _now()


def _now() -> tuple[float, float]:
    """Return the time, and how long this thread has waited for a processor, both in seconds."""
    try:
        waited = int(_SCHEDULER.read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        waited = 0.0
    return time.monotonic(), waited
