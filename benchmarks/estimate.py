"""What a million updates a second would take, on paper, from measured cost per update.

Costs are CPU seconds of this machine's cores. Nothing folds in this estimate (load *once*), and
every part is to be busy for 70 % of the time: what is left over catches up after a failure.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.loads import ROWS
from benchmarks.measure import Run, Spread, median_of
from benchmarks.results import HTTP, Session
from consumer.settings import WriteSettings
from operator_cli.topics import RETENTION_DAYS
from shared.topology import PARTITIONS

PER_S: Final = 1_000_000
_BUSY: Final = 0.7
_CORES_OF_A_SHARD: Final = 16
_WAL_MB_PER_S_OF_A_SHARD: Final = 200
"""What one shard's disk, and the stream to its standby, are taken to bear for ever."""
_REPLICATION: Final = 3
_POSTGRES_COPIES: Final = 2
"""A shard and its standby, taken as dear as each other."""
_RECORD_BYTES: Final = 230
_PAGE_BYTES: Final = 8_192
_DOLLARS_PER_CORE_HOUR: Final = 0.05
_DOLLARS_PER_GB_MONTH: Final = 0.08
_DOLLARS_PER_GB_BETWEEN_ZONES: Final = 0.02
_HOURS_PER_MONTH: Final = 730
_STATEMENTS: Final = WriteSettings().flushes_in_flight_max
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
    """Yield lines of Markdown; one that says so where the session did not measure what it takes."""
    yield "## On paper: a million updates a second"
    yield ""
    runs = session.of("tidemark", _LOAD)
    batches, singles = (_http(session, kind, "server_cpu_us") for kind in ("batch", "single"))
    producing, producing_singles = (
        _http(session, kind, "broker_cpu_us") for kind in ("batch", "single")
    )
    if not runs or not batches or not singles or not producing or not producing_singles:
        yield f"Needs *{_LOAD}* and {HTTP}, which were not measured.\n"
        return
    fetching = _us_per_update(runs, lambda run: run.broker_cpu_s)
    ingest = Part("`ingest_api`, batches of 500", batches)
    kafka = Part(f"Kafka, {_REPLICATION} replicas", _REPLICATION * producing + fetching)
    consumer = Part("`consumer`", _us_per_update(runs, lambda run: run.rate.client_cpu_s))
    primaries = Part("Postgres", _us_per_update(runs, lambda run: run.postgres_cpu_s))
    postgres = Part("Postgres, with standbys", _POSTGRES_COPIES * primaries.us_per_update)
    wal_bytes = median_of(runs, lambda run: run.written.wal_bytes / run.records)
    shards = _shards(primaries, wal_bytes)
    parts = {
        ingest: f"{ingest.cores} processes",
        kafka: f"brokers; a replica taken as dear as its leader ({producing:.1f} µs), "
        f"and {fetching:.1f} µs to fetch",
        consumer: f"{consumer.cores} processes, of at most {PARTITIONS}",
        postgres: f"{shards} shards, of at most {_CORES_OF_A_SHARD} cores and "
        f"{_WAL_MB_PER_S_OF_A_SHARD} MB/s of WAL, and as many standbys",
    }
    yield (
        f"From what an update cost on *{_LOAD}* (nothing folds, {ROWS:,} rows that fit in memory) "
        f"and by HTTP; each part busy for {_BUSY:.0%} of the time. Nobody has measured it."
    )
    yield ""
    if session.sitting_of(_LOAD) is not session.sitting_of(HTTP):
        yield (
            f"*{_LOAD}* and {HTTP} were not measured in one sitting, and this machine's speed "
            "changes: sums may be off by a factor of two."
        )
        yield ""
    yield "| part | µs of CPU an update | cores | which are |"
    yield "|---|---|---|---|"
    for part, which in parts.items():
        yield f"| {part.name} | {part.us_per_update:.1f} | {part.cores} | {which} |"
    cores = sum(part.cores for part in parts)
    yield f"| together | {sum(part.us_per_update for part in parts):.1f} | {cores} | |"
    yield ""
    yield _singles(ingest, kafka, singles, _REPLICATION * producing_singles + fetching)
    of_one = 1e6 / consumer.us_per_update
    measured = median_of(runs, lambda run: run.rate.per_second)
    yield (
        f"- Each of {PARTITIONS} partitions takes {PER_S / PARTITIONS:,.0f} updates a second. One "
        f"app is one partition, so it has one consumer: {of_one:,.0f} a second at most, unless "
        f"its updates fold ({measured:,.0f} were measured, beside broker and shards)."
    )
    yield (
        f"- Network: {_mb(_RECORD_BYTES)} MB/s into Kafka, "
        f"{_mb(_RECORD_BYTES * (_REPLICATION - 1))} between {_REPLICATION} replicas, "
        f"{_mb(_RECORD_BYTES)} out of it, uncompressed; about as much from callers and to Postgres."
    )
    yield f"- WAL: {_mb(wal_bytes)} MB/s in all, {_mb(wal_bytes / shards)} on each shard."
    writers = math.ceil(consumer.cores / shards) + 1
    yield (
        f"- Connections: {writers * _STATEMENTS} on a shard, since its partitions are neighbours "
        f"and so have about {writers} consumers, {_STATEMENTS} each; while they change hands "
        f"up to {consumer.cores * _STATEMENTS}, which it has to give."
    )
    yield _cost(cores)
    yield _first_to_give_way(parts, shards)
    yield (
        "- Left out: TLS, load balancers, collectors of spans, backups, and rows that do not fit "
        "in memory, each of which has to be read first."
    )
    yield ""


