"""Forgets first uses of idempotency keys once no update that is still to come may ask for them."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

from consumer.assigned_work import AssignedWork
from consumer.shard_writer import ShardWriter
from shared.topology import ShardMap
from shared.updates import KEY_KNOWN_FOR_MS

INTERVAL_S: Final = 60.0

_CLOCKS_DIFFER_MS: Final = 3_600_000
"""How much earlier than an older update a newer one may seem to have been accepted."""


async def forget_for_ever(
    work: AssignedWork,
    writers: Mapping[str, ShardWriter],
    shard_map: ShardMap,
    *,
    interval_s: float = INTERVAL_S,
    clock: Callable[[], float] = time.time,
) -> None:
    """Have each shard forget, again and again, what its partitions are past.

    Not by the clock alone: where updates have waited for a day, what they repeat must still be
    known. Nor by updates alone: one that was accepted by a clock that is days ahead makes nothing
    older.
    """
    while True:
        await asyncio.sleep(interval_s)
        now_ms = round(clock() * 1000)
        old: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for partition, assigned in work.partitions.items():
            if (done_before_ms := assigned.done_before_ms) is not None:
                shard = shard_map.shard_of(partition).name
                past_ms = min(done_before_ms, now_ms)
                old[shard][partition] = past_ms - KEY_KNOWN_FOR_MS - _CLOCKS_DIFFER_MS
        for shard, before_ms in old.items():
            await writers[shard].forget_uses(before_ms)
