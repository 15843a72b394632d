"""How one consumer's rate changes with more consumers, more or fewer shards, and more rows."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.arms.tidemark import Tidemark
from benchmarks.loads import ROWS
from benchmarks.measure import Run
from benchmarks.stack import CONSUMERS_MAX, bench_stack
from benchmarks.throughput import Throughput
from deploy.local.ports import SHARDS

LOAD: Final = "distinct"
_RECORDS: Final = 800_000
_REPEATS: Final = 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Point:
    """How many there are of each: one of these is not as usual, or none."""

    consumers: int = 1
    shards: int = SHARDS
    rows: int = ROWS

    def __str__(self) -> str:
        return f"{self.consumers} consumers, {self.shards} shards, {self.rows:,} rows"


@dataclass(frozen=True, slots=True)
class Scaled:
    """The runs at one point."""

    point: Point
    runs: Sequence[Run]


POINTS: Final = (
    *(Point(consumers=number) for number in range(1, CONSUMERS_MAX + 1)),
    *(Point(shards=number) for number in (1, 2, 8)),
    *(Point(rows=number) for number in (1, 1_000, 100_000, 1_000_000, 5_000_000)),
)


def measure(*, seed: int, otlp_endpoint: str, say: Say) -> list[Scaled]:
    """Measure every point, three times each, on a stack of its own."""
    found = []
    for point in POINTS:
        say(str(point))
        with bench_stack(shards=point.shards) as stack:
            throughput = Throughput.on(
                stack, seed=seed, say=say, rows=point.rows, otlp_endpoint=otlp_endpoint
            )
            runs = asyncio.run(_runs(throughput, Tidemark(processes=point.consumers), _REPEATS))
            if point == Point():
                say("and once more for a flame graph")
                asyncio.run(_runs(throughput, Tidemark(profile=True), 1))
        found.append(Scaled(point, runs))
    return found


async def _runs(throughput: Throughput, arm: Tidemark, repeats: int) -> list[Run]:
    measuring = throughput.measure([arm], [LOAD], repeats=repeats, records_max=_RECORDS)
    return [run async for run in measuring]
