"""The ceiling: Tidemark's statement on the same rows, from asyncpg alone.

Nothing is fetched, decoded, queued or folded: all statements are made before the clock starts.
"""

import asyncio
import gc
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import uvloop

from benchmarks.arms.arm import OurArm, Task
from benchmarks.arms.program import Clock, described, read_task, run_module
from benchmarks.loads import BASE_TIMESTAMP_MS, LOADS, Load, Row, Update, make_rows
from benchmarks.measure import Rate
from consumer.folding import RowChange
from consumer.store import APPLY, apply_arguments
from shared.topology import ShardMap
from shared.updates import NOTHING

Arguments = tuple[Any, ...]
_NAME: Final = "ceiling"
_LOADS: Final = ("distinct", "once")


@dataclass(frozen=True, slots=True)
class Ceiling(OurArm):
    """The statement alone, so many rows in each and so many under way on each shard."""

    name: str = _NAME
    rows_per_statement: int = 1_000
    connections_per_shard: int = 2
    meaning: str = "Tidemark's statement from asyncpg alone, no Kafka"

    def records(self, load: Load) -> int | None:
        """Take only loads in which nearly every update could be a row of its own."""
        return load.full if load.name in _LOADS else None

    def run(self, task: Task) -> Rate:
        """Execute all statements as fast as the shards take them."""
        return run_module(
            __name__,
            described(
                task,
                rows_per_statement=self.rows_per_statement,
                connections_per_shard=self.connections_per_shard,
            ),
        )


def _statements(
    rows: Sequence[Row], updates: Iterator[Update], lanes: int, size: int
) -> dict[tuple[str, int], list[Arguments]]:
    """Return the arguments of all statements, by shard and lane.

    A row is always in the same lane, so that it is never written by two at once; and once in a
    statement, as MERGE demands: its next update waits for the next statement.
    """
    shards = ShardMap.equal(4)
    names = [shards.shard_of(number).name for number in range(720)]
    waiting: dict[tuple[str, int], list[Update]] = defaultdict(list)
    for update in updates:
        waiting[names[rows[update.row].partition], update.row % lanes].append(update)
    return {lane: list(_batches(rows, each, size)) for lane, each in waiting.items()}


def _batches(rows: Sequence[Row], updates: list[Update], size: int) -> Iterator[Arguments]:
    left = updates[::-1]
    while left:
        chosen: list[Update] = []
        seen: set[int] = set()
        deferred: list[Update] = []
        while left and len(chosen) < size:
            update = left.pop()
            if update.row in seen:
                deferred.append(update)
            else:
                seen.add(update.row)
                chosen.append(update)
        left.extend(reversed(deferred))
        changes = [_change(rows[each.row], each) for each in chosen]
        yield apply_arguments(changes, topic_epoch=0, create_missing=True)


def _change(row: Row, update: Update) -> RowChange:
    return RowChange(
        row.app_id,
        row.subscription_id,
        tags=json.loads(update.tags),
        properties=NOTHING,
        increment=NOTHING,
        increment_tags=NOTHING,
        first_offset=update.offset,
        last_offset=update.offset,
        accepted_ms=BASE_TIMESTAMP_MS + update.offset,
    )


async def _execute(connection: Any, statements: Sequence[Arguments]) -> None:
    for arguments in statements:
        await connection.execute(APPLY, *arguments)


async def _measure(task: dict[str, Any]) -> None:
    rows = make_rows(task["rows"])
    lanes = task["connections_per_shard"]
    updates = LOADS[task["load"]].updates(rows, task["seed"], task["records"])
    statements = _statements(rows, updates, lanes, task["rows_per_statement"])
    connections = {
        (name, lane): await asyncpg.connect(dsn)
        for name, dsn in task["dsns"].items()
        for lane in range(lanes)
    }
    for connection in connections.values():
        await connection.execute("SELECT 1")
    gc.collect()
    gc.freeze()
    clock = Clock()
    clock.start()
    await asyncio.gather(*(_execute(connections[lane], each) for lane, each in statements.items()))
    clock.report(task["records"], sum(map(len, statements.values())))
    for connection in connections.values():
        await connection.close()


if __name__ == "__main__":
    uvloop.run(_measure(read_task()))
