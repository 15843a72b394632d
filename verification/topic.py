"""What a topic holds: every record, read without a group."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from shared.kafka_clients import client_options
from shared.settings import KafkaSettings


async def read_topic(kafka: KafkaSettings, topic: str) -> Sequence[Any]:
    """Return every record that is in a topic now, in order within each partition."""
    async with _reading(kafka, topic) as (consumer, ends):
        records: list[Any] = []
        left = {tp for tp, end in ends.items() if end > await consumer.position(tp)}
        while left:
            for found in (await consumer.getmany(timeout_ms=200)).values():
                records += found
            left = {tp for tp in left if await consumer.position(tp) < ends[tp]}
        return records


async def ends_of(kafka: KafkaSettings, topic: str) -> dict[int, int]:
    """Return by partition the offset just after the last record, where there is any."""
    async with _reading(kafka, topic) as (_, ends):
        return {tp.partition: end for tp, end in ends.items() if end}


@asynccontextmanager
async def _reading(
    kafka: KafkaSettings, topic: str
) -> AsyncIterator[tuple[AIOKafkaConsumer, dict[TopicPartition, int]]]:
    consumer = AIOKafkaConsumer(
        **client_options(kafka, "tidemark-verification"), auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        tps = [TopicPartition(topic, n) for n in range(await _partitions_of(kafka, topic))]
        consumer.assign(tps)
        await consumer.seek_to_beginning(*tps)
        yield consumer, await consumer.end_offsets(tps)
    finally:
        await consumer.stop()


async def _partitions_of(kafka: KafkaSettings, topic: str) -> int:
    admin = AIOKafkaAdminClient(**client_options(kafka, "tidemark-verification"))
    await admin.start()
    try:
        [found] = await admin.describe_topics([topic])
        return len(found["partitions"])
    finally:
        await admin.close()
