"""A whole stack: started in the right order, healed, scaled, ended, removed."""

import asyncio
import fcntl
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

from deploy.local import homes, jars, kafka, postgres, services
from deploy.local.accounts import postgres_account
from deploy.local.kafka_wire import remove_static_members
from deploy.local.layout import Layout, write_secret
from deploy.local.ports import Plan, require_free
from deploy.local.processes import Daemon, find
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS, ShardMap

TOPIC: Final = "subscription-updates"
_START_TIMEOUT_S: Final = 60.0


class Progress(Protocol):
    """Who is told how far a stack has got."""

    def step(self, what: str) -> None:
        """Hear what is being done now, in a few words."""

    def fetched(self, count: int, total: int) -> None:
        """Hear how many of how many jars are here; not called where none is missing."""


class Silence:
    """Nobody wants to know."""

    def step(self, what: str) -> None:
        """Say nothing."""

    def fetched(self, count: int, total: int) -> None:
        """Say nothing."""


class LocalStack:
    """One broker, four shards, and the services on top, below one state directory.

    Every method may be called again: what is done already is left alone. Tests use it as well as
    `make up`, beside each other on other ports.
    """

    def __init__(self, state: Path, plan: Plan, *, progress: Progress | None = None) -> None:
        self.layout = Layout(state)
        self.plan = plan
        self._progress = progress or Silence()

    @cached_property
    def broker(self) -> Daemon:
        """The Kafka broker."""
        return kafka.broker(self.layout, self.plan)

    @cached_property
    def shards(self) -> dict[str, Daemon]:
        """The Postgres servers by shard name."""
        return {shard.name: shard for shard in postgres.shards(self.layout, self.plan)}

    @cached_property
    def ingest_api(self) -> Daemon:
        """The HTTP service."""
        return services.ingest_api(self.layout, self.plan, TOPIC)

    @cached_property
    def consumers(self) -> list[Daemon]:
        """The consumers of the plan; more may be running."""
        numbers = range(1, self.plan.consumers + 1)
        return [services.consumer(self.layout, self.plan, number, TOPIC) for number in numbers]

    @property
    def infrastructure(self) -> list[Daemon]:
        """What the services need."""
        return [self.broker, *self.shards.values()]

    @property
    def daemons(self) -> list[Daemon]:
        """Everything that the plan lists."""
        return [*self.infrastructure, self.ingest_api, *self.consumers]

    @property
    def kafka_settings(self) -> KafkaSettings:
        """How to reach the broker."""
        return KafkaSettings(bootstrap_servers=self.plan.bootstrap_servers, topic=TOPIC)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from changing this stack; wait for whoever does."""
        self.layout.lock.parent.mkdir(exist_ok=True)
        with self.layout.lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._progress.step("waiting for another make that is changing this stack")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def check_ports(self, daemons: Iterable[Daemon]) -> None:
        """Make sure that what is to be started can listen.

        Raises:
            Misconfigured: a port is taken.
        """
        idle = {daemon.name for daemon in daemons if daemon.process() is None}
        for claim in self.plan.claims():
            if claim.owner in idle:
                require_free(claim)

    def start_infrastructure(self) -> None:
        """Start broker and shards, and give them topics and schema.

        Raises:
            Misconfigured: something cannot be started; the sentence says what to do.
        """
        if self.broker.process() is None:
            jars.require_jars(self._progress.fetched)
        starting = [daemon for daemon in self.infrastructure if not daemon.is_ready()]
        if starting:
            self._progress.step(f"starting {_listing(starting)}")
        postgres.prepare(self.layout, self.plan)
        self._write_shard_map()
        self.start(self.infrastructure)
        self._progress.step("applying migrations, creating topics")
        asyncio.run(self._provide())

    def start(self, daemons: Sequence[Daemon]) -> None:
        """Start daemons side by side, and wait until all are ready."""
        _on_all(Daemon.start, daemons)
        for daemon in daemons:
            daemon.wait_ready(_START_TIMEOUT_S)

    def heal(self) -> None:
        """Bring broker and shards back after a test that paused or killed them."""
        for daemon in self.infrastructure:
            daemon.resume()
        self.start(self.infrastructure)

    def start_services(self) -> None:
        """Start `ingest_api` and the consumers; end consumers beyond the plan.

        Raises:
            Misconfigured: one of them did not become ready.
        """
        surplus = self.surplus_consumers()
        if surplus:
            self._progress.step(f"draining {_listing(surplus)}")
            _on_all(Daemon.stop, surplus)
        if kafka.has_groups(self.layout):
            numbers = range(self.plan.consumers + 1, PARTITIONS + 1)
            gone = [services.instance_id(number) for number in numbers]
            remove_static_members(self.plan.broker, services.GROUP, gone)
        outdated = [each for each in self.consumers if each.was_told_otherwise(services.PEERS)]
        if outdated:  # its page would tell of its own partitions alone, or miss who has gone
            self._progress.step(f"restarting {_listing(outdated)}")
            _on_all(Daemon.stop, outdated)
        daemons = [self.ingest_api, *self.consumers]
        starting = [daemon for daemon in daemons if daemon.process() is None]
        if starting:
            self._progress.step(f"starting {_listing(starting)}")
        self.start(daemons)

    def surplus_consumers(self) -> list[Daemon]:
        """Return the consumers that run and are not in the plan."""
        planned = {daemon.name for daemon in self.consumers}
        found = sorted(self.layout.pid_file("consumer-1").parent.glob("consumer-*.pid"))
        return [
            _unplanned(self.layout, path.stem)
            for path in found
            if path.stem not in planned and find(path)
        ]

    def stop(self) -> None:
        """End everything, the services first; data stays."""
        self._stop_services()
        _on_all(Daemon.stop, self.infrastructure)

    def remove(self) -> None:
        """End everything and remove its data."""
        self._stop_services()
        _on_all(Daemon.discard, self.infrastructure)
        homes.home_of(self.layout, postgres_account()).remove()
        shutil.rmtree(self.layout.state)

    def _stop_services(self) -> None:
        _on_all(Daemon.stop, [self.ingest_api])  # first: what it has accepted can be applied
        _on_all(Daemon.stop, [*self.consumers, *self.surplus_consumers()])

    def save_plan(self) -> None:
        """Keep the plan for commands that come later."""
        write_secret(self.layout.plan, json.dumps(self.plan.as_json()))

    def _write_shard_map(self) -> None:
        shard_map = ShardMap.equal(len(self.plan.shards))
        ports = zip(shard_map.shards, self.plan.shards, strict=True)
        self.write_shard_map(
            self.layout.shard_map, {s.name: postgres.dsn(self.layout, port) for s, port in ports}
        )

    def write_shard_map(self, path: Path, dsns: dict[str, str]) -> None:
        """Write a shard map in which every shard owns the same number of partitions."""
        shards = [
            {"name": each.name, "partitions": [each.first, each.last], "dsn": dsns[each.name]}
            for each in ShardMap.equal(len(dsns)).shards
        ]
        write_secret(path, json.dumps({"version": 1, "shards": shards}, indent=1) + "\n")

    async def _provide(self) -> None:
        from operator_cli.topics import create_topics, wait_until_served

        states = await create_topics(self.kafka_settings)
        await asyncio.gather(wait_until_served(self.kafka_settings, states), self._provide_schema())

    async def _provide_schema(self) -> None:
        from operator_cli.migrations import migrate
        from shared.settings import read_shard_map

        await asyncio.gather(
            *[self._create_database(port, postgres.DATABASE) for port in self.plan.shards]
        )
        await migrate(read_shard_map(self.layout.shard_map).dsns)

    async def _create_database(self, port: int, name: str) -> None:
        import asyncpg

        connection = await asyncpg.connect(postgres.dsn(self.layout, port, "postgres"))
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
                await connection.execute(f'CREATE DATABASE "{name}"')
        finally:
            await connection.close()


def read_plan(layout: Layout) -> Plan | None:
    """Return the plan that a stack was last started with."""
    try:
        return Plan.from_json(json.loads(layout.plan.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _unplanned(layout: Layout, name: str) -> Daemon:
    """Describe a daemon that is only to be ended."""
    return Daemon(
        name=name,
        argv=(),
        env={},
        cwd=layout.state,
        address="",
        pid_file=layout.pid_file(name),
        log_file=layout.log_file(name),
        probe=bool,
    )


def _on_all(action: Callable[[Daemon], None], daemons: Sequence[Daemon]) -> None:
    with ThreadPoolExecutor(len(daemons) or 1) as pool:
        list(pool.map(action, daemons))


def _listing(daemons: Sequence[Daemon]) -> str:
    return ", ".join(daemon.name for daemon in daemons)
