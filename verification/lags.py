"""How long updates waited: from their acceptance to the write that applied them."""

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, NamedTuple

from verification.audit import Write
from verification.oracle import Subscription


class Waited(NamedTuple):
    """One update: where it was, and when it was accepted and applied, in Unix time."""

    partition: int
    accepted_at: float
    applied_at: float

    @property
    def lag_s(self) -> float:
        """The seconds between the two."""
        return self.applied_at - self.accepted_at


async def waits_of(records: Iterable[Any], writes: AsyncIterator[Write]) -> list[Waited]:
    """Find for each record the first write at or above its position."""
    offsets: dict[Subscription, list[int]] = defaultdict(list)
    times: dict[Subscription, list[float]] = defaultdict(list)
    async for write in writes:
        offsets[write.subscription].append(write.after[1])
        times[write.subscription].append(write.at)
    waits = []
    for record in records:
        value = json.loads(record.value)
        subscription = (value["app_id"], value["subscription_id"])
        place = bisect_left(offsets[subscription], record.offset)
        applied_at = times[subscription][place]
        waits.append(Waited(record.partition, record.timestamp / 1000, applied_at))
    return waits


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that `share` of all do not exceed; of none it is 0."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0


def p99_ms(waits: Iterable[Waited], since: float, until: float) -> float:
    """Return the 99th percentile of what was accepted in that time, in milliseconds."""
    return round(percentile(_lags(waits, since, until), 0.99) * 1000, 1)


def longest_ms(waits: Iterable[Waited], since: float, until: float) -> float:
    """Return the longest of what was accepted in that time, in milliseconds."""
    return round(max(_lags(waits, since, until), default=0) * 1000, 1)


def _lags(waits: Iterable[Waited], since: float, until: float) -> list[float]:
    return [each.lag_s for each in waits if since <= each.accepted_at < until]
