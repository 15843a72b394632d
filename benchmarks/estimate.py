"""What a million updates a second would take, on paper, from measured cost per update.

Costs are CPU seconds of this machine's cores. Nothing folds in this estimate (load *once*), and
every part is to be busy for 70 % of the time: what is left over catches up after a failure.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.loads import ROWS
from benchmarks.measure import Run, Spread
from benchmarks.results import Session
from shared.topology import PARTITIONS

PER_S: Final = 1_000_000
_BUSY: Final = 0.7
_CORES_OF_A_SHARD: Final = 16
_REPLICATION: Final = 3
_RECORD_BYTES: Final = 230
_PAGE_BYTES: Final = 8_192
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
    batches, singles = (_http(session, kind, "server_cpu_us") for kind in ("batch", "single"))
    producing = _http(session, "batch", "broker_cpu_us")
    if not runs or not batches or not singles or not producing:
        return
    ingest = Part("`ingest_api`, batches of 500", batches)
    fetching = _median(runs, lambda run: run.broker_cpu_s)
    kafka = Part(f"Kafka, {_REPLICATION} replicas", _REPLICATION * producing + fetching)
    consumer = Part("`consumer`", _median(runs, lambda run: run.rate.client_cpu_s))
    postgres = Part("Postgres", _median(runs, lambda run: run.postgres_cpu_s))
    shards = math.ceil(postgres.cores / _CORES_OF_A_SHARD)
    parts = {
        ingest: f"{ingest.cores} processes",
        kafka: f"brokers; a replica taken as dear as its leader ({producing:.1f} µs), "
        f"and {fetching:.1f} µs to fetch",
        consumer: f"{consumer.cores} processes, of at most {PARTITIONS}",
        postgres: f"{shards} shards of {_CORES_OF_A_SHARD} cores",
    }
    yield "## On paper: a million updates a second"
    yield ""
    yield (
        f"From what an update cost on *{_LOAD}* (nothing folds, {ROWS:,} rows that fit in memory) "
        f"and by HTTP; each part busy for {_BUSY:.0%} of the time; an hour of a core taken as "
        f"{_DOLLARS_PER_CORE_HOUR} dollars, disks and traffic left out. Nobody has measured it."
    )
    yield ""
    yield "| part | µs of CPU an update | cores | which are |"
    yield "|---|---|---|---|"
    for part, which in parts.items():
        yield f"| {part.name} | {part.us_per_update:.1f} | {part.cores} | {which} |"
    cores = sum(part.cores for part in parts)
    dollars = cores * _DOLLARS_PER_CORE_HOUR * _HOURS_PER_MONTH
    us_per_update = sum(part.us_per_update for part in parts)
    yield f"| together | {us_per_update:.1f} | {cores} | {dollars:,.0f} dollars a month |"
    yield ""
    alone = Part("singles", singles)
    yield (
        f"- Sent one by one an update costs `ingest_api` {singles:.1f} µs: {alone.cores} processes "
        f"instead of {ingest.cores}, and Kafka a record batch each."
    )
    yield f"- Each of {PARTITIONS} partitions takes {PER_S / PARTITIONS:,.0f} updates a second."
    yield (
        f"- Network: {_mb(_RECORD_BYTES)} MB/s into Kafka, "
        f"{_mb(_RECORD_BYTES * (_REPLICATION - 1))} between {_REPLICATION} replicas, "
        f"{_mb(_RECORD_BYTES)} out of it, uncompressed; about as much from callers and to Postgres."
    )
    wal_bytes = Spread.of([run.written.wal_bytes / run.records for run in runs]).median
    yield (
        f"- WAL: {_mb(wal_bytes)} MB/s in all, {_mb(wal_bytes / shards)} on each of {shards} "
        f"shards, as much again to each standby. Where there are many more rows than updates "
        f"between two checkpoints, most updates write an image of their page, too: up to "
        f"{_mb(_PAGE_BYTES / shards)} MB/s on each."
    )
    yield _first_to_give_way(parts, consumer, postgres)
    yield ""


def _first_to_give_way(parts: Iterable[Part], consumer: Part, postgres: Part) -> str:
    largest = max(parts, key=lambda part: part.cores)
    of_an_app = _BUSY / consumer.us_per_update * 1e6
    return (
        f"- All parts have the same room, so what grows first is whatever takes longest to add: "
        f"Postgres, {postgres.cores / sum(part.cores for part in parts):.0%} of all cores. "
        "Processes of `ingest_api` and `consumer` join within seconds; a shard has to take over "
        f"partitions with their rows, and its WAL fills a disk before its cores are full. "
        f"The most cores go to {largest.name}. One app is one partition, so it has one consumer: "
        f"{of_an_app:,.0f} updates a second at most, unless they fold."
    )


def _http(session: Session, kind: str, figure: str) -> float | None:
    """Return the median of a figure of the ingest API, if it was measured."""
    found = session.http_figures("ingest", kind, figure)
    return Spread.of(found).median if found else None


def _median(runs: Sequence[Run], cpu_s: Callable[[Run], float]) -> float:
    return Spread.of([cpu_s(run) / run.records * 1e6 for run in runs]).median


def _mb(bytes_per_update: float) -> str:
    return f"{bytes_per_update * PER_S / 1e6:,.0f}"
