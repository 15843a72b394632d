"""Arms against each other on the same loads, by turns."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import psutil
from pydantic import SecretStr

from benchmarks.arms.arm import Arm, Task
from benchmarks.arms.tidemark import TIDEMARK
from benchmarks.database import Databases
from benchmarks.loads import LOADS, ROWS, WARM_UP, Load, Row, expected_rows, make_rows
from benchmarks.measure import Run, cpu_of_tree
from benchmarks.topics import count_dead_letters, filled_topic
from deploy.local.processes import Daemon
from deploy.local.stack import LocalStack
from shared.settings import KafkaSettings, read_shard_map

_STATISTICS_DELAY_S: Final = 1.2
"""Postgres publishes what a session did up to a second after it."""

_WARM_UP: Final = ("distinct", WARM_UP)

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A load of one size, in Kafka, and what its rows must hold."""

    kafka: KafkaSettings
    load: str
    records: int
    refused: int

    @property
    def expected(self) -> str:
        return f"{self.load}_{self.records}"


class Throughput:
    """Runs arms on loads; each run starts from the same rows, and has a group of its own."""

    def __init__(
        self,
        stack: LocalStack,
        dsns: Mapping[str, SecretStr],
        *,
        seed: int,
        say: Say,
        rows: int = ROWS,
        otlp_endpoint: str | None = None,
    ) -> None:
        self._stack = stack
        self._dsns = dsns
        self._seed = seed
        self._say = say
        self._otlp_endpoint = otlp_endpoint
        self._rows: Sequence[Row] = make_rows(rows)
        self._databases = Databases(dsns, self._rows)
        self._has_rows = False

    @classmethod
    def on(
        cls,
        stack: LocalStack,
        *,
        seed: int,
        say: Say,
        rows: int = ROWS,
        otlp_endpoint: str | None = None,
    ) -> "Throughput":
        """Use the databases of a stack."""
        dsns = read_shard_map(stack.layout.shard_map).dsns
        return cls(stack, dsns, seed=seed, say=say, rows=rows, otlp_endpoint=otlp_endpoint)

    async def measure(
        self, arms: Sequence[Arm], loads: Sequence[str], *, repeats: int, records_max: int
    ) -> AsyncIterator[Run]:
        """Yield every run as it ends: load after load, all arms by turns.

        All that these loads need is written to Kafka first.

        Where a load is compared with another, Tidemark takes a turn on that directly afterwards: a
        machine's speed changes within minutes.
        """
        if not self._has_rows:
            self._say(f"{len(self._rows):,} rows on {len(self._dsns)} shards · seed {self._seed}")
            await self._databases.load()
            self._has_rows = True
        turns = {load: _turns(arms, LOADS[load], records_max) for load in loads}
        sizes = {each for its in turns.values() for _, each in its}
        warm_up = {_WARM_UP} if any(arm.warms_up for arm in arms) else set()
        async with self._prepared(warm_up | sizes) as prepared:
            for series, its in turns.items():
                for arm, each in its * repeats:
                    yield await self._run(
                        arm, prepared[each], prepared.get(_WARM_UP), series=series
                    )

    @asynccontextmanager
    async def _prepared(
        self, sizes: set[tuple[str, int]]
    ) -> AsyncIterator[Mapping[tuple[str, int], _Prepared]]:
        async with AsyncExitStack() as topics:
            prepared = {}
            for load, size in sorted(sizes):
                purpose = ", to warm up with" if (load, size) == _WARM_UP else ""
                self._say(f"{load}: writing {size:,} records to Kafka{purpose}")
                updates = list(LOADS[load].updates(self._rows, self._seed, size))
                kafka = await topics.enter_async_context(
                    filled_topic(
                        self._stack.plan.bootstrap_servers,
                        f"{load}-{size}",
                        self._rows,
                        updates,
                    )
                )
                refused = sum(update.refused for update in updates)
                made = prepared[load, size] = _Prepared(kafka, load, size, refused)
                await self._databases.expect(made.expected, expected_rows(iter(updates)))
            yield prepared

    async def _run(
        self, arm: Arm, prepared: _Prepared, warm_up: _Prepared | None, *, series: str
    ) -> Run:
        await self._databases.restore()
        servers = {
            "postgres": _processes(self._stack.shards.values()),
            "broker": _processes([self._stack.broker]),
        }
        task = Task(
            stack=self._stack,
            kafka=prepared.kafka,
            dsns=self._dsns,
            group=f"bench-{uuid.uuid4().hex[:12]}",
            load=prepared.load,
            rows=len(self._rows),
            seed=self._seed,
            records=prepared.records,
            otlp_endpoint=self._otlp_endpoint,
            warm_up=warm_up.kafka if warm_up else None,
            begun=lambda: cpu_before.update(_cpu_s(servers)),
        )
        before = await self._databases.written()
        must_keep = prepared.refused if arm.keeps_dead_letters else 0
        letters_before = await count_dead_letters(prepared.kafka) if must_keep else 0
        cpu_before = _cpu_s(servers)
        rate = await asyncio.to_thread(arm.run, task)
        cpu = _cpu_s(servers)
        await asyncio.sleep(_STATISTICS_DELAY_S)
        written = await self._databases.written() - before
        different = await self._databases.count_differences(
            prepared.expected, positions=arm.sets_positions
        )
        letters = await count_dead_letters(prepared.kafka) if must_keep else 0
        run = Run(
            arm=arm.name,
            load=prepared.load,
            series=series,
            records=prepared.records,
            rate=rate,
            postgres_cpu_s=cpu["postgres"] - cpu_before["postgres"],
            broker_cpu_s=cpu["broker"] - cpu_before["broker"],
            written=written,
            rows_different=different,
            letters_missing=max(0, must_keep - (letters - letters_before)),
        )
        self._say(_line(run))
        return run


def _turns(arms: Sequence[Arm], load: Load, records_max: int) -> list[tuple[Arm, tuple[str, int]]]:
    """Return who runs in one round, each on which load and on how many records of it."""
    pairs = []
    for arm in arms:
        pairs.append((arm, load))
        if load.beside is not None and arm.name == TIDEMARK:
            pairs.append((arm, LOADS[load.beside]))
    return [
        (arm, (each.name, min(size, records_max)))
        for arm, each in pairs
        if (size := arm.records(each))
    ]


def _cpu_s(servers: Mapping[str, Sequence[psutil.Process]]) -> dict[str, float]:
    return {name: cpu_of_tree(processes) for name, processes in servers.items()}


def _processes(daemons: Iterable[Daemon]) -> list[psutil.Process]:
    return [process for daemon in daemons if (process := daemon.process())]


def _line(run: Run) -> str:
    rate, written = run.rate, run.written
    who = run.arm if run.load == run.series else f"{run.arm} on {run.load}"
    facts = [
        f"{run.series:9} {who:20} {rate.per_second:>9,.0f}/s",
        f"client {rate.client_cpu_s / rate.updates * 1e6:5.1f} µs",
        f"postgres {run.postgres_cpu_s / run.records * 1e6:5.1f} µs",
        f"{written.rows:,} rows in {rate.statements or written.transactions:,} statements",
        f"{written.wal_bytes / 2**20:,.0f} MiB WAL",
        f"RSS {rate.rss_max_mib:,.0f} MiB",
    ]
    if not run.valid:
        facts.append(f"INVALID: {run.why_not_valid}")
    return " · ".join(facts)
