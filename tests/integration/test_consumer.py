"""The consumer on a real broker and real shards."""

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import UnknownError
from aiokafka.protocol.group import HeartbeatResponse_v1 as HeartbeatResponse
from aiokafka.protocol.group import SyncGroupResponse_v1 as SyncGroupResponse
from pydantic import SecretStr

from consumer.service import run
from consumer.settings import FetchSettings, InFlightSettings, WriteSettings
from deploy.local.stack import LocalStack
from shared.errors import Misconfigured
from shared.kafka_clients import count_partitions
from shared.settings import KafkaSettings, ListenSettings, read_shard_map
from shared.topology import partition_of
from shared.updates import Update, encode
from tests.consumers import (
    consumer_settings,
    fast_group,
    free_port,
    group_of,
    produce,
    read_topic,
    running_consumer,
)
from tests.records import subscription, update_of
from verification.oracle import Ledger, Position, read_rows
from verification.progress import wait_until_committed

PATIENCE_S = 60

APPS = [f"{prefix:02x}000000-0000-4000-8000-000000000000" for prefix in range(0, 256, 8)]
"""Apps of many partitions, eight of them on each of the four shards."""


def traffic(count: int, seed: int = 1, apps: Sequence[str] = APPS) -> list[Update]:
    """Sets, unsets and counters on few keys, so that every mistake in order shows."""
    pick = random.Random(seed)
    return [
        update_of(
            pick.randrange(20),
            pick.choice(apps),
            tags={pick.choice("abc"): pick.choice([None, "x", pick.randrange(100)])},
            increment={"session_count": 1},
            increment_tags={pick.choice("abc"): 1},
        )
        for _ in range(count)
    ]


async def committed(kafka: KafkaSettings, ledger: Ledger, group: str | None = None) -> None:
    await wait_until_committed(kafka, group or group_of(kafka), ledger.ends())


async def assert_rows_are_right(
    ledger: Ledger,
    shard_map_file: Path,
    dead_lettered: Sequence[Position] = (),
    apps: Sequence[str] = APPS,
) -> None:
    rows = await read_rows(read_shard_map(shard_map_file), apps)
    assert ledger.differences(rows, dead_lettered) == []


