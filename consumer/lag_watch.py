"""How far behind this consumer is: looks at Kafka, made exact by what is in memory here."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import structlog

from consumer.assigned_work import AssignedWork
from shared.errors import Misconfigured, Transient
from shared.lag import Lag, LagHistory, Look
from shared.topology import ShardMap

log = structlog.get_logger()

TREND_S: Final = 1_800.0

_LOOK_S: Final = 10.0
"""How long a look may take before it is said that Kafka does not answer."""


class Looks(Protocol):
    """Looks at Kafka; a lag reader is one."""

    async def look(self, *, ages: bool) -> Look:
        """Look once."""


class LagWatch:
    """Looks at Kafka every `interval_s`, and keeps the last half hour by shard.

    `everything` is of all partitions, as their group has committed them. The lags by shard are of
    the partitions that are ours: Kafka says how many records there are, and we know how far we
    are and how old the oldest is.
    """

    def __init__(
        self, looks: Looks, work: AssignedWork, shard_map: ShardMap, *, interval_s: float
    ) -> None:
        self.everything = LagHistory()
        self.accepted: Counter[str] = Counter()
        """Records accepted by shard, in our partitions, while they were ours."""
        self.trend: deque[tuple[float, Mapping[str, Lag]]] = deque(
            maxlen=max(2, int(TREND_S / interval_s))
        )
        """When, and the lags by shard then; the youngest last."""
        self._looks = looks
        self._work = work
        self._shards = shard_map.shards
        self._interval_s = interval_s
        self._answered_at = time.monotonic()
        self._own = LagHistory()
        self._none_waited_ms: dict[int, int] = {}
        self._marks: dict[int, tuple[int, int]] = {}
        """An end of each partition that was not reached yet, and when it was the end."""

    async def run(self) -> None:
        """Look for ever; what Kafka does not say stays as it was."""
        while True:
            try:
                look = await self._looks.look(ages=False)
                self.everything.add(look)
                self._answered_at = time.monotonic()
            except (Transient, Misconfigured) as error:
                log.warning("lag.unknown", reason=str(error))
            if self.everything.latest is not None:
                self._note(self.everything.latest, time.time())
            await asyncio.sleep(self._interval_s)

    @property
    def silent_s(self) -> float:
        """How long Kafka has not answered; 0 as long as the next look is not overdue."""
        age_s = time.monotonic() - self._answered_at
        return age_s if age_s > self._interval_s + _LOOK_S else 0.0

    def by_shard(self) -> Sequence[Lag]:
        """Return the lags of our partitions by shard, and all together; none before the first."""
        return list(self.trend[-1][1].values()) if self.trend else []

    def _note(self, look: Look, now_s: float) -> None:
        own = self._exact(look, now_s)
        before = self._own.latest
        if before is not None:
            for shard in self._shards:
                self.accepted[shard.name] += sum(
                    own.ends[each] - before.ends[each]
                    for each in shard.partitions
                    if each in own.ends and each in before.ends
                )
        self._own.add(own)
        lags = [
            self._own.lag(shard.name, (each for each in shard.partitions if each in own.ends))
            for shard in self._shards
        ]
        lags.append(self._own.total(lags, own.ends))
        self.trend.append((now_s, {lag.name: lag for lag in lags}))

    def _exact(self, look: Look, now_s: float) -> Look:
        """Return what Kafka says of our partitions, with what we know better."""
        ends, positions, oldest = {}, {}, {}
        partitions = self._work.partitions
        # Of one that comes back, nobody here knows what happened meanwhile.
        self._none_waited_ms = {n: at for n, at in self._none_waited_ms.items() if n in partitions}
        self._marks = {n: mark for n, mark in self._marks.items() if n in partitions}
        looked_ms = int(look.at_s * 1000)
        for number, work in partitions.items():
            ends[number] = max(look.ends[number], work.received_to)
            positions[number] = max(
                look.positions[number], look.begins.get(number, 0), work.committable or 0
            )
            end, was_end_ms = self._marks.setdefault(number, (ends[number], looked_ms))
            if positions[number] >= end:
                # Of what had come by then nothing waits, however much has come since.
                self._none_waited_ms[number] = was_end_ms
                self._marks[number] = (ends[number], looked_ms)
            in_memory = work.oldest_accepted_ms
            if in_memory is not None:
                oldest[number] = in_memory
            elif positions[number] < ends[number]:
                # Not fetched yet, or held back: it came after all of which none waits any more.
                oldest[number] = self._none_waited_ms.get(number, int(now_s * 1000))
            if in_memory is None:
                self._none_waited_ms.setdefault(number, looked_ms)
        return Look(now_s, ends, positions, oldest)


def partitions_behind(look: Look, partitions: Iterable[int]) -> Mapping[int, int]:
    """Return the message lag of each of these partitions that has any."""
    lags = {each: look.lag(each) for each in partitions}
    return {each: lag for each, lag in lags.items() if lag}
