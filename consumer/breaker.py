"""Whether a shard may be tried now."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum


class BreakerState(Enum):
    """CLOSED lets every write through, OPEN none, HALF_OPEN waits for the outcome of one probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits between probes, in seconds: the first, and the longest."""

    base_s: float
    cap_s: float

    def wait_s(self, failures: int, jitter: float) -> float:
        """Return the wait after `failures` in a row; `jitter` in [0, 1) takes up to half off.

        Consumers that lost the same shard at the same moment must not return to it at once.
        """
        longest = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 32))
        return longest * (1 - jitter / 2)


class Breaker:
    """Keep writes from a shard that fails, and probe it one write at a time."""

    def __init__(
        self,
        backoff: Backoff,
        *,
        clock: Callable[[], float],
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._backoff = backoff
        self._clock = clock
        self._jitter = jitter
        self._failures = 0
        self._retry_at = 0.0
        self.state = BreakerState.CLOSED

    def admits(self) -> bool:
        """Say whether a write may start now; the one that is let through when open is the probe.

        Whoever is admitted must report `succeeded`, `failed` or `gave_up`.
        """
        if self.state is BreakerState.CLOSED:
            return True
        if self.state is BreakerState.OPEN and self._clock() >= self._retry_at:
            self.state = BreakerState.HALF_OPEN
            return True
        return False

    def retry_in_s(self) -> float:
        """Return the seconds until it is worth asking `admits` again."""
        if self.state is BreakerState.HALF_OPEN:
            return self._backoff.base_s
        return max(0.0, self._retry_at - self._clock())

    def succeeded(self) -> None:
        """Note that the shard is in order: it carries out statements, or is only busy."""
        self._failures = 0
        self.state = BreakerState.CLOSED

    def failed(self) -> None:
        """Note that the shard did not do its work; writes under way when it opened count once."""
        if self.state is BreakerState.OPEN:
            return
        self._failures += 1
        self._retry_at = self._clock() + self._backoff.wait_s(self._failures, self._jitter())
        self.state = BreakerState.OPEN

    def forget(self) -> None:
        """Let the next write find out by itself: there is none left that could be the probe."""
        self._failures = 0
        self.state = BreakerState.CLOSED

    def gave_up(self) -> None:
        """Note that an admitted write ended without telling anything about the shard."""
        if self.state is BreakerState.HALF_OPEN:
            self.state = BreakerState.OPEN
