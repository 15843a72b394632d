"""Which keys come most often lately, in bounded memory, with bounds for what it cannot know."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

_CAPACITY: Final = 4_096


@dataclass(frozen=True, slots=True)
class HotKey(Generic[K]):
    """A key, and how often it came: at least `low` times, at most `high`; equal where exact."""

    key: K
    low: int
    high: int


class FrequentKeys(Generic[K]):
    """Counts of the most frequent keys (Misra and Gries, evicting many at once).

    While there were at most `capacity` keys, counts are exact. When there are more, the median
    count is taken off all of them, and who has none left is forgotten: a count is then too low by
    at most `missed`, which stays below `4 * total / capacity`.

    A dictionary: counting a key takes less time than handing it to a sketch in another language.
    """

    def __init__(self, capacity: int = _CAPACITY) -> None:
        self.total = 0
        self.missed = 0
        """By how much any count may be too low."""
        self._capacity = capacity
        self._counts: Counter[K] = Counter()

    def add(self, counts: Iterable[tuple[K, int]]) -> None:
        """Count each key as often as is said."""
        for key, count in counts:
            self._counts[key] = self._counts.get(key, 0) + count
        if len(self._counts) > self._capacity:
            self._evict()

    def _evict(self) -> None:
        while len(self._counts) > self._capacity // 2:
            off = int(median(self._counts.values())) or 1
            self.missed += off
            self._counts = Counter({k: n - off for k, n in self._counts.items() if n > off})

    def count(self, key: K) -> int:
        """Return the lower bound of a key's count."""
        return self._counts[key]

    def most(self, number: int) -> list[K]:
        """Return the most frequent keys."""
        return [key for key, _ in self._counts.most_common(number)]


class HotKeys(Generic[K]):
    """The most frequent keys of the last one to two `window_s`.

    Two windows: the one that fills, and the one before; older ones are forgotten as a whole.
    """

    def __init__(self, window_s: float, clock: Callable[[], float]) -> None:
        self._window_s = window_s
        self._clock = clock
        self._began = self._now_began = clock()
        self._now: FrequentKeys[K] = FrequentKeys()
        self._before: FrequentKeys[K] = FrequentKeys()

    def filling(self) -> FrequentKeys[K]:
        """Return where keys are counted now."""
        now = self._clock()
        if now - self._now_began >= self._window_s:
            late = now - self._now_began >= 2 * self._window_s
            self._before = FrequentKeys() if late else self._now
            self._began = now if late else self._now_began
            self._now, self._now_began = FrequentKeys(), now
        return self._now

    @property
    def seconds(self) -> float:
        """How much time the counts are of."""
        self.filling()
        return self._clock() - self._began

    @property
    def total(self) -> int:
        """How many keys came in that time."""
        self.filling()
        return self._now.total + self._before.total

    def top(self, number: int) -> list[HotKey[K]]:
        """Return the most frequent keys, the most frequent first."""
        self.filling()
        missed = self._now.missed + self._before.missed
        found = {*self._now.most(2 * number), *self._before.most(2 * number)}
        counts = {key: self._now.count(key) + self._before.count(key) for key in found}
        return [HotKey(key, low, low + missed) for key, low in Counter(counts).most_common(number)]
