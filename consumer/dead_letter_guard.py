"""Whether a partition's records may still be given up on, or too many of them are."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuardBounds:
    """The largest share of dead letters of a partition, and over about how many records."""

    share_max: float
    window: int


class DeadLetterGuard:
    """Stop a partition before a good stream is drained into the dead-letter topic.

    A few poisoned records are the customers'; when most are, the fault is ours, and what we give
    up on would have to be brought back by hand. So many may be given up on as are the share of a
    window; each of them is one less, and good records bring back as many as keep the share.
    """

    __slots__ = ("_left", "_left_max", "_per_good")

    def __init__(self, bounds: GuardBounds) -> None:
        everything = bounds.share_max == 1
        self._left_max = float("inf") if everything else bounds.share_max * bounds.window
        self._per_good = 1.0 if everything else bounds.share_max / (1 - bounds.share_max)
        self._left = self._left_max

    def let_go(self, bad: int, *, good: int) -> int:
        """Return how many of `bad` records may be given up on, which came among `good` ones."""
        left = self._left + good * self._per_good
        let_go = bad if left >= bad else int(left)
        self._left = min(self._left_max, left - let_go)
        return let_go
