"""Whether a partition's records may still be given up on, or too many of them are."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuardBounds:
    """The largest share of dead letters among the last `window` records of a partition."""

    share_max: float
    window: int


class DeadLetterGuard:
    """Stop a partition before a good stream is drained into the dead-letter topic.

    A few poisoned records are the customers'; when most are, the fault is ours, and what we give
    up on would have to be brought back by hand.
    """

    __slots__ = ("_bounds", "_completed", "_recent")

    def __init__(self, bounds: GuardBounds) -> None:
        self._bounds = bounds
        self._completed = 0
        self._recent: deque[int] = deque()
        """For each recent dead letter, how many records had been completed by then."""

    def completed(self, count: int) -> None:
        """Note records that are done, dead letters among them."""
        self._completed += count

    def may_give_up(self) -> bool:
        """Say whether one more dead letter is within bounds, and count it if it is."""
        recent, bounds = self._recent, self._bounds
        while recent and recent[0] <= self._completed - bounds.window:
            recent.popleft()
        if len(recent) + 1 > bounds.share_max * bounds.window:
            return False
        recent.append(self._completed)
        return True
