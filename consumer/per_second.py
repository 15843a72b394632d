"""How much is said of what may happen very often: so much a second."""

import time
from collections.abc import Callable


class PerSecond:
    """Says yes so many times a second."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._second = 0
        self._taken = 0

    @property
    def is_left(self) -> bool:
        """Whether there is one to take."""
        second = int(self._clock())
        if second != self._second:
            self._second, self._taken = second, 0
        return self._taken < self._limit

    def may(self) -> bool:
        """Take one, if one is left."""
        left = self.is_left
        self._taken += left
        return left

    def take(self, count: int) -> None:
        """Take some, left or not."""
        self._taken += count
