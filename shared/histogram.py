"""Counts by upper bound, filled many at a time, so that observing costs next to nothing."""

from bisect import bisect_left
from collections.abc import Sequence
from math import inf
from typing import Final

SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0),
)
"""Bounds for durations, from a fast statement to a backlog of hours."""

COUNTS: Final = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0)
"""Bounds for how many of something there are in one."""


class Histogram:
    """Observations counted by the lowest bound that is not below them; the last count has no bound.

    An instrument of the SDK would take microseconds for each observation.
    """

    __slots__ = ("bounds", "counts", "highest", "lowest", "total")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        """Sum of everything observed."""
        self.lowest = inf
        self.highest = -inf

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self.counts)

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self._note(value, value, value)

    def observe_ages(self, moments_ms: Sequence[int], now_ms: int) -> None:
        """Count the seconds from each moment, of one at least, until now.

        What came together is of about one age: most often no bound is between. Where one is, it is
        looked for among the moments, and not each moment among the bounds.
        """
        oldest, youngest = min(moments_ms), max(moments_ms)
        lowest, highest = (now_ms - youngest) / 1000, (now_ms - oldest) / 1000
        first, last = bisect_left(self.bounds, lowest), bisect_left(self.bounds, highest)
        above = len(moments_ms)
        if first < last:
            ascending = sorted(moments_ms)
            for place in range(first, last):
                older = bisect_left(ascending, now_ms - self.bounds[place] * 1000, 0, above)
                self.counts[place] += above - older
                above = older
        self.counts[last] += above
        self._note(lowest, highest, (now_ms * len(moments_ms) - sum(moments_ms)) / 1000)

    def _note(self, lowest: float, highest: float, total: float) -> None:
        self.lowest = min(self.lowest, lowest)
        self.highest = max(self.highest, highest)
        self.total += total
