"""What a good engineer writes in an afternoon: poll, fold by row, one statement for each shard.

It waits for the slowest shard before it polls again, so one that hangs stops all; it has no
retries, no dead letters, no drain on a rebalance, and tells nobody how it is.
"""

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import msgspec
import uvloop
from aiokafka import AIOKafkaConsumer

from benchmarks.arms.arm import OurArm, Task
from benchmarks.arms.program import Clock, described, owner_names, read_task, run_module
from benchmarks.loads import Load
from benchmarks.measure import Rate

_SQL: Final = """
UPDATE subscriptions AS row
SET tags = jsonb_strip_nulls(row.tags || change.tags),
    updated_at = to_timestamp(change.accepted_ms / 1000.0),
    applied_epoch = 0, applied_offset = change.position
FROM unnest($1::uuid[], $2::uuid[], $3::jsonb[], $4::bigint[], $5::bigint[])
    AS change (app_id, subscription_id, tags, accepted_ms, position)
WHERE row.app_id = change.app_id AND row.subscription_id = change.subscription_id
    AND (row.applied_epoch, row.applied_offset) < (0, change.position)
"""
_RECORDS_PER_POLL: Final = 8_000


class _Update(msgspec.Struct, gc=False):
    app_id: str
    subscription_id: str
    tags: dict[str, Any]


_Stamped = tuple[dict[str, Any], int, int]
"""Tags, when they were accepted in milliseconds, and the offset."""

_Waiting = dict[tuple[str, str], list[_Stamped]]
"""What waits for each row, in its order."""

_decode = msgspec.json.Decoder(_Update).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class BatchLoop(OurArm):
    """A loop that writes what it polled in one statement for each shard."""

    name: str = "batch-loop"
    meaning: str = "aiokafka, each poll folded by row and written as one UNNEST statement per shard"

    def records(self, load: Load) -> int | None:
        """Apply all of every load."""
        return load.full

    def run(self, task: Task) -> Rate:
        """Consume everything."""
        return run_module(__name__, described(task))


async def _measure(task: dict[str, Any]) -> None:
    connections = {name: await asyncpg.connect(dsn) for name, dsn in task["dsns"].items()}
    owners = owner_names(task)
    consumer = AIOKafkaConsumer(
        task["topic"],
        bootstrap_servers=task["bootstrap_servers"],
        group_id=task["group"],
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    clock = Clock()
    left, statements = int(task["records"]), 0
    async with consumer:
        while left:
            polled = await consumer.getmany(timeout_ms=1_000, max_records=_RECORDS_PER_POLL)
            if polled and not clock.is_running:
                clock.start()
            by_shard: defaultdict[str, _Waiting] = defaultdict(dict)
            for tp, records in polled.items():
                _sort(records, by_shard[owners[tp.partition]])
                left -= len(records)
            written = await asyncio.gather(
                *(_write(connections[name], waiting) for name, waiting in by_shard.items())
            )
            statements += sum(written)
            if polled:
                await consumer.commit()
        clock.report(task["records"], statements)
    for connection in connections.values():
        await connection.close()


def _sort(records: list[Any], waiting: _Waiting) -> None:
    for record in records:
        update = _decode(record.value)
        stamped = (update.tags, record.timestamp, record.offset)
        waiting.setdefault((update.app_id, update.subscription_id), []).append(stamped)


def _fold(updates: list[_Stamped]) -> _Stamped:
    if len(updates) == 1:
        return updates[0]
    tags: dict[str, Any] = {}
    for each, _, _ in updates:
        tags |= each
    return tags, *updates[-1][1:]


async def _write(connection: Any, waiting: _Waiting) -> int:
    """Write what waits and return the statements; what Postgres refuses is found and dropped."""
    folded = [_fold(updates) for updates in waiting.values()]
    try:
        await connection.execute(
            _SQL,
            [app for app, _ in waiting],
            [subscription for _, subscription in waiting],
            [_encode(tags).decode() for tags, _, _ in folded],
            [accepted_ms for _, accepted_ms, _ in folded],
            [offset for _, _, offset in folded],
        )
    except asyncpg.DataError:
        return 1 + sum([await _write(connection, part) for part in _halves(waiting)])
    return 1


def _halves(waiting: _Waiting) -> list[_Waiting]:
    """Return two parts of several rows, the older and the newer updates of one, nothing of one."""
    if len(waiting) > 1:
        pairs = list(waiting.items())
        middle = len(pairs) // 2
        return [dict(pairs[:middle]), dict(pairs[middle:])]
    [(key, updates)] = waiting.items()
    middle = len(updates) // 2
    return [{key: updates[:middle]}, {key: updates[middle:]}] if middle else []


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(_measure(read_task()))
