"""Creating topics: what is there is never changed."""

import uuid
from collections import Counter

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.offset import OffsetRequest

from deploy.local.stack import LocalStack
from deploy.local.testing import fresh_topic
from operator_cli.topics import (
    DEAD_LETTER_PARTITIONS,
    TopicState,
    create_topics,
    wait_until_served,
)
from shared.errors import Misconfigured, Transient
from shared.holds import HELD_PARTITIONS
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS


async def test_creating_again_changes_nothing(kafka_settings: KafkaSettings) -> None:
    states = await create_topics(kafka_settings)

    assert states == [
        TopicState(kafka_settings.topic, PARTITIONS, created=False),
        TopicState(kafka_settings.dead_letter_topic, DEAD_LETTER_PARTITIONS, created=False),
        TopicState(kafka_settings.held_topic, HELD_PARTITIONS, created=False),
        TopicState(kafka_settings.holds_topic, 1, created=False),
    ]


async def test_settings_that_are_not_as_wanted_are_told_and_left_alone(
    kafka_settings: KafkaSettings,
) -> None:
    wanted = {"min_insync_replicas": 2, "retention_days": 1}

    await create_topics(kafka_settings, **wanted)
    updates, dead_letters, *_ = await create_topics(kafka_settings, **wanted)

    assert updates.differences == [
        "retention.ms is 604800000 where 86400000 is wanted",
        "min.insync.replicas is 1 where 2 is wanted",
    ]
    assert dead_letters.differences == ["min.insync.replicas is 1 where 2 is wanted"]


async def test_a_topic_of_another_size_is_refused(kafka_settings: KafkaSettings) -> None:
    small = KafkaSettings(
        bootstrap_servers=kafka_settings.bootstrap_servers, topic=kafka_settings.dead_letter_topic
    )

    with pytest.raises(Misconfigured, match="has 12 partitions where 720 are needed"):
        await create_topics(small)


async def test_a_broker_that_is_not_there_may_be_there_later() -> None:
    nowhere = KafkaSettings(bootstrap_servers="127.0.0.1:1", topic="updates")

    with pytest.raises(Transient, match=r"Kafka at 127\.0\.0\.1:1 could not be asked"):
        await create_topics(nowhere)


async def test_what_is_served_answers_for_each_partition_at_once(stack: LocalStack) -> None:
    client = AIOKafkaClient(bootstrap_servers=stack.plan.bootstrap_servers)
    await client.bootstrap()
    try:
        async with fresh_topic(stack, f"served-{uuid.uuid4().hex[:12]}") as kafka:
            made = [TopicState(kafka.topic, PARTITIONS, created=True)]

            await wait_until_served(kafka, made)

            ends = [(partition, -1) for partition in range(PARTITIONS)]
            asked = OffsetRequest(-1, 0, [(kafka.topic, ends)])
            answer = await client.send(client.get_random_node(), asked)
    finally:
        await client.close()
    [(_, partitions)] = answer.topics
    assert Counter(error_code for _, error_code, *_ in partitions) == {0: PARTITIONS}
