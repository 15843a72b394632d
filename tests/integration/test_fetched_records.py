"""Records from a real broker, as the consumer's client makes them."""

import asyncio

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from consumer.fetched_records import FetchedRecord, fetch_small_records
from shared.settings import KafkaSettings

PLACE = 7


async def test_they_hold_what_was_sent(kafka_settings: KafkaSettings) -> None:
    fetch_small_records()
    bootstrap, topic = kafka_settings.bootstrap_servers, kafka_settings.topic
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(
            topic, b"value", b"key", PLACE, timestamp_ms=1_234, headers=[("name", b"of it")]
        )
        await producer.send_and_wait(topic, None, b"key", PLACE, timestamp_ms=1_235)
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        place = TopicPartition(topic, PLACE)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        async with asyncio.timeout(30):
            found = [await consumer.getone(), await consumer.getone()]

    assert found == [
        FetchedRecord(topic, PLACE, 0, 1_234, b"key", b"value", (("name", b"of it"),)),
        FetchedRecord(topic, PLACE, 1, 1_235, b"key", None, ()),
    ]
