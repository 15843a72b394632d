"""How one consumer's rate changes with more consumers, more or fewer shards, and more rows."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.arms.tidemark import Tidemark
from benchmarks.loads import FULL, ROWS
from benchmarks.measure import Run
from benchmarks.stack import CONSUMERS_MAX, bench_stack
from benchmarks.throughput import Throughput
from deploy.local.ports import SHARDS
from shared.errors import Transient

LOAD: Final = "distinct"
_REPEATS: Final = 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Point:
    """How many there are of each: one of these is not as usual, or none."""

    consumers: int = 1
    shards: int = SHARDS
    rows: int = ROWS

    @property
    def records(self) -> int:
        """How many updates: enough for several consumers to be busy with them together."""
        return FULL if (self.shards, self.rows) == (SHARDS, ROWS) else FULL // 2

    def __str__(self) -> str:
        return f"{self.consumers} consumers, {self.shards} shards, {self.rows:,} rows"


@dataclass(frozen=True, slots=True)
class Scaled:
    """The runs at one point; none where it could not be measured."""

    point: Point
    runs: Sequence[Run]


POINTS: Final = (
    *(Point(consumers=number) for number in range(1, CONSUMERS_MAX + 1)),
    *(Point(shards=number) for number in (1, 2, 8)),
    *(Point(rows=number) for number in (1, 1_000, 100_000, 1_000_000, 5_000_000)),
)


def measure(*, seed: int, otlp_endpoint: str, say: Say) -> Iterator[Scaled]:
    """Yield every point once it is measured, three times each, on a stack of its own."""
    for point in POINTS:
        say(str(point))
        with bench_stack(shards=point.shards) as stack:
            throughput = Throughput.on(
                stack, seed=seed, say=say, rows=point.rows, otlp_endpoint=otlp_endpoint
            )
            arm = Tidemark(processes=point.consumers)
            yield Scaled(point, _runs(throughput, arm, _REPEATS, point.records, say))
            if point == Point():
                say("and once more for a flame graph")
                _runs(throughput, Tidemark(profile=True), 1, point.records, say)


def _runs(throughput: Throughput, arm: Tidemark, repeats: int, records: int, say: Say) -> list[Run]:
    async def measured() -> list[Run]:
        runs = throughput.measure([arm], [LOAD], repeats=repeats, records_max=records)
        return [run async for run in runs]

    try:
        return asyncio.run(measured())
    except Transient as error:  # the other points still count
        say(f"not measured: {error}")
        return []
