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

    __slots__ = ("_bounds", "_recent")

    def __init__(self, bounds: GuardBounds) -> None:
        self._bounds = bounds
        self._recent: deque[int] = deque()
        """For each recent dead letter, how many records had been judged before it."""

    def may_give_up(self, judged: int) -> bool:
        """Say whether one more dead letter is within bounds, and count it if it is.

        `judged` is how many records have been judged before this one, the good ones included.
        """
        recent, bounds = self._recent, self._bounds
        while recent and recent[0] <= judged - bounds.window:
            recent.popleft()
        if len(recent) + 1 > bounds.share_max * bounds.window:
            return False
        recent.append(judged)
        return True
