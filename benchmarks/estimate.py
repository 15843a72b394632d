"""What a million updates a second would take, on paper, from measured cost per update.

Costs are CPU seconds of this machine's cores. Nothing folds in this estimate (load *once*), and
every part is to be busy for 70 % of the time: what is left over catches up after a failure.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.measure import Run, Spread
from benchmarks.results import Session
from shared.topology import PARTITIONS

PER_S: Final = 1_000_000
_BUSY: Final = 0.7
_CORES_OF_A_SHARD: Final = 16
_REPLICATION: Final = 3
_RECORD_BYTES: Final = 230
_DOLLARS_PER_CORE_HOUR: Final = 0.05
_HOURS_PER_MONTH: Final = 730
_LOAD: Final = "once"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the system: what an update costs it, and what a million a second need."""

    name: str
    us_per_update: float

    @property
    def cores(self) -> int:
        """Cores that are busy for 70 % of the time."""
        return math.ceil(self.us_per_update * PER_S / 1e6 / _BUSY)


def estimate(session: Session) -> Iterator[str]:
    """Yield lines of Markdown; none where the session did not measure what it takes."""
    runs = session.of("tidemark", _LOAD)
    batches = [
        each["server_cpu_us"]
        for each in session.http
        if (each["arm"], each["kind"]) == ("ingest", "batch")
    ]
    if not runs or not batches:
        return
    ingest = Part("`ingest_api`, batches of 500", Spread.of(batches).median)
    consumer = Part("`consumer`", _median(runs, lambda run: run.rate.client_cpu_s))
    broker = Part("Kafka, fetching only", _median(runs, lambda run: run.broker_cpu_s))
    postgres = Part("Postgres", _median(runs, lambda run: run.postgres_cpu_s))
    parts = (ingest, broker, consumer, postgres)
    yield "## On paper: a million updates a second"
    yield ""
    yield (
        f"From what an update cost on *{_LOAD}* (nothing folds) and by HTTP in this run; each "
        f"part busy for {_BUSY:.0%} of the time; an hour of a core taken as "
        f"{_DOLLARS_PER_CORE_HOUR} dollars, disks and traffic left out. Nobody has measured it."
    )
    yield ""
    yield "| part | µs of CPU an update | cores | which are |"
    yield "|---|---|---|---|"
    for part in parts:
        yield f"| {part.name} | {part.us_per_update:.1f} | {part.cores} | {_which(part)} |"
    cores = sum(part.cores for part in parts)
    dollars = cores * _DOLLARS_PER_CORE_HOUR * _HOURS_PER_MONTH
    us_per_update = sum(part.us_per_update for part in parts)
    yield f"| together | {us_per_update:.1f} | {cores} | {dollars:,.0f} dollars a month |"
    yield ""
    wal_bytes = Spread.of([run.written.wal_bytes / run.records for run in runs]).median
    shards = _shards(postgres)
    yield (f"- Each of {PARTITIONS} partitions takes {PER_S / PARTITIONS:,.0f} updates a second.")
    yield (
        f"- Network: {_mb(_RECORD_BYTES)} MB/s into Kafka, "
        f"{_mb(_RECORD_BYTES * (_REPLICATION - 1))} between {_REPLICATION} replicas, "
        f"{_mb(_RECORD_BYTES)} out of it, uncompressed."
    )
    yield (
        f"- WAL: {_mb(wal_bytes)} MB/s in all, {wal_bytes * PER_S / shards / 1e6:,.0f} on each of "
        f"{shards} shards; as much again to each standby."
    )
    first = max(parts, key=lambda part: part.cores)
    yield (
        f"- {first.name} gives way first: it takes {first.cores / cores:.0%} of all cores. "
        "What folds costs it less, and otherwise only more shards help."
    )
    yield ""


def _median(runs: Sequence[Run], cpu_s: Callable[[Run], float]) -> float:
    return Spread.of([cpu_s(run) / run.records * 1e6 for run in runs]).median


def _shards(postgres: Part) -> int:
    return math.ceil(postgres.cores / _CORES_OF_A_SHARD)


def _which(part: Part) -> str:
    if part.name == "Postgres":
        return f"{_shards(part)} shards of {_CORES_OF_A_SHARD} cores"
    if part.name.startswith("Kafka"):
        return f"{_REPLICATION} brokers; writing costs about as much again for each replica"
    return f"{part.cores} processes"


def _mb(bytes_per_update: float) -> str:
    return f"{bytes_per_update * PER_S / 1e6:,.0f}"
