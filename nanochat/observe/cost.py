"""What serving costs in dollars: the machine's price, shared out among the answers it writes.

A rented machine costs the same each hour, busy or idle. While n answers are written at once, each
pays one n-th of the price. A virtual clock that runs at speed 1/n makes that exact without any
bookkeeping for each step: an answer's share is the clock at its end minus the clock at its start.
The idea is that of processor sharing in queueing theory (virtual time of fair queueing).
Called by generation.py; metrics.py shows the totals. Read: CostMeter.
"""

import threading
import time
from collections.abc import Callable


# @learn:production.cost
class CostMeter:
    """Dollars spent busy and idle, and each answer's share of the busy ones. Thread-safe.

    >>> now = 0.0
    >>> meter = CostMeter(usd_per_hour=3600.0, clock=lambda: now)  # a dollar a second
    >>> anna = meter.join()
    >>> now = 4.0; tom = meter.join()  # both run from here on
    >>> now = 6.0; meter.leave(anna)  # 4 s alone, 2 s shared
    5.0
    >>> now = 9.0; meter.leave(tom)  # 2 s shared, 3 s alone
    4.0
    >>> now = 10.0; meter.totals()
    {'busy': 9.0, 'idle': 1.0}
    """

    def __init__(self, usd_per_hour: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.usd_per_s, self.clock = usd_per_hour / 3600.0, clock
        self.running = 0
        self.share_s = 0.0  # the virtual clock: seconds a lone answer would have had to pay
        self.busy_s = self.idle_s = 0.0
        self.seen_at = clock()
        self.lock = threading.Lock()

    def join(self) -> float:
        """An answer begins; keep what is returned and give it to `leave`."""
        with self.lock:
            self._advance()
            self.running += 1
            return self.share_s

    def leave(self, joined: float) -> float:
        """An answer ended, for whatever reason: its share of the bill in dollars."""
        with self.lock:
            self._advance()
            self.running -= 1
            return (self.share_s - joined) * self.usd_per_s

    def totals(self) -> dict[str, float]:
        """Dollars since the start, while answers were written and while none was."""
        with self.lock:
            self._advance()
            return {"busy": self.busy_s * self.usd_per_s, "idle": self.idle_s * self.usd_per_s}

    def _advance(self) -> None:
        now = self.clock()
        passed, self.seen_at = now - self.seen_at, now
        if self.running:
            self.busy_s += passed
            self.share_s += passed / self.running
        else:
            self.idle_s += passed
