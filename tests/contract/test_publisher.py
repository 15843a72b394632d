"""What a publisher promises, held against Kafka's and against the one in memory."""

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from deploy.local.stack import LocalStack
from ingest_api.aiokafka_insides import fail_unanswered, is_connected
from ingest_api.producer import open_producer
from ingest_api.publisher import KafkaPublisher, open_publisher
from ingest_api.publishing import Publisher
from ingest_api.settings import IngestSettings, ProduceSettings
from shared.bounded_http import HttpSettings
from shared.errors import Transient
from shared.settings import KafkaSettings
from shared.topology import partition_of
from tests.fake_publisher import FakePublisher

APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
NEIGHBOUR = "d9c1ffff-5b40-4f6e-9a3d-0e8b7c6f1a25"
"""Another app of the same partition."""
ELSEWHERE = "00000000-5b40-4f6e-9a3d-0e8b7c6f1a25"
PATIENCE_S = 60


async def connected(publisher: KafkaPublisher) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not publisher.connected_once:
            await asyncio.sleep(0.01)


@pytest.fixture(params=["fake", "kafka"])
def kafka(request: pytest.FixtureRequest) -> KafkaSettings | None:
    # Not from an async fixture: starting the stack needs a loop of its own.
    return request.getfixturevalue("kafka_settings") if request.param == "kafka" else None


@pytest.fixture
async def publisher(kafka: KafkaSettings | None) -> AsyncIterator[Publisher]:
    if kafka is None:
        yield FakePublisher()
    else:
        patient = ProduceSettings(enqueue_timeout_ms=30_000, ack_timeout_ms=30_000)
        settings = IngestSettings(
            kafka=kafka, produce=patient, http=HttpSettings(drain_timeout_ms=60_000)
        )
        async with open_publisher(settings) as kafka_publisher:
            await connected(kafka_publisher)
            yield kafka_publisher


@pytest.fixture(params=["fake", "kafka"])
async def unconnected(request: pytest.FixtureRequest) -> Publisher:
    if request.param == "fake":
        return FakePublisher(connected_once=False)
    return KafkaPublisher(IngestSettings())


def positions(receipts: list[str]) -> list[tuple[int, int, int]]:
    split = [tuple(map(int, receipt.split("."))) for receipt in receipts]
    return [(epoch, partition, offset) for epoch, partition, offset in split]


async def test_a_receipt_names_the_position(publisher: Publisher) -> None:
    [first] = positions(await publisher.publish(APP, [b"1"]))
    [second] = positions(await publisher.publish(APP, [b"2"]))

    assert first == (0, partition_of(APP), 0)
    assert second == (0, partition_of(APP), 1)


async def test_a_batch_has_receipts_in_its_order(publisher: Publisher) -> None:
    receipts = positions(await publisher.publish(APP, [b"%d" % n for n in range(10)]))

    assert receipts == [(0, partition_of(APP), offset) for offset in range(10)]


async def test_apps_of_one_partition_share_its_offsets(publisher: Publisher) -> None:
    [ours] = positions(await publisher.publish(APP, [b"1"]))
    theirs = positions(await publisher.publish(NEIGHBOUR, [b"2", b"3"]))
    [elsewhere] = positions(await publisher.publish(ELSEWHERE, [b"4"]))

    assert [ours, *theirs] == [(0, partition_of(APP), offset) for offset in range(3)]
    assert elsewhere == (0, 0, 0)


async def test_concurrent_updates_get_receipts_of_their_own(publisher: Publisher) -> None:
    answers = await asyncio.gather(
        *(publisher.publish(APP, [b"%d" % n] * (1 + n % 3)) for n in range(60))
    )

    offsets = [[offset for _, _, offset in positions(answer)] for answer in answers]
    assert sorted(itertools.chain(*offsets)) == list(range(120))
    assert all(each == list(range(each[0], each[0] + len(each))) for each in offsets)


@pytest.mark.parametrize("count", [1, 2])
async def test_nothing_is_stored_before_kafka_was_reached(
    unconnected: Publisher, count: int
) -> None:
    with pytest.raises(Transient) as caught:
        await unconnected.publish(APP, [b"1"] * count)

    assert (caught.value.outcome_unknown, caught.value.saturation) == (False, False)


async def test_the_parts_of_aiokafka_that_it_does_not_publish_are_as_we_take_them(
    stack: LocalStack, kafka_settings: KafkaSettings
) -> None:
    settings = ProduceSettings()
    async with open_producer(kafka_settings, settings) as producer:
        client = producer._client
        leader = client.client.cluster.leader_for_partition(TopicPartition(kafka_settings.topic, 0))
        sent = await producer.send(0, b"key", [b"value"], 0)
        await sent.answer
        assert is_connected(client, leader)
        assert not is_connected(client, leader + 1)

        stack.broker.pause()
        sent = await producer.send(0, b"key", [b"value", b"value"], 0)
        assert not sent.answer.done()
        fail_unanswered(client, KafkaError())
        with pytest.raises(KafkaError):
            await sent.answer
        stack.broker.resume()
