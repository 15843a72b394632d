"""Both services over a stack, with topic and databases of their own, kept running like a
supervisor would: what ends by itself is noted, and started again."""

import asyncio
import http.client
import json
import secrets
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import asyncpg
from pydantic import SecretStr

from deploy.local import postgres, services
from deploy.local.kafka_wire import remove_static_members
from deploy.local.ports import Plan
from deploy.local.processes import Daemon
from deploy.local.stack import LocalStack
from deploy.local.testing import fresh_databases, fresh_topic
from shared.settings import KafkaSettings, ShardDirectory
from shared.topology import ShardMap
from tests.chaos.schedule import CONSUMERS_MAX, SESSION_TIMEOUT_S
from tests.chaos.toxiproxy import Toxiproxy
from verification.audit import install_audit

CONSUMER_BOUNDS: Final = {
    "TIDEMARK_GROUP__SESSION_TIMEOUT_MS": str(round(SESSION_TIMEOUT_S * 1000)),
    "TIDEMARK_GROUP__HEARTBEAT_INTERVAL_MS": "300",
    "TIDEMARK_GROUP__DRAIN_TIMEOUT_MS": "2000",
    "TIDEMARK_IN_FLIGHT__RECORDS_MAX": "4000",
    "TIDEMARK_IN_FLIGHT__PARTITION_RECORDS_MAX": "300",
    "TIDEMARK_WRITE__CONNECT_TIMEOUT_MS": "1000",
    "TIDEMARK_WRITE__STATEMENT_TIMEOUT_MS": "2000",
    "TIDEMARK_WRITE__RETRY_BASE_MS": "50",
    "TIDEMARK_WRITE__RETRY_CAP_MS": "1000",
}
"""Small bounds and short times: every one of them is reached in a short run."""

INGEST_BOUNDS: Final = {"TIDEMARK_PRODUCE__ACK_TIMEOUT_MS": "1500"}

_SUPERVISED_EVERY_S: Final = 0.25


@dataclass
class Service:
    """A process that ought to run, unless it is being disturbed on purpose."""

    daemon: Daemon
    wanted: bool = False
    hands_on: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by whoever starts or ends it, or keeps it down."""
    crashes: list[str] = field(default_factory=list)
    """The end of its log, each time that it ended by itself."""


class System:
    """What faults are injected into, and traffic is sent to."""

    def __init__(
        self,
        stack: LocalStack,
        kafka: KafkaSettings,
        *,
        dsns: Mapping[str, SecretStr],
        writer: str,
        proxies: Toxiproxy | None,
        directory: Path,
    ) -> None:
        self.stack = stack
        self.kafka = kafka
        self.dsns = dsns
        self.writer = writer
        """The database role of the consumers; unlike the owner, limits hold for it."""
        self.proxies = proxies
        self.shard_map_file = directory / "shard_map.json"
        self.services: dict[str, Service] = {}
        self.apps: Sequence[str] = ()
        """Whose updates are sent, the busiest first."""
        self._status: dict[str, Mapping[str, Any]] = {}
        self._before_restarts: dict[str, int] = {}

    @property
    def group(self) -> str:
        return f"of-{self.kafka.topic}"

    @property
    def directory(self) -> ShardDirectory:
        """The shards as the oracle reaches them: as their owner, and past any proxy."""
        return ShardDirectory(ShardMap.equal(len(self.dsns)), self.dsns)

    @property
    def ingest(self) -> Service:
        return self.services["ingest-api"]

    @property
    def ingest_url(self) -> str:
        return self.ingest.daemon.address

    @property
    def consumers(self) -> list[Service]:
        return [each for name, each in self.services.items() if name.startswith("consumer-")]

    @property
    def database(self) -> str:
        return next(iter(self.dsns.values())).get_secret_value().rpartition("/")[2]

    def describe_services(
        self, consumer: Mapping[str, str] | None = None, ingest: Mapping[str, str] | None = None
    ) -> None:
        """Decide on ports and settings of the services; start none."""
        free = Plan.on_free_ports(CONSUMERS_MAX)
        plan = replace(self.stack.plan, ingest=free.ingest, status=free.status)
        layout, topic = self.stack.layout, self.kafka.topic
        daemons = [
            services.ingest_api(layout, plan, topic, INGEST_BOUNDS if ingest is None else ingest)
        ]
        extra = {
            "TIDEMARK_SHARD_MAP_FILE": str(self.shard_map_file),
            "TIDEMARK_GROUP__ID": self.group,
            **(CONSUMER_BOUNDS if consumer is None else consumer),
        }
        daemons += [
            services.consumer(layout, plan, number, topic, extra)
            for number in range(1, CONSUMERS_MAX + 1)
        ]
        self.services = {daemon.name: Service(daemon) for daemon in daemons}

    async def start(self, *names: str) -> None:
        """Start services, and wait until they are ready."""
        for name in names:
            service = self.services[name]
            async with service.hands_on:
                service.wanted = True
                await asyncio.to_thread(service.daemon.start)
        for name in names:
            await asyncio.to_thread(self.services[name].daemon.wait_ready)

    async def scale_to(self, count: int) -> None:
        """Run the first `count` consumers; take the others out of the group for good."""
        gone = []
        for number, service in enumerate(self.consumers, start=1):
            async with service.hands_on:
                if number <= count:
                    await asyncio.to_thread(service.daemon.start)
                elif service.wanted:
                    await asyncio.to_thread(service.daemon.stop)
                    gone.append(service.daemon.name)
                service.wanted = number <= count
        while gone:
            try:
                port = self.stack.plan.broker
                await asyncio.to_thread(remove_static_members, port, self.group, gone)
            except OSError:  # the broker is being disturbed
                await asyncio.sleep(0.2)
            else:
                break

    async def supervise(self) -> None:
        """Start again what ended by itself, for ever, and note that it did."""
        while True:
            for service in self.services.values():
                if service.hands_on.locked():
                    continue
                async with service.hands_on:
                    if service.wanted and service.daemon.process() is None:
                        service.crashes.append("\n".join(service.daemon.last_lines(20)))
                        await asyncio.to_thread(service.daemon.start)
            await asyncio.sleep(_SUPERVISED_EVERY_S)

    async def watch(self) -> None:
        """Look at what consumers say of themselves, for ever: a killed one takes it along."""
        while True:
            for service in self.consumers:
                if service.wanted:
                    await self._look_at(service.daemon)
            await asyncio.sleep(0.5)

    async def _look_at(self, daemon: Daemon) -> None:
        status = await asyncio.to_thread(_read_status, daemon.address)
        if status is None:
            return
        before = self._status.get(daemon.name)
        if before is not None and _total(status, "updates_applied") < _total(
            before, "updates_applied"
        ):
            self._keep(before)
        self._status[daemon.name] = status

    def _keep(self, status: Mapping[str, Any]) -> None:
        for name in _COUNTED:
            self._before_restarts[name] = self._before_restarts.get(name, 0) + _total(status, name)

    def counts(self) -> dict[str, int]:
        """Return what was seen of the consumers' counters; a killed one may have counted more."""
        return {
            name: self._before_restarts.get(name, 0)
            + sum(_total(status, name) for status in self._status.values())
            for name in _COUNTED
        }

    async def statuses(self) -> dict[str, Any]:
        """Return what each running consumer says of itself."""
        found = {}
        for service in self.consumers:
            if service.wanted:
                found[service.daemon.name] = await asyncio.to_thread(
                    _read_status, service.daemon.address
                )
        return found

    async def heal(self) -> None:
        """Bring back everything that ought to run."""
        await asyncio.to_thread(self.stack.heal)
        for service in self.services.values():
            async with service.hands_on:
                if service.wanted:
                    await asyncio.to_thread(service.daemon.resume)
                    await asyncio.to_thread(service.daemon.start)

    async def end(self) -> None:
        """End the services."""
        for service in self.services.values():
            async with service.hands_on:
                service.wanted = False
                await asyncio.to_thread(service.daemon.stop)

    async def execute(self, shard: str, *statements: str) -> None:
        """Run statements on a shard, in a connection of its own, as its owner."""
        connection = await asyncpg.connect(self.dsns[shard].get_secret_value())
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


