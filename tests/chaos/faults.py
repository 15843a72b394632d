"""What each kind of fault does to real processes, and how it is undone."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import asyncpg
from aiokafka.errors import KafkaError

from deploy.local.processes import Daemon
from operator_cli import holds
from shared.errors import Transient
from shared.holds import HoldKey
from tests.chaos.schedule import SCALE, PlannedFault
from tests.chaos.system import System

Fault = Callable[[System, str], AbstractAsyncContextManager[None]]
"""Entering does it, leaving undoes it."""

_Act = Callable[[Daemon], None]


class Injector:
    """Injects planned faults at their times, and says so."""

    def __init__(self, system: System, say: Callable[[str], None]) -> None:
        self.injected: list[PlannedFault] = []
        self.left_out: list[PlannedFault] = []
        """Those whose target had not come back from the fault before, as on a busy machine."""
        self._system = system
        self._say = say
        self._busy: dict[str, asyncio.Lock] = {}

    async def run(self, planned: Sequence[PlannedFault]) -> None:
        """Inject every fault; return when all are undone."""
        started = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for fault in planned:
                await asyncio.sleep(max(0.0, started + fault.at_s - time.monotonic()))
                tasks.create_task(self._inject(fault, started), name=str(fault))

    async def _inject(self, fault: PlannedFault, started: float) -> None:
        busy = self._busy.setdefault(fault.target, asyncio.Lock())
        if busy.locked() and fault.kind != SCALE:
            self.left_out.append(fault)
            self._say(f"{time.monotonic() - started:7.1f} s  not {fault}: it is not back yet")
            return
        async with busy:
            self._say(f"{time.monotonic() - started:7.1f} s  {fault}")
            if fault.kind == SCALE:
                await self._system.scale_to(round(fault.duration_s))
            else:
                async with FAULTS[fault.kind](self._system, fault.target):
                    await asyncio.sleep(fault.duration_s)
        self.injected.append(fault)


def _service(end: _Act, begin: _Act) -> Fault:
    """Return the fault that does `end` to a service, and is undone by `begin`."""

    @asynccontextmanager
    async def fault(system: System, target: str) -> AsyncIterator[None]:
        service = system.services[target]
        async with service.hands_on, _ended(service.daemon, end, begin):
            yield

    return fault


def _part(end: _Act, begin: _Act) -> Fault:
    """Return the fault that does `end` to the broker or a shard, and is undone by `begin`."""

    @asynccontextmanager
    async def fault(system: System, target: str) -> AsyncIterator[None]:
        part = system.stack.broker if target == "broker" else system.stack.shards[target]
        try:
            async with _ended(part, end, begin):
                yield
        finally:
            await asyncio.to_thread(part.wait_ready)

    return fault


@asynccontextmanager
async def _ended(daemon: Daemon, end: _Act, begin: _Act) -> AsyncIterator[None]:
    await asyncio.to_thread(end, daemon)
    try:
        yield
    finally:
        await asyncio.to_thread(begin, daemon)


@asynccontextmanager
async def _read_only(system: System, shard: str) -> AsyncIterator[None]:
    await system.execute(
        shard, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"
    )
    try:
        yield
    finally:
        await system.execute(
            shard, "ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"
        )


def _end_connections_of(writer: str) -> str:
    return f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{writer}'"


@asynccontextmanager
async def _refuse_connections(system: System, shard: str) -> AsyncIterator[None]:
    await system.execute(
        shard,
        f'ALTER DATABASE "{system.database}" CONNECTION LIMIT 0',
        _end_connections_of(system.writer),
    )
    try:
        yield
    finally:
        await system.execute(shard, f'ALTER DATABASE "{system.database}" CONNECTION LIMIT -1')


@asynccontextmanager
async def _end_connections(system: System, shard: str) -> AsyncIterator[None]:
    await system.execute(shard, _end_connections_of(system.writer))
    yield


@asynccontextmanager
async def _lock_table(system: System, shard: str) -> AsyncIterator[None]:
    connection = await asyncpg.connect(system.dsns[shard].get_secret_value())
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE subscriptions IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


def _toxic(kind: str, **attributes: int) -> Fault:
    """Return the fault that puts a toxic of the proxy's between consumers and a shard."""

    @asynccontextmanager
    async def fault(system: System, shard: str) -> AsyncIterator[None]:
        assert system.proxies is not None
        await system.proxies.add_toxic(shard, kind, **attributes)
        try:
            yield
        finally:
            await system.proxies.remove_toxic(shard, kind)

    return fault


@asynccontextmanager
async def _cut(system: System, shard: str) -> AsyncIterator[None]:
    assert system.proxies is not None
    await system.proxies.set_enabled(shard, enabled=False)
    try:
        yield
    finally:
        await system.proxies.set_enabled(shard, enabled=True)


@asynccontextmanager
async def _hold(system: System, app: str) -> AsyncIterator[None]:
    """Hold an app's updates back, as an operator would who tries until Kafka has taken it."""
    key = HoldKey(system.apps[int(app.removeprefix("app-"))])
    await _until_done(lambda: holds.add(system.kafka, key, reason="a fault", by="chaos"))
    try:
        yield
    finally:
        await _until_done(lambda: holds.release(system.kafka, key, by="chaos"))


async def _until_done(command: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await command()
        except (Transient, KafkaError):
            await asyncio.sleep(0.2)
        else:
            return


FAULTS: Final[Mapping[str, Fault]] = {
    "consumer.kill": _service(Daemon.kill, Daemon.start),
    "consumer.terminate": _service(Daemon.stop, Daemon.start),
    "consumer.freeze": _service(Daemon.pause, Daemon.resume),
    "consumer.outlive_session": _service(Daemon.pause, Daemon.resume),
    "ingest.kill": _service(Daemon.kill, Daemon.start),
    "ingest.terminate": _service(Daemon.stop, Daemon.start),
    "ingest.freeze": _service(Daemon.pause, Daemon.resume),
    "shard.kill": _part(Daemon.kill, Daemon.start),
    "shard.stop": _part(Daemon.stop, Daemon.start),
    "shard.freeze": _part(Daemon.pause, Daemon.resume),
    "broker.kill": _part(Daemon.kill, Daemon.start),
    "broker.stop": _part(Daemon.stop, Daemon.start),
    "broker.freeze": _part(Daemon.pause, Daemon.resume),
    "app.hold": _hold,
    "shard.read_only": _read_only,
    "shard.refuse_connections": _refuse_connections,
    "shard.end_connections": _end_connections,
    "shard.lock_table": _lock_table,
    "network.delay": _toxic("latency", latency=150, jitter=100),
    "network.cut": _cut,
    "network.swallow": _toxic("timeout", timeout=0),  # nothing comes through, nothing is closed
    "network.reset": _toxic("reset_peer", timeout=0),  # what is under way is cut at once, with RST
}
