"""Holds on a real broker and real shards, judged by the ledger."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from pydantic import SecretStr
from typer.testing import CliRunner

from deploy.local.stack import LocalStack
from operator_cli.main import app as tidemark
from shared.settings import KafkaSettings, read_shard_map
from shared.topology import partition_of
from tests.consumers import (
    ServiceProcess,
    consumer_environment,
    group_of,
    kafka_environment,
    produce,
    read_topic,
    service_process,
)
from tests.integration.test_consumer import APPS, traffic
from tests.records import subscription, update_of
from verification.oracle import Ledger, read_rows
from verification.progress import wait_until_committed

PATIENCE_S = 240
SEEN_WITHIN_S = 2.0
HOT, NEIGHBOUR = APPS[0], "00000000-0000-4000-8000-0000000000aa"
"""Two apps of one partition."""


class System:
    def __init__(
        self, kafka: KafkaSettings, shard_map_file: Path, processes: AsyncExitStack
    ) -> None:
        self.kafka = kafka
        self.ledger = Ledger()
        self._shard_map_file = shard_map_file
        self._processes = processes

    async def start(self, instance: str = "consumer-1", **variables: str) -> ServiceProcess:
        environment = consumer_environment(self.kafka, self._shard_map_file, instance)
        consumer = await self._processes.enter_async_context(
            service_process("consumer", {**environment, **variables})
        )
        await consumer.wait_ready()
        return consumer

    async def hold(self, command: str, app: str = HOT, number: int | None = None) -> None:
        words = ["hold", command, "--app", app]
        words += [] if number is None else ["--subscription", subscription(number)]
        words += ["--reason", "a test"] if command == "add" else []
        result = await self._type(words)
        assert result.exit_code == 0, result.output

    async def listed(self, *words: str) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = json.loads(
            (await self._type(["hold", "list", "--json", *words])).stdout
        )
        return found

    async def trimmed(self, *words: str) -> Mapping[str, Any]:
        result = await self._type(["hold", "trim", "--json", *words])
        assert result.exit_code == 0, result.output
        found: Mapping[str, Any] = json.loads(result.stdout)
        return found

    async def _type(self, words: list[str]) -> Any:
        return await asyncio.to_thread(
            CliRunner().invoke, tidemark, words, env=kafka_environment(self.kafka)
        )

    async def send(self, count: int, seed: int, apps: Sequence[str] = APPS) -> None:
        await produce(self.kafka, traffic(count, seed, apps), self.ledger)

    async def settle(self) -> None:
        await wait_until_committed(self.kafka, group_of(self.kafka), self.ledger.ends())

    async def released(self) -> None:
        while await self.listed():
            await asyncio.sleep(0.05)

    async def rows(self) -> Mapping[tuple[str, str], Any]:
        apps = {app for app, _ in self.ledger.accepted}
        return await read_rows(read_shard_map(self._shard_map_file), apps)

    async def wrong(self, *, without: Callable[[str, str], bool] = lambda *_: False) -> object:
        found = self.ledger.differences(await self.rows())
        return [each for each in found if not without(*each.subscription)]


@pytest.fixture
async def system(kafka_settings: KafkaSettings, shard_map_file: Path) -> AsyncIterator[System]:
    async with asyncio.timeout(PATIENCE_S), AsyncExitStack() as processes:
        yield System(kafka_settings, shard_map_file, processes)


async def until(condition: Callable[[Mapping[str, Any]], bool], *of: ServiceProcess) -> None:
    for consumer in of:
        while not condition(await consumer.status()):
            await asyncio.sleep(0.02)


def knows_holds(count: int) -> Callable[[Mapping[str, Any]], bool]:
    return lambda status: status["holds_active"] == count


async def test_a_held_app_stands_still_and_others_go_on(system: System) -> None:
    consumer = await system.start()
    await system.send(2_000, seed=1)
    await system.settle()
    before = {key: row for key, row in (await system.rows()).items() if key[0] == HOT}
    await system.hold("add")
    await until(knows_holds(1), consumer)

    await system.send(5_000, seed=2, apps=[*APPS, NEIGHBOUR])
    await system.settle()

    rows = await system.rows()
    assert {key: row for key, row in rows.items() if key[0] == HOT} == before
    assert await system.wrong(without=lambda app, _: app == HOT) == []
    (listed,) = await system.listed()
    held = await read_topic(system.kafka, system.kafka.held_topic)
    assert (listed["state"], listed["reason"], listed["held"]) == ("holding", "a test", len(held))
    assert (await consumer.status())["updates_held"] == len(held)
    assert {each.key.decode() for each in held} == {HOT}

    await system.hold("release")
    await system.released()

    assert await system.wrong() == []


async def test_a_release_under_load_keeps_the_order_and_counts_once(system: System) -> None:
    consumer = await system.start()
    await system.hold("add")
    await until(knows_holds(1), consumer)
    await system.send(10_000, seed=1, apps=[HOT, NEIGHBOUR])

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(system.send(10_000, seed=2, apps=[HOT, NEIGHBOUR]))
        tasks.create_task(system.hold("release"))
    await system.released()
    await system.send(1_000, seed=3, apps=[HOT, NEIGHBOUR])
    await system.settle()

    assert await system.wrong() == []


async def test_one_subscription_is_held_and_the_others_of_its_app_go_on(system: System) -> None:
    consumer = await system.start()
    await system.hold("add", number=3)
    await until(knows_holds(1), consumer)

    await system.send(2_000, seed=1, apps=[HOT])
    await system.settle()
    held = (HOT, subscription(3))

    assert held not in await system.rows()
    assert await system.wrong(without=lambda *key: key == held) == []

    await system.hold("release", number=3)
    await system.released()

    assert await system.wrong() == []


@pytest.mark.parametrize("app_first", [True, False])
@pytest.mark.parametrize("release_app_first", [True, False])
async def test_holds_of_an_app_and_of_one_of_its_subscriptions_may_overlap(
    system: System, app_first: bool, release_app_first: bool
) -> None:
    consumer = await system.start()
    order = [None, 3] if app_first else [3, None]
    for count, number in enumerate(order, 1):
        await system.hold("add", number=number)
        await until(knows_holds(count), consumer)
        await system.send(500, seed=count, apps=[HOT])
        await system.settle()

    for number in [None, 3] if release_app_first else [3, None]:
        await system.hold("release", number=number)
        await system.send(500, seed=9, apps=[HOT])
    await system.released()
    await system.settle()

    assert await system.wrong() == []


async def test_every_consumer_sees_a_hold_within_two_seconds(system: System) -> None:
    consumers = [await system.start(f"consumer-{n}") for n in range(3)]
    clock = asyncio.get_running_loop().time

    await system.hold("add")
    added = clock()
    await until(knows_holds(1), *consumers)

    assert clock() - added < SEEN_WITHIN_S


async def test_a_consumer_killed_while_holding_and_while_releasing_loses_nothing(
    system: System,
) -> None:
    consumer = await system.start()
    await system.send(1_000, seed=1, apps=[HOT, NEIGHBOUR])
    await system.hold("add")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(system.send(20_000, seed=2, apps=[HOT, NEIGHBOUR]))
        await until(lambda status: status["updates_held"] > 500, consumer)
        await consumer.end(signal.SIGKILL)
        consumer = await system.start()
    await system.settle()
    await system.hold("release")
    await until(lambda status: applied(status) > 100, consumer)
    await consumer.end(signal.SIGKILL)
    await system.send(1_000, seed=3, apps=[HOT, NEIGHBOUR])
    await system.start()
    await system.released()
    await system.settle()

    assert await system.wrong() == []


async def test_the_partition_changes_hands_while_a_release_runs(system: System) -> None:
    first = await system.start("consumer-1")
    await system.hold("add")
    await until(knows_holds(1), first)
    await system.send(20_000, seed=1, apps=[HOT, NEIGHBOUR])
    await system.settle()

    await system.hold("release")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(system.send(5_000, seed=2, apps=[HOT, NEIGHBOUR]))
        await system.start("consumer-0")  # its partitions come first, and HOT's is partition 0
        await system.start("consumer-2")
    await system.released()
    await system.settle()

    assert await system.wrong() == []


async def test_a_former_owner_that_stalled_in_the_middle_of_a_release_does_no_harm(
    system: System, databases: Mapping[str, SecretStr]
) -> None:
    """A row that is locked keeps its release in the middle for as long as wanted.

    What it fetches before it notices that it is the owner no more it may hold back once more.
    """
    first = await system.start("consumer-1", TIDEMARK_HOLDS__RELEASE_RECORDS_MAX="100")
    await system.send(200, seed=1, apps=[HOT])
    await system.settle()
    await system.hold("add")
    await until(knows_holds(1), first)
    await system.send(1_000, seed=2, apps=[HOT, NEIGHBOUR])
    await system.settle()
    locker = await asyncpg.connect(databases["shard-0"].get_secret_value())
    async with locker.transaction():
        await locker.execute(
            "SELECT FROM subscriptions WHERE app_id = $1 AND subscription_id = $2 FOR UPDATE",
            HOT,
            subscription(3),
        )
        await system.hold("release")
        await until(lambda status: status["shards"]["shard-0"]["locked"] == 1, first)
        first.send_signal(signal.SIGSTOP)
    await locker.close()

    second = await system.start("consumer-2")
    await system.send(500, seed=3, apps=[HOT, NEIGHBOUR])
    await system.released()
    await system.hold("add")
    await until(knows_holds(1), second)
    await system.send(500, seed=4, apps=[HOT, NEIGHBOUR])
    await system.settle()
    first.send_signal(signal.SIGCONT)
    await until(lambda status: status["rebalances"] == 2, first)

    assert [each["state"] for each in await system.listed()] == ["holding"]
    await system.hold("release")
    await system.released()
    assert await system.wrong() == []


async def test_a_release_waits_for_a_dead_shard_and_for_nothing_else(
    system: System, stack: LocalStack
) -> None:
    consumer = await system.start()
    await system.hold("add")
    await until(knows_holds(1), consumer)
    await system.send(2_000, seed=1)
    await system.settle()

    await asyncio.to_thread(stack.shards["shard-0"].kill)
    await system.hold("release")
    others = Ledger()
    far = [app for app in APPS if partition_of(app) >= 180]
    await produce(system.kafka, traffic(1_000, 2, far), others)
    await wait_until_committed(system.kafka, group_of(system.kafka), others.ends())
    still = [each["state"] for each in await system.listed()]
    await asyncio.to_thread(stack.shards["shard-0"].restart)
    await system.released()

    assert still == ["releasing"]
    for key, updates in others.accepted.items():
        system.ledger.accepted[key] += updates
    assert await system.wrong() == []


async def test_releases_at_a_dead_shard_leave_room_for_those_of_others(
    system: System, stack: LocalStack
) -> None:
    *dead, alive = [f"{digit}0000000-0000-4000-8000-000000000000" for digit in "0123f"]
    consumer = await system.start()
    for count, app in enumerate([*dead, alive], 1):
        await system.hold("add", app)
        await until(knows_holds(count), consumer)
    await system.send(500, seed=1, apps=[*dead, alive])
    await system.settle()

    await asyncio.to_thread(stack.shards["shard-0"].kill)
    for app in [*dead, alive]:
        await system.hold("release", app)
    await until(knows_holds(len(dead)), consumer)
    left = {each["app"] for each in await system.listed()}
    await asyncio.to_thread(stack.shards["shard-0"].restart)
    await system.released()

    assert left == set(dead)
    assert await system.wrong() == []


async def test_a_hold_may_be_added_again_after_its_release(system: System) -> None:
    consumer = await system.start()
    for seed in range(3):
        await system.hold("add")
        await until(knows_holds(1), consumer)
        await system.send(500, seed=seed, apps=[HOT])
        await system.settle()
        await system.hold("release")
        await system.released()
        await until(knows_holds(0), consumer)
        await system.send(200, seed=seed + 10, apps=[HOT])
    await system.settle()

    assert await system.wrong() == []
    assert [each["state"] for each in await system.listed("--all")] == ["released"]


async def test_a_trim_deletes_what_was_released_and_nothing_that_waits(system: System) -> None:
    consumer = await system.start()
    for count, app in enumerate([HOT, NEIGHBOUR], 1):
        await system.hold("add", app)
        await until(knows_holds(count), consumer)
        await system.send(200, seed=count, apps=[HOT, NEIGHBOUR])
        await system.settle()
    await system.hold("release", HOT)
    await until(knows_holds(1), consumer)
    before = await read_topic(system.kafka, system.kafka.held_topic)

    dry, done = await system.trimmed(), await system.trimmed("--yes")
    after = await read_topic(system.kafka, system.kafka.held_topic)
    await system.hold("release", NEIGHBOUR)
    await system.released()
    await system.trimmed("--yes")

    assert dry["partitions"] == done["partitions"] != []
    assert [each.offset for each in after] == [
        each.offset for each in before if each.offset >= done["partitions"][0]["end"]
    ]
    assert 0 < len(after) < len(before)
    assert await system.wrong() == []
    assert await read_topic(system.kafka, system.kafka.held_topic) == []


async def test_what_is_not_held_cannot_be_released(system: System) -> None:
    result = await system._type(["hold", "release", "--app", HOT])

    assert result.exit_code == 2
    assert "is not held" in result.stderr


async def test_holding_goes_on_after_the_broker_has_refused_a_batch(system: System) -> None:
    consumer = await system.start()
    await system.hold("add")
    await until(knows_holds(1), consumer)
    await system.send(20, seed=1, apps=[HOT])
    await system.settle()

    await configure(system.kafka, {"max.message.bytes": "100"})
    await system.send(20, seed=2, apps=[HOT])
    while b"MessageSizeTooLarge" not in consumer.output:
        await asyncio.sleep(0.05)
    await configure(system.kafka, {"max.message.bytes": "1000000"})
    await system.settle()
    await system.hold("release")
    await system.released()

    assert await system.wrong() == []


async def configure(kafka: KafkaSettings, configs: Mapping[str, str]) -> None:
    """Set options of the holding topic."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    try:
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, kafka.held_topic, configs=dict(configs))]
        )
    finally:
        await admin.close()


async def test_poison_that_was_held_is_dead_lettered_with_its_origin(system: System) -> None:
    consumer = await system.start()
    await system.hold("add")
    await until(knows_holds(1), consumer)
    good = [update_of(1, HOT, increment={"session_count": 1}) for _ in range(50)]
    await produce(system.kafka, good, system.ledger)
    poison = Ledger()
    await produce(system.kafka, [update_of(1, HOT, tags={"bad": "\x00"})], poison)
    await produce(system.kafka, good, system.ledger)
    await system.settle()

    await system.hold("release")
    await system.released()

    (letter,) = await read_topic(system.kafka, system.kafka.dead_letter_topic)
    headers = dict(letter.headers)
    ((position, _),) = poison.accepted[HOT, subscription(1)]
    assert headers["tidemark.topic"].decode() == system.kafka.topic
    assert headers["tidemark.offset"].decode() == str(position.offset)
    assert not [name for name in headers if "held" in name]
    assert await system.wrong() == []


def applied(status: Mapping[str, Any]) -> int:
    found: int = sum(shard["updates_applied"] for shard in status["shards"].values())
    return found
