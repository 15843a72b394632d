"""Incremental fetches from a real broker."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from consumer.fetch_sessions import fetch_incrementally
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS

_UNKNOWN_SESSION: Final = 70


class Wire:
    """Notes what fetches name on their way, and what their answers do."""

    def __init__(self, client: Any) -> None:
        self.named: list[int] = []
        self.answered: list[int] = []
        self.errors: list[int] = []
        self.session_is_lost = False
        self._send = client.send
        client.send = self.send

    async def send(self, node_id: int, request: Any, **options: Any) -> Any:
        prepare = request.prepare

        def prepared(versions: Any) -> Any:
            message = prepare(versions)
            if type(message).__name__.startswith("FetchRequest"):
                self.named.append(sum(len(partitions) for _, partitions in message.topics))
                message.session_id += self.session_is_lost
                self.session_is_lost = False
            return message

        request.prepare = prepared
        answer = await self._send(node_id, request, **options)
        if type(answer).__name__.startswith("FetchResponse"):
            self.answered.append(sum(len(partitions) for _, partitions in answer.topics))
            self.errors.append(answer.error_code)
        return answer


@asynccontextmanager
async def fetching(
    kafka: KafkaSettings, *, bytes_much: int = 2**18, **options: Any
) -> AsyncIterator[tuple[AIOKafkaConsumer, Wire]]:
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        **{"fetch_max_wait_ms": 50, **options},
    )
    wire = Wire(consumer._client)
    fetch_incrementally(consumer, interval_min_s=0.01, bytes_much=bytes_much)
    await consumer.start()
    try:
        consumer.assign([TopicPartition(kafka.topic, each) for each in range(PARTITIONS)])
        yield consumer, wire
    finally:
        await consumer.stop()


async def read(consumer: AIOKafkaConsumer, count: int) -> list[tuple[int, int, bytes]]:
    found: list[tuple[int, int, bytes]] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            for records in (await consumer.getmany(timeout_ms=200)).values():
                found += [(each.partition, each.offset, each.value) for each in records]
    return found


async def write(
    kafka: KafkaSettings, values: range, among: int = PARTITIONS
) -> list[tuple[int, bytes]]:
    """Write to every seventh partition in turn; return partition and value of each."""
    written = [(value % among * 7 % PARTITIONS, str(value).encode()) for value in values]
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, max_batch_size=500)
    await producer.start()
    try:
        for partition, value in written:
            await producer.send(kafka.topic, value, partition=partition)
    finally:
        await producer.stop()
    return written


def by_partition(pairs: list[tuple[int, bytes]]) -> dict[int, list[bytes]]:
    found: dict[int, list[bytes]] = {}
    for partition, value in pairs:
        found.setdefault(partition, []).append(value)
    return found


async def test_only_what_changes_is_named_and_answered(kafka_settings: KafkaSettings) -> None:
    async with fetching(kafka_settings) as (consumer, wire):
        written = await write(kafka_settings, range(300))
        found = await read(consumer, 300)
        named_before = len(wire.named)
        written += await write(kafka_settings, range(300, 600))
        found += await read(consumer, 300)
    assert by_partition([(each[0], each[2]) for each in found]) == by_partition(written)
    assert wire.named[0] == wire.answered[0] == PARTITIONS
    assert len(wire.named) > named_before
    # Each partition that brought something is named again with its next offset, and once more
    # where it was left out while its records waited to be taken.
    assert sum(wire.named[1:]) <= 2 * len(found)
    assert sum(wire.answered[1:]) <= 2 * len(found)
    assert not any(wire.errors)


async def test_nothing_is_lost_where_a_broker_has_forgotten_the_session(
    kafka_settings: KafkaSettings,
) -> None:
    async with fetching(kafka_settings) as (consumer, wire):
        written = await write(kafka_settings, range(100))
        found = await read(consumer, 100)
        wire.session_is_lost = True
        written += await write(kafka_settings, range(100, 200))
        found += await read(consumer, 100)
    assert by_partition([(each[0], each[2]) for each in found]) == by_partition(written)
    assert wire.errors.count(_UNKNOWN_SESSION) == 1
    assert wire.named.count(PARTITIONS) == 2


async def test_what_is_paused_or_read_again_is_fetched_from_where_it_is_wanted(
    kafka_settings: KafkaSettings,
) -> None:
    places = [TopicPartition(kafka_settings.topic, each * 7) for each in range(10)]
    async with fetching(kafka_settings) as (consumer, _):
        await write(kafka_settings, range(10))
        assert len(await read(consumer, 10)) == 10
        consumer.pause(*places[:5])
        await write(kafka_settings, range(10))
        assert {each[0] for each in await read(consumer, 5)} == {each * 7 for each in range(5, 10)}
        consumer.resume(*places[:5])
        assert sorted(each[:2] for each in await read(consumer, 5)) == [
            (each * 7, 1) for each in range(5)
        ]
        for place in places:
            consumer.seek(place, 0)
        assert sorted(each[:2] for each in await read(consumer, 20)) == [
            (each * 7, offset) for each in range(10) for offset in (0, 1)
        ]


@pytest.mark.parametrize("partitions", [1, 3])
async def test_a_backlog_of_few_partitions_is_read_without_a_pause(
    kafka_settings: KafkaSettings, partitions: int
) -> None:
    """A fetch that named only the others would wait for them, two seconds each time."""
    few = {"fetch_max_bytes": 1_000, "max_partition_fetch_bytes": 500, "fetch_max_wait_ms": 2_000}
    async with fetching(kafka_settings, bytes_much=300, **few) as (consumer, wire):
        written = await write(kafka_settings, range(3_000), among=partitions)
        started = time.monotonic()
        found = await read(consumer, 3_000)
        took_s = time.monotonic() - started
    assert by_partition([(each[0], each[2]) for each in found]) == by_partition(written)
    assert len(wire.named) > 10
    assert took_s < 4
