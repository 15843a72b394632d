"""How far behind: message lag, time lag, rates and the time to catch up, from looks at Kafka."""

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final

from shared.topology import Shard

RATE_WINDOW_S: Final = 60.0
"""Over how long rates are taken."""

TOTAL: Final = "all"


@dataclass(frozen=True, slots=True)
class Look:
    """One look at Kafka, by partition: end offsets, and the next offset that is not done with.

    `oldest_ms` is the acceptance, in Unix time, of what is at that offset, where it is known.
    `begins` is, of partitions that are behind, from where on there is a record: what retention has
    removed does not wait. `any_committed` says whether the group has committed anything at all.
    """

    at_s: float
    ends: Mapping[int, int]
    positions: Mapping[int, int]
    oldest_ms: Mapping[int, int]
    begins: Mapping[int, int] = field(default_factory=dict)
    any_committed: bool = True

    def lag(self, partition: int) -> int:
        """Count the records of a partition that are accepted and not done with."""
        first = max(self.positions.get(partition, 0), self.begins.get(partition, 0))
        return max(0, self.ends.get(partition, 0) - first)


@dataclass(frozen=True, slots=True)
class Lag:
    """How some partitions stand together; times in seconds, rates in records a second.

    `time_lag_s` is the age of the oldest record that is not done with. `catch_up_s` is how long
    until nothing waits, at the present rates: infinite while the backlog does not shrink.
    """

    name: str
    message_lag: int
    time_lag_s: float
    accepted: int
    done: int
    accepted_per_s: float
    done_per_s: float
    partition_max: int
    catch_up_s: float


def catch_up_s(message_lag: int, accepted_per_s: float, done_per_s: float) -> float:
    """Estimate how long until nothing waits, at these rates."""
    if not message_lag:
        return 0.0
    gain = done_per_s - accepted_per_s
    return message_lag / gain if gain > 0 else inf


class LagHistory:
    """The looks of the last `keep_s` seconds, and what they say of any set of partitions."""

    def __init__(self, keep_s: float = RATE_WINDOW_S) -> None:
        self._keep_s = keep_s
        self._looks: deque[Look] = deque()

    def add(self, look: Look) -> None:
        """Take in the next look."""
        looks = self._looks
        looks.append(look)
        while looks[0].at_s < look.at_s - self._keep_s:
            looks.popleft()

    @property
    def latest(self) -> Look | None:
        """The last look; None before the first."""
        return self._looks[-1] if self._looks else None

    def lag(self, name: str, partitions: Iterable[int]) -> Lag:
        """Say how these partitions stand at the latest look."""
        numbers = list(partitions)
        look = self._looks[-1]
        before = self._before(look.at_s, numbers)
        seconds = look.at_s - before.at_s
        known = [each for each in numbers if each in before.ends and each in look.ends]
        accepted = sum(look.ends[each] - before.ends[each] for each in known)
        done = sum(
            look.positions[each] - before.positions[each]
            for each in known
            if each in before.positions and each in look.positions
        )
        lags = [look.lag(each) for each in numbers]
        oldest = [
            look.oldest_ms[each]
            for each, lag in zip(numbers, lags, strict=True)
            if lag and each in look.oldest_ms
        ]
        message_lag = sum(lags)
        rates = (accepted / seconds, done / seconds) if seconds else (0.0, 0.0)
        return Lag(
            name,
            message_lag=message_lag,
            time_lag_s=max(0.0, look.at_s - min(oldest) / 1000) if oldest else 0.0,
            accepted=sum(look.ends.get(each, 0) for each in numbers),
            done=sum(look.positions.get(each, 0) for each in numbers),
            accepted_per_s=rates[0],
            done_per_s=rates[1],
            partition_max=max(lags, default=0),
            catch_up_s=catch_up_s(message_lag, *rates),
        )

    def by_shard(self, shards: Sequence[Shard]) -> list[Lag]:
        """Say how each shard stands, and all of them together at the end."""
        found = [self.lag(shard.name, shard.partitions) for shard in shards]
        everything = (each for shard in shards for each in shard.partitions)
        return [*found, self.total(found, everything)]

    def total(self, parts: Sequence[Lag], partitions: Iterable[int]) -> Lag:
        """Say how these partitions stand, of which `parts` are all parts.

        All is caught up with when the last part is: a fast shard does not help a dead one.
        """
        longest = max((part.catch_up_s for part in parts), default=0.0)
        return replace(self.lag(TOTAL, partitions), catch_up_s=longest)

    def _before(self, now_s: float, partitions: Sequence[int]) -> Look:
        """Return the look that rates are counted from: the first of the window that has them."""
        looks = self._looks
        first = bisect_left(looks, now_s - RATE_WINDOW_S, key=lambda look: look.at_s)
        for number in range(first, len(looks)):
            if all(each in looks[number].ends for each in partitions):
                return looks[number]
        return looks[-1]
