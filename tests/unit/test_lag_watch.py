"""How old what waits is, of partitions whose records are not in a queue."""

import asyncio
import time
from types import SimpleNamespace
from typing import cast

import pytest

from consumer.assigned_work import AssignedWork
from consumer.lag_watch import LagWatch
from shared.lag import Look
from shared.topology import ShardMap


class Kafka:
    """Gives looks that were written down beforehand, then none."""

    def __init__(self, looks: list[Look]) -> None:
        self.looks = looks

    async def look(self, *, ages: bool) -> Look:
        assert not ages
        while not self.looks:
            await asyncio.sleep(3600)
        return self.looks.pop(0)


@pytest.mark.parametrize(
    ("courses", "age_s"),
    [
        ([(0, 0), (5, 0), (10, 5), (15, 10)], 20),
        ([(0, 0), (5, 0), (10, 0), (15, 4)], 60),
        ([(0, 0), (5, 0), (10, 7), (15, 8)], 40),
        ([(5, 5), (5, 5), (5, 5), (8, 5)], 20),
        ([(5, 5), (8, 5), (8, 5), (8, 8)], 0),
    ],
)
async def test_what_flows_is_no_older_than_the_last_end_that_was_reached(
    courses: list[tuple[int, int]], age_s: int
) -> None:
    """Ends and positions of looks 60, 40, 20 and 0 seconds ago."""
    now_s = time.time()
    looks = [
        Look(now_s - 60 + 20 * number, {0: end}, {0: position}, {})
        for number, (end, position) in enumerate(courses)
    ]
    held = SimpleNamespace(received_to=0, committable=None, oldest_accepted_ms=None)
    work = cast("AssignedWork", SimpleNamespace(partitions={0: held}))
    kafka = Kafka(looks)
    watch = LagWatch(kafka, work, ShardMap.equal(1), interval_s=0.001)

    running = asyncio.create_task(watch.run())
    async with asyncio.timeout(10):
        while len(watch.trend) < len(courses):
            await asyncio.sleep(0)
    running.cancel()

    assert watch.by_shard()[0].time_lag_s == pytest.approx(age_s, abs=2)
