"""Updates in Kafka: made once for each load, and read by every arm."""

import asyncio
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from benchmarks.loads import Row, Update, record_value
from operator_cli.topics import DEAD_LETTER_PARTITIONS, create_topics
from shared.errors import Transient
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS

SAMPLED: Final = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
"""A header that says that a span was made where an update was sent."""

SAMPLED_EVERY: Final = 100
RECORDS_PER_BATCH: Final = 250
_BATCH_BYTES_MAX: Final = 900_000
_BATCHES_IN_FLIGHT_MAX: Final = 720


@asynccontextmanager
async def filled_topic(
    bootstrap_servers: str,
    name: str,
    rows: Sequence[Row],
    updates: Sequence[Update],
) -> AsyncIterator[KafkaSettings]:
    """Create a topic that holds the updates in their order; delete it afterwards.

    Its name begins with `name`, and is a new one each time: a topic that was deleted just now may
    still be there.

    One of a hundred says that a span was made of it where it was sent.

    A record's key is the subscription, which Parallel Consumer needs and nobody else looks at.
    Its partition is that of the app, as always.
    """
    async with temporary_topics(
        KafkaSettings(bootstrap_servers=bootstrap_servers, topic=f"{name}-{uuid.uuid4().hex[:12]}")
    ) as kafka:
        await count_updates(kafka)  # returns when every partition has a leader that knows it
        await _produce(kafka, rows, updates)
        found = await count_updates(kafka)
        if found != len(updates):
            raise Transient(f"Topic {name} holds {found} records, not {len(updates)}.")
        yield kafka


@asynccontextmanager
async def temporary_topics(kafka: KafkaSettings) -> AsyncIterator[KafkaSettings]:
    """Create the topics of a consumer, and delete all of them afterwards.

    A broker that keeps thousands of partitions stops for a second again and again to find memory.
    """
    await create_topics(kafka)
    try:
        yield kafka
    finally:
        admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
        await admin.start()
        await admin.delete_topics(
            [kafka.topic, kafka.dead_letter_topic, kafka.holds_topic, kafka.held_topic]
        )
        await admin.close()


async def count_updates(kafka: KafkaSettings) -> int:
    """Count the records of the topic of updates, of which nothing was deleted."""
    return await _count_records(kafka, kafka.topic, PARTITIONS)


async def count_dead_letters(kafka: KafkaSettings) -> int:
    """Count the records of the dead-letter topic, of which nothing was deleted."""
    return await _count_records(kafka, kafka.dead_letter_topic, DEAD_LETTER_PARTITIONS)


async def _count_records(kafka: KafkaSettings, topic: str, count: int) -> int:
    async with AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers) as consumer:
        partitions = [TopicPartition(topic, number) for number in range(count)]
        consumer.assign(partitions)
        ends: dict[TopicPartition, int] = await consumer.end_offsets(partitions)
        return sum(ends.values())


async def _produce(kafka: KafkaSettings, rows: Sequence[Row], updates: Sequence[Update]) -> None:
    by_partition: dict[int, list[Update]] = defaultdict(list)
    sent: set[asyncio.Future[Any]] = set()
    producer = AIOKafkaProducer(
        bootstrap_servers=kafka.bootstrap_servers,
        acks="all",
        enable_idempotence=True,
        max_batch_size=_BATCH_BYTES_MAX,
        max_request_size=8 * 2**20,
    )
    await producer.start()
    try:
        for update in updates:
            partition = rows[update.row].partition
            waiting = by_partition[partition]
            waiting.append(update)
            if len(waiting) == RECORDS_PER_BATCH:
                batch = _batch(producer, rows, by_partition.pop(partition))
                sent.add(await producer.send_batch(batch, kafka.topic, partition=partition))
                if len(sent) == _BATCHES_IN_FLIGHT_MAX:
                    await _acknowledged(sent)
        for partition, waiting in by_partition.items():
            batch = _batch(producer, rows, waiting)
            sent.add(await producer.send_batch(batch, kafka.topic, partition=partition))
        await _acknowledged(sent)
    finally:
        await producer.stop()


async def _acknowledged(sent: set[asyncio.Future[Any]]) -> None:
    await asyncio.gather(*sent)
    sent.clear()


def _batch(producer: AIOKafkaProducer, rows: Sequence[Row], updates: Sequence[Update]) -> Any:
    # The present: the broker deletes what is older than its retention.
    now_ms = time.time_ns() // 1_000_000
    batch = producer.create_batch()
    for number, update in enumerate(updates):
        row = rows[update.row]
        taken = batch.append(
            key=row.subscription_id.encode(),
            value=record_value(row, update.tags),
            timestamp=now_ms,
            headers=[] if number % SAMPLED_EVERY else [SAMPLED],
        )
        assert taken is not None, "a batch is smaller than its limit"
    return batch
