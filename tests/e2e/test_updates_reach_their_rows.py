"""Both services as processes, real HTTP in front and real rows behind."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy.local import credentials
from operator_cli.smoke import update_and_wait
from operator_cli.subscriptions import read_subscription
from shared.errors import Misconfigured
from shared.settings import KafkaSettings, read_shard_map
from tests.consumers import (
    ServiceProcess,
    consumer_environment,
    group_of,
    ingest_environment,
    read_topic,
    service_process,
)
from verification.oracle import Ledger, read_rows
from verification.progress import wait_until_committed
from verification.sender import Sender
from verification.traffic import CustomerMix, Request

PATIENCE_S = 120


@dataclass
class System:
    """`ingest_api` and consumers of this test, and everything that was accepted."""

    kafka: KafkaSettings
    shard_map_file: Path
    ingest: ServiceProcess
    processes: AsyncExitStack
    ledger: Ledger = field(default_factory=Ledger)

    async def start_consumer(self, instance: str, **variables: str) -> ServiceProcess:
        environment = consumer_environment(self.kafka, self.shard_map_file, instance) | variables
        consumer = await self.processes.enter_async_context(
            service_process("consumer", environment)
        )
        await consumer.wait_ready()
        return consumer

    def sender(self, connections: int = 16) -> Sender:
        return Sender(
            self.ingest.url, self.ledger, headers=credentials.headers(), connections=connections
        )

    async def settle(self) -> None:
        await wait_until_committed(self.kafka, group_of(self.kafka), self.ledger.ends())

    async def differences(self) -> object:
        apps = {app for app, _ in self.ledger.accepted}
        rows = await read_rows(read_shard_map(self.shard_map_file), apps)
        return self.ledger.differences(rows)


@pytest.fixture
async def system(kafka_settings: KafkaSettings, shard_map_file: Path) -> AsyncIterator[System]:
    async with AsyncExitStack() as processes:
        ingest = await processes.enter_async_context(
            service_process("ingest_api", ingest_environment(kafka_settings))
        )
        await ingest.wait_ready()
        yield System(kafka_settings, shard_map_file, ingest, processes)


@asynccontextmanager
async def patiently() -> AsyncIterator[None]:
    async with asyncio.timeout(PATIENCE_S):
        yield


async def test_a_customer_mix_ends_in_the_rows_that_the_model_says(system: System) -> None:
    mix = CustomerMix(3, apps=20, subscriptions=200)

    async with patiently():
        await system.start_consumer("consumer-1")
        await system.sender().send_all(mix.requests(5_000))
        await system.settle()

    assert system.ledger.count == 5_000
    assert not system.ledger.unknown
    assert await system.differences() == []


async def test_the_order_of_one_subscription_is_the_order_of_its_receipts(system: System) -> None:
    """Sets, unsets and increments of the same keys: any two that change places show."""
    mix = CustomerMix(4, apps=1, subscriptions=1)
    (app,) = mix.apps
    device = next(mix.requests(1)).updates[0][0]

    def requests() -> Iterator[Request]:
        for number in range(10_000):
            body = mix.body() if number % 2 else {"tags": {"n": number}}
            yield Request(app, [(device, body)], single=True)

    async with patiently():
        await system.start_consumer("consumer-1")
        await system.sender(connections=32).send_all(requests())
        await system.settle()

    assert system.ledger.count == 10_000
    assert await system.differences() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_consumer_that_ends_under_load_loses_and_repeats_nothing(
    system: System, number: signal.Signals
) -> None:
    mix = CustomerMix(5, apps=40, subscriptions=400)

    async with patiently():
        consumer = await system.start_consumer("consumer-1")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(system.sender().send_all(mix.requests(20_000)))
            for _ in range(3):
                while not _applied(await consumer.status()):
                    await asyncio.sleep(0.02)
                status = await consumer.end(number)
                assert status == (0 if number is signal.SIGTERM else -number)
                consumer = await system.start_consumer("consumer-1")
        await system.settle()

    assert await system.differences() == []


async def test_consumers_come_and_go_under_load(system: System) -> None:
    mix = CustomerMix(6, apps=40, subscriptions=400)

    async with patiently():
        first = await system.start_consumer("consumer-1")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(system.sender().send_all(mix.requests(20_000)))
            await system.start_consumer("consumer-2")
            await system.start_consumer("consumer-3")
            while not _applied(await first.status()):
                await asyncio.sleep(0.02)
            await first.end(signal.SIGKILL)
        await system.settle()

    assert await system.differences() == []


async def test_ingest_that_is_told_to_end_answers_what_it_has_accepted(system: System) -> None:
    mix = CustomerMix(7, apps=40, subscriptions=400)
    sender = system.sender()

    async with patiently():
        await system.start_consumer("consumer-1")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(sender.send_all(mix.requests(20_000)))
            while system.ledger.count < 2_000:
                await asyncio.sleep(0.01)
            sender.patient = False  # what nobody is there to take is given up
            status = await system.ingest.end(signal.SIGTERM)
        await system.settle()
        stored = await read_topic(system.kafka, system.kafka.topic)

    assert status == 0
    assert 2_000 <= system.ledger.count < 20_000
    # A connection may be closed before its next request is read, but then nothing was stored.
    assert len(stored) == system.ledger.count
    assert await system.differences() == []


async def test_a_rolling_restart_of_three_consumers_moves_no_partition(system: System) -> None:
    mix = CustomerMix(8, apps=40, subscriptions=400)
    names = [f"consumer-{number}" for number in range(3)]
    session = {"TIDEMARK_GROUP__SESSION_TIMEOUT_MS": f"{PATIENCE_S * 2_000}"}

    async with patiently():
        consumers = [await system.start_consumer(name, **session) for name in names]
        while [(await each.status())["partitions"] for each in consumers] != [240] * 3:
            await asyncio.sleep(0.02)
        joined = [(await each.status())["rebalances"] for each in consumers]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(system.sender().send_all(mix.requests(20_000)))
            for number, name in enumerate(names):
                while not _applied(await consumers[number].status()):
                    await asyncio.sleep(0.02)
                assert await consumers[number].end(signal.SIGTERM) == 0
                consumers[number] = await system.start_consumer(name, **session)
                joined[number] = 1
                statuses = [await each.status() for each in consumers]
                assert [each["rebalances"] for each in statuses] == joined
                assert [each["partitions"] for each in statuses] == [240] * 3
        await system.settle()

    assert await system.differences() == []


async def test_a_consumer_that_is_not_to_come_back_hands_its_partitions_over_at_once(
    system: System,
) -> None:
    """A static member that only stops would keep them for a session longer than our patience."""
    session = {"TIDEMARK_GROUP__SESSION_TIMEOUT_MS": f"{PATIENCE_S * 2_000}"}

    async with patiently():
        first = await system.start_consumer("consumer-1", **session)
        second = await system.start_consumer("consumer-2", **session)
        while (await first.status())["partitions"] != 360:
            await asyncio.sleep(0.02)
        ended = await second.end(signal.SIGUSR1)
        while (await first.status())["partitions"] != 720:
            await asyncio.sleep(0.02)

    assert ended == 0


async def test_the_smoke_test_of_a_release_sends_an_update_and_finds_its_row(
    system: System,
) -> None:
    directory = read_shard_map(system.shard_map_file)
    app = "00000000-0000-4000-8000-000000000001"

    async with patiently():
        await system.start_consumer("consumer-1")
        for _ in range(2):
            took = await update_and_wait(
                system.ingest.url, app, directory, token=credentials.token(), timeout_s=30
            )
        row = await read_subscription(directory, app, app)

    assert took.shard == "shard-0"
    assert row is not None
    assert row.properties == {"session_count": 2}
    with pytest.raises(Misconfigured, match="is not a UUID"):
        await update_and_wait(system.ingest.url, "x", directory, token=None, timeout_s=1)
    without_scheme = system.ingest.url.removeprefix("http://")
    with pytest.raises(Misconfigured, match="write http://host:port"):
        await update_and_wait(without_scheme, app, directory, token=None, timeout_s=1)


def _applied(status: object) -> int:
    assert isinstance(status, dict)
    return sum(shard["updates_applied"] for shard in status["shards"].values())