def _shards(postgres: Part, wal_bytes: float) -> int:
    """Return how many it takes for the cores, or for the WAL if that is more."""
    for_cores = postgres.cores / _CORES_OF_A_SHARD
    for_wal = wal_bytes * PER_S / 1e6 / _WAL_MB_PER_S_OF_A_SHARD / _BUSY
    return math.ceil(max(for_cores, for_wal))


def _singles(ingest: Part, kafka: Part, server_us: float, kafka_us: float) -> str:
    alone, brokers = Part("singles", server_us), Part("singles in Kafka", kafka_us)
    return (
        f"- Sent one by one an update costs `ingest_api` {server_us:.1f} µs and Kafka "
        f"{kafka_us:.1f} µs, since each is a record batch: {alone.cores} processes instead of "
        f"{ingest.cores}, and {brokers.cores} cores of brokers instead of {kafka.cores}."
    )


def _cost(cores: int) -> str:
    month_s = _HOURS_PER_MONTH * 3_600
    kept_gb = _RECORD_BYTES * PER_S * _REPLICATION * RETENTION_DAYS * 86_400 / 1e9
    replicated_gb = _RECORD_BYTES * PER_S * (_REPLICATION - 1) * month_s / 1e9
    for_cores = cores * _DOLLARS_PER_CORE_HOUR * _HOURS_PER_MONTH
    for_disks = kept_gb * _DOLLARS_PER_GB_MONTH
    for_zones = replicated_gb * _DOLLARS_PER_GB_BETWEEN_ZONES
    return (
        f"- Cost: {for_cores:,.0f} dollars a month for cores ({_DOLLARS_PER_CORE_HOUR} an hour), "
        f"{for_disks:,.0f} for the {kept_gb / 1e3:,.0f} TB that Kafka keeps for {RETENTION_DAYS} "
        f"days ({_DOLLARS_PER_GB_MONTH} a GB and month), {for_zones:,.0f} for "
        f"{replicated_gb / 1e3:,.0f} TB between its zones ({_DOLLARS_PER_GB_BETWEEN_ZONES} a GB). "
        "Prices are taken, not asked for. Compression and a shorter retention are what saves; "
        "Postgres' disks depend on the number of rows, and are left out."
    )


def _first_to_give_way(parts: Mapping[Part, str], shards: int) -> str:
    images_mb = _PAGE_BYTES * PER_S / 1e6
    share = images_mb / shards / _WAL_MB_PER_S_OF_A_SHARD
    if share > 1:
        return (
            "- First to give way: the shards' WAL. Where there are many more rows than updates "
            "between two checkpoints, most updates write an image of their page, too: up to "
            f"{images_mb / shards:,.0f} MB/s on each shard, {share:.1f} times what is taken for "
            f"its disk. It would take {share * shards / _BUSY:,.0f} shards, compressed images "
            "(`wal_compression`), or checkpoints further apart."
        )
    largest = max(parts, key=lambda part: part.cores)
    return (
        f"- First to give way: {largest.name}, with the most cores of all; and what takes "
        "longest to add is a shard, which has to take over partitions with their rows."
    )


def _http(session: Session, kind: str, figure: str) -> float | None:
    """Return the median of a figure of the ingest API, if it was measured."""
    found = session.http_figures("ingest", kind, figure)
    return Spread.of(found).median if found else None


def _us_per_update(runs: Sequence[Run], cpu_s: Callable[[Run], float]) -> float:
    return median_of(runs, lambda run: cpu_s(run) / run.records * 1e6)


def _mb(bytes_per_update: float) -> str:
    return f"{bytes_per_update * PER_S / 1e6:,.0f}"