async def test_updates_reach_their_rows_and_are_committed(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    ledger = Ledger()
    await produce(kafka_settings, traffic(5_000), ledger)

    async with (
        asyncio.timeout(PATIENCE_S),
        running_consumer(consumer_settings(kafka_settings, shard_map_file)),
    ):
        await committed(kafka_settings, ledger)

    await assert_rows_are_right(ledger, shard_map_file)


async def test_reading_everything_again_changes_nothing(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    ledger = Ledger()
    await produce(kafka_settings, traffic(2_000), ledger)

    async with asyncio.timeout(PATIENCE_S):
        for group in ("first", "second"):
            settings = consumer_settings(kafka_settings, shard_map_file, group=fast_group(group))
            async with running_consumer(settings):
                await committed(kafka_settings, ledger, group)

    await assert_rows_are_right(ledger, shard_map_file)


async def test_partitions_change_hands_while_writes_run(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    ledger = Ledger()
    settings = consumer_settings(kafka_settings, shard_map_file)

    async with asyncio.timeout(PATIENCE_S), running_consumer(settings):
        await produce(kafka_settings, traffic(2_000, seed=1), ledger)
        async with running_consumer(settings):
            await produce(kafka_settings, traffic(5_000, seed=2), ledger)
            async with running_consumer(settings):
                await produce(kafka_settings, traffic(5_000, seed=3), ledger)
            await produce(kafka_settings, traffic(2_000, seed=4), ledger)
        await committed(kafka_settings, ledger)

    await assert_rows_are_right(ledger, shard_map_file)


@pytest.mark.parametrize("what", ["value", "header"])
async def test_what_is_too_large_with_its_reason_is_dead_lettered_without(
    kafka_settings: KafkaSettings, shard_map_file: Path, what: str
) -> None:
    ledger = Ledger()
    app = APPS[0]
    large = b"x" * 1_048_400
    value = b'{"schema":1,"%s":1}' % large if what == "value" else b"not json"
    headers = [("large", large)] if what == "header" else []
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka_settings.bootstrap_servers, max_request_size=2**21
    )
    await producer.start()
    await producer.send_and_wait(
        kafka_settings.topic, value, b"the key", partition_of(app), headers=headers
    )
    await producer.stop()
    await produce(kafka_settings, [update_of(1, app)], ledger)

    async with (
        asyncio.timeout(PATIENCE_S),
        running_consumer(consumer_settings(kafka_settings, shard_map_file)),
    ):
        await committed(kafka_settings, ledger)

    (letter,) = await read_topic(kafka_settings, kafka_settings.dead_letter_topic)
    found = dict(letter.headers)
    assert (letter.key, letter.value) == (b"the key", b"")
    assert found["tidemark.reason"] == b"undecodable"
    assert found["tidemark.offset"] == b"0"
    assert found["tidemark.value_omitted"] == b"too large"


async def test_what_can_never_succeed_is_dead_lettered_as_it_came(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    ledger = Ledger()
    app = APPS[0]
    partition = partition_of(app)
    good = [update_of(n % 3, app, increment={"session_count": 1}) for n in range(100)]
    poisoned = encode(update_of(1, app, tags={"bad": "\x00"}))
    bad = {
        b"not json": "undecodable",
        encode(update_of(1, APPS[-1])): "wrong_partition",
        poisoned: "refused",
    }
    await produce(kafka_settings, good[:50], ledger)
    producer = AIOKafkaProducer(bootstrap_servers=kafka_settings.bootstrap_servers)
    await producer.start()
    sent = {
        value: await producer.send_and_wait(
            kafka_settings.topic, value, b"the key", partition, headers=[("trace", b"t")]
        )
        for value in bad
    }
    await producer.stop()
    await produce(kafka_settings, good[50:], ledger)

    async with (
        asyncio.timeout(PATIENCE_S),
        running_consumer(consumer_settings(kafka_settings, shard_map_file)),
    ):
        await committed(kafka_settings, ledger)

    letters = await read_topic(kafka_settings, kafka_settings.dead_letter_topic)
    assert {letter.value for letter in letters} == set(bad)
    for letter in letters:
        headers = dict(letter.headers)
        assert letter.key == b"the key"
        assert headers["trace"] == b"t"
        assert headers["tidemark.reason"].decode() == bad[letter.value]
        assert headers["tidemark.topic"].decode() == kafka_settings.topic
        assert headers["tidemark.partition"].decode() == str(partition)
        assert headers["tidemark.offset"].decode() == str(sent[letter.value].offset)
        assert headers["tidemark.timestamp"].decode() == str(sent[letter.value].timestamp)
    assert dict(next(each for each in letters if each.value == poisoned).headers)[
        "tidemark.sqlstate"
    ] == (b"22P05")
    await assert_rows_are_right(ledger, shard_map_file)


async def test_a_shard_that_is_down_stops_its_own_partitions_only(
    stack: LocalStack, kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    of_shard_1 = [app for app in APPS if 180 <= partition_of(app) < 360]
    of_others = [app for app in APPS if app not in of_shard_1]
    down, others = Ledger(), Ledger()
    await asyncio.to_thread(stack.shards["shard-1"].kill)
    settings = consumer_settings(
        kafka_settings, shard_map_file, write=WriteSettings(retry_base_ms=20, retry_cap_ms=200)
    )

    async with asyncio.timeout(PATIENCE_S), running_consumer(settings):
        await produce(kafka_settings, traffic(500, seed=1, apps=of_shard_1), down)
        await produce(kafka_settings, traffic(2_000, seed=2, apps=of_others), others)
        await committed(kafka_settings, others)
        await asyncio.to_thread(stack.shards["shard-1"].restart)
        await produce(kafka_settings, traffic(500, seed=3, apps=of_shard_1), down)
        await committed(kafka_settings, down)

    await assert_rows_are_right(others, shard_map_file)
    await assert_rows_are_right(down, shard_map_file)


async def test_a_coordinator_that_answers_oddly_is_joined_again(
    kafka_settings: KafkaSettings, shard_map_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is going away may; after such an answer aiokafka sends no more heartbeats."""
    ledger = Ledger()
    odd = {SyncGroupResponse.API_KEY}
    send = GroupCoordinator._send_req

    async def send_and_answer_oddly(self: GroupCoordinator, request: Any) -> Any:
        response = await send(self, request)
        if response.API_KEY in odd:
            odd.remove(response.API_KEY)
            response.error_code = UnknownError.errno
        return response

    monkeypatch.setattr(GroupCoordinator, "_send_req", send_and_answer_oddly)
    settings = consumer_settings(kafka_settings, shard_map_file)

    async with asyncio.timeout(PATIENCE_S), running_consumer(settings):
        await produce(kafka_settings, traffic(200, seed=1), ledger)
        await committed(kafka_settings, ledger)
        odd.add(HeartbeatResponse.API_KEY)
        while odd:
            await asyncio.sleep(0.02)
        await produce(kafka_settings, traffic(200, seed=2), ledger)
        await committed(kafka_settings, ledger)

    await assert_rows_are_right(ledger, shard_map_file)


async def test_a_row_that_others_hold_stops_itself_only(
    kafka_settings: KafkaSettings, shard_map_file: Path, databases: Mapping[str, SecretStr]
) -> None:
    ledger, app = Ledger(), APPS[0]
    settings = consumer_settings(
        kafka_settings, shard_map_file, write=WriteSettings(lock_timeout_ms=50, retry_cap_ms=200)
    )
    blocker = await asyncpg.connect(databases["shard-0"].get_secret_value())
    transaction = blocker.transaction()

    async def late() -> set[str]:
        rows = await read_rows(read_shard_map(shard_map_file), [app])
        return {each.subscription[1] for each in ledger.differences(rows)}

    async with asyncio.timeout(PATIENCE_S), running_consumer(settings):
        await produce(kafka_settings, [update_of(n, app) for n in range(20)], ledger)
        await committed(kafka_settings, ledger)
        await transaction.start()
        await blocker.execute(
            "SELECT FROM subscriptions WHERE subscription_id = $1 FOR UPDATE", subscription(3)
        )
        await produce(kafka_settings, traffic(2_000, apps=[app]), ledger)
        while await late() != {subscription(3)}:
            await asyncio.sleep(0.02)
        await transaction.rollback()
        await committed(kafka_settings, ledger)

    await blocker.close()
    await assert_rows_are_right(ledger, shard_map_file)
    assert await read_topic(kafka_settings, kafka_settings.dead_letter_topic) == []


async def test_a_partition_over_its_budget_waits_and_goes_on_when_there_is_room(
    kafka_settings: KafkaSettings, shard_map_file: Path, databases: Mapping[str, SecretStr]
) -> None:
    stuck, free = Ledger(), Ledger()
    settings = consumer_settings(
        kafka_settings,
        shard_map_file,
        in_flight=InFlightSettings(partition_records_max=50),
        write=WriteSettings(statement_timeout_ms=60_000, lock_timeout_ms=50_000),
    )
    blocker = await asyncpg.connect(databases["shard-0"].get_secret_value())
    transaction = blocker.transaction()

    async with asyncio.timeout(PATIENCE_S), running_consumer(settings):
        await transaction.start()
        await blocker.execute("LOCK TABLE subscriptions IN ACCESS EXCLUSIVE MODE")
        await produce(kafka_settings, traffic(2_000, seed=1, apps=APPS[:1]), stuck)
        await produce(kafka_settings, traffic(2_000, seed=2, apps=APPS[-2:]), free)
        await committed(kafka_settings, free)
        await transaction.rollback()
        await committed(kafka_settings, stuck)

    await blocker.close()
    await assert_rows_are_right(stuck, shard_map_file)
    await assert_rows_are_right(free, shard_map_file)


async def test_a_backlog_of_many_partitions_waits_in_kafka_while_its_shard_stands_still(
    kafka_settings: KafkaSettings, shard_map_file: Path, databases: Mapping[str, SecretStr]
) -> None:
    ledger = Ledger()
    apps = [f"{prefix:02x}000000-0000-4000-8000-000000000000" for prefix in range(64)]
    settings = consumer_settings(
        kafka_settings,
        shard_map_file,
        listen=ListenSettings(port=free_port()),
        in_flight=InFlightSettings(records_max=1_000),
        fetch=FetchSettings(records_max=100),
        write=WriteSettings(statement_timeout_ms=60_000, lock_timeout_ms=50_000),
    )
    await produce(kafka_settings, traffic(6_400, apps=apps), ledger)
    blocker = await asyncpg.connect(databases["shard-0"].get_secret_value())
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("LOCK TABLE subscriptions IN ACCESS EXCLUSIVE MODE")

    async with (
        asyncio.timeout(PATIENCE_S),
        running_consumer(settings),
        aiohttp.ClientSession(f"http://127.0.0.1:{settings.listen.port}") as session,
    ):
        in_flight = await in_flight_at_standstill(session)
        await transaction.rollback()
        await committed(kafka_settings, ledger)

    await blocker.close()
    share, poll, fair_parts = 250, 100, 64
    assert share <= in_flight <= share + poll + fair_parts
    await assert_rows_are_right(ledger, shard_map_file, apps=apps)


async def in_flight_at_standstill(session: aiohttp.ClientSession) -> int:
    """Return how many records are in flight once that has not changed for a second."""
    seen: deque[int] = deque(maxlen=20)
    while not (len(seen) == seen.maxlen and len(set(seen)) == 1 and seen[0]):
        await asyncio.sleep(0.05)
        with contextlib.suppress(aiohttp.ClientConnectionError):
            async with session.get("/status") as answer:
                seen.append((await answer.json())["records_in_flight"])
    return seen[0]


async def test_a_drain_that_takes_too_long_is_abandoned_and_repeated_by_the_next_owner(
    kafka_settings: KafkaSettings, shard_map_file: Path, databases: Mapping[str, SecretStr]
) -> None:
    ledger = Ledger()
    impatient = consumer_settings(
        kafka_settings,
        shard_map_file,
        group=fast_group(group_of(kafka_settings), drain_timeout_ms=100),
    )
    await produce(kafka_settings, traffic(500, apps=APPS[:1]), ledger)
    blocker = await asyncpg.connect(databases["shard-0"].get_secret_value())
    # A connection of its own: within a transaction the view of activity stands still.
    observer = await asyncpg.connect(databases["shard-0"].get_secret_value())

    async with asyncio.timeout(PATIENCE_S):
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE subscriptions IN ACCESS EXCLUSIVE MODE")
            async with running_consumer(impatient):
                while not await observer.fetchval(
                    "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                    "AND datname = current_database()"
                ):
                    await asyncio.sleep(0.02)
        async with running_consumer(impatient):
            await committed(kafka_settings, ledger)

    await blocker.close()
    await observer.close()
    await assert_rows_are_right(ledger, shard_map_file)


async def test_updates_of_unknown_subscriptions_can_be_ignored(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    ledger = Ledger()
    await produce(kafka_settings, traffic(100), ledger)

    async with (
        asyncio.timeout(PATIENCE_S),
        running_consumer(
            consumer_settings(kafka_settings, shard_map_file, write=WriteSettings(missing="ignore"))
        ),
    ):
        await committed(kafka_settings, ledger)

    assert await read_rows(read_shard_map(shard_map_file), APPS) == {}


async def test_it_refuses_to_start_without_its_topic(
    stack: LocalStack, shard_map_file: Path
) -> None:
    kafka = KafkaSettings(bootstrap_servers=stack.plan.bootstrap_servers, topic="not-there")

    with pytest.raises(Misconfigured, match="does not exist"):
        await run(consumer_settings(kafka, shard_map_file), asyncio.Event())


async def test_it_refuses_to_start_on_a_topic_with_another_number_of_partitions(
    stack: LocalStack, shard_map_file: Path
) -> None:
    kafka = KafkaSettings(bootstrap_servers=stack.plan.bootstrap_servers, topic="twelve")
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic("twelve", num_partitions=12, replication_factor=1)])

    async with asyncio.timeout(PATIENCE_S):
        while "twelve" not in await count_partitions(kafka):
            await asyncio.sleep(0.05)
        with pytest.raises(Misconfigured, match="has 12 partitions"):
            await run(consumer_settings(kafka, shard_map_file), asyncio.Event())

    await admin.delete_topics(["twelve"])
    await admin.close()


async def test_it_refuses_to_start_on_a_holding_topic_with_another_number_of_partitions(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    """Its first hold in a partition that is not there would end it, again at every start."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_settings.bootstrap_servers)
    await admin.start()
    await admin.create_partitions({kafka_settings.held_topic: NewPartitions(61)})
    await admin.close()

    async with asyncio.timeout(PATIENCE_S):
        while (await count_partitions(kafka_settings))[kafka_settings.held_topic] != 61:
            await asyncio.sleep(0.05)
        with pytest.raises(Misconfigured, match="held has 61 partitions"):
            await run(consumer_settings(kafka_settings, shard_map_file), asyncio.Event())


def test_the_apps_of_these_tests_live_on_all_shards() -> None:
    assert {partition_of(app) // 180 for app in APPS} == {0, 1, 2, 3}
    assert subscription(1) != subscription(2)
