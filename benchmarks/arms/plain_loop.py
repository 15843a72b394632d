"""What is written first: a consumer loop with one UPDATE for each record."""

import asyncio
import contextlib
import json
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import uvloop
from aiokafka import AIOKafkaConsumer

from benchmarks.arms.arm import OurArm, Task
from benchmarks.arms.program import Clock, described, owner_names, read_task, run_module
from benchmarks.loads import SHORTEST, Load
from benchmarks.measure import Rate

_SQL: Final = """
UPDATE subscriptions
SET tags = jsonb_strip_nulls(tags || $3::jsonb), updated_at = to_timestamp($4 / 1000.0),
    applied_epoch = 0, applied_offset = $5
WHERE app_id = $1 AND subscription_id = $2 AND (applied_epoch, applied_offset) < (0, $5)
"""
_RECORDS_PER_POLL: Final = 500


@dataclass(frozen=True, slots=True)
class PlainLoop(OurArm):
    """A plain aiokafka loop."""

    name: str = "plain-loop"
    meaning: str = "aiokafka, one UPDATE after the other"

    def records(self, load: Load) -> int | None:  # noqa: ARG002 - as slow with all of them
        """Take the shortest run of every load."""
        return SHORTEST

    def run(self, task: Task) -> Rate:
        """Consume everything."""
        return run_module(__name__, described(task))


async def _measure(task: dict[str, Any]) -> None:
    connections = {name: await asyncpg.connect(dsn) for name, dsn in task["dsns"].items()}
    owners = [connections[name] for name in owner_names(task)]
    consumer = AIOKafkaConsumer(
        task["topic"],
        bootstrap_servers=task["bootstrap_servers"],
        group_id=task["group"],
        auto_offset_reset="earliest",
    )
    clock = Clock()
    left: int = task["records"]
    async with consumer:
        while left:
            polled = await consumer.getmany(timeout_ms=1_000, max_records=_RECORDS_PER_POLL)
            if polled and not clock.is_running:
                clock.start()
            for tp, records in polled.items():
                for record in records:
                    await _apply(owners[tp.partition], record)
                left -= len(records)
        clock.report(task["records"], task["records"])
    for connection in connections.values():
        await connection.close()


async def _apply(connection: Any, record: Any) -> None:
    update = json.loads(record.value)
    tags = json.dumps(update["tags"])
    position = record.timestamp, record.offset
    with contextlib.suppress(asyncpg.DataError):  # it can never succeed
        await connection.execute(_SQL, update["app_id"], update["subscription_id"], tags, *position)


if __name__ == "__main__":
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(_measure(read_task()))