_COUNTED: Final = ("updates_applied", "updates_replayed", "flushes", "flushes_failed")


def _total(status: Mapping[str, Any], name: str) -> int:
    return sum(shard.get(name, 0) for shard in status["shards"].values())


def _read_status(address: str) -> Mapping[str, Any] | None:
    try:
        with urllib.request.urlopen(f"{address}/status", timeout=1) as answer:
            found: Mapping[str, Any] = json.load(answer)
            return found
    except (OSError, http.client.HTTPException, ValueError):  # it may end in the middle
        return None


@asynccontextmanager
async def fresh_system(
    stack: LocalStack, directory: Path, *, proxies: Toxiproxy | None = None
) -> AsyncIterator[System]:
    """Make topic, databases, an audit of every write, and a role that limits hold for."""
    name = f"chaos_{secrets.token_hex(6)}"
    async with AsyncExitStack() as resources:
        writer = await resources.enter_async_context(_role(stack, name))
        dsns = await resources.enter_async_context(fresh_databases(stack, name))
        kafka = await resources.enter_async_context(fresh_topic(stack, name))
        system = System(
            stack, kafka, dsns=dsns, writer=writer, proxies=proxies, directory=directory
        )
        await install_audit(dsns)
        for shard in dsns:
            await system.execute(
                shard, f'GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO "{writer}"'
            )
        ways = {shard: await _way_to(system, shard) for shard in dsns}
        stack.write_shard_map(system.shard_map_file, ways)
        system.describe_services()
        try:
            yield system
        finally:
            await system.end()


async def _way_to(system: System, shard: str) -> str:
    address = system.stack.shards[shard].address
    if system.proxies is not None:
        address = await system.proxies.add_proxy(shard, address)
    secret = postgres.password(system.stack.layout)
    return f"postgresql://{system.writer}:{secret}@{address}/{system.database}"


@asynccontextmanager
async def _role(stack: LocalStack, name: str) -> AsyncIterator[str]:
    """Create an ordinary role on every shard: no limit holds for the owner, a superuser."""
    dsns = [postgres.dsn(stack.layout, port, "postgres") for port in stack.plan.shards]
    secret = postgres.password(stack.layout)
    for dsn in dsns:
        await _execute(dsn, f"CREATE ROLE \"{name}\" LOGIN PASSWORD '{secret}'")
    try:
        yield name
    finally:
        await asyncio.to_thread(stack.heal)
        for dsn in dsns:
            await _execute(dsn, f'DROP ROLE "{name}"')


async def _execute(dsn: str, statement: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
