"""The ingest API on a real broker: what is stored, and what is answered when Kafka fails."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from deploy.local.stack import LocalStack
from ingest_api.publisher import KafkaPublisher, open_publisher
from ingest_api.settings import IngestSettings, ProduceSettings
from shared.bounded_http import HttpSettings
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS, partition_of
from shared.updates import Update, decode
from tests.ingest_apps import served
from tests.records import subscription
from tests.topics import another_topic

PATIENCE_S = 60
_AFTERWARDS = 9_999
APP = "d9c1e7a2-5b40-4f6e-9a3d-0e8b7c6f1a25"
APPS = [f"{prefix:02x}000000-0000-4000-8000-000000000000" for prefix in range(0, 256, 8)]


def settings_of(kafka: KafkaSettings, **produce: int) -> IngestSettings:
    patient = {"enqueue_timeout_ms": 30_000, "ack_timeout_ms": 30_000, "stalled_after_ms": 30_000}
    return IngestSettings(
        kafka=kafka.model_copy(update={"topic_epoch": 3}),
        produce=ProduceSettings(**(patient | produce)),
        http=HttpSettings(drain_timeout_ms=60_000),
        flush_timeout_ms=30_000,
    )


class Client:
    """Sends updates that can be told apart."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def one(self, number: int, app: str = APP) -> httpx.Response:
        return await self.http.patch(
            f"/v1/apps/{app}/subscriptions/{subscription(number)}", json={"tags": {"n": number}}
        )

    async def batch(self, *numbers: int, app: str = APP, padding: str = "") -> httpx.Response:
        updates = [
            {"subscription_id": subscription(number), "tags": {"n": number, "padding": padding}}
            for number in numbers
        ]
        return await self.http.post(
            f"/v1/apps/{app}/subscriptions/batch", json={"updates": updates}
        )


@asynccontextmanager
async def serving(settings: IngestSettings) -> AsyncIterator[tuple[KafkaPublisher, Client]]:
    async with open_publisher(settings) as publisher:
        app = served(publisher, body=settings.body)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://tidemark") as http:
            await until(lambda: publisher.connected_once)
            yield publisher, Client(http)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def until_accepted(client: Client, number: int, app: str = APP) -> httpx.Response:
    async with asyncio.timeout(PATIENCE_S):
        while (answer := await client.one(number, app)).status_code != 202:
            await asyncio.sleep(0.05)
        return answer


async def stored(kafka: KafkaSettings) -> dict[tuple[int, int], tuple[Any, Update]]:
    """Everything in the topic, by partition and offset."""
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka.bootstrap_servers)
    found: dict[tuple[int, int], tuple[Any, Update]] = {}
    async with asyncio.timeout(PATIENCE_S), consumer:
        every = [TopicPartition(kafka.topic, number) for number in range(PARTITIONS)]
        ends = {tp: end for tp, end in (await consumer.end_offsets(every)).items() if end}
        consumer.assign(list(ends))
        for tp in ends:
            consumer.seek(tp, 0)
        while len(found) < sum(ends.values()):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    update = decode(record.value, record.partition)
                    found[record.partition, record.offset] = (record, update)
    return found


def position(receipt: str) -> tuple[int, int]:
    epoch, partition, offset = map(int, receipt.split("."))
    assert epoch == 3
    return partition, offset


async def test_a_record_is_where_its_receipt_says(kafka_settings: KafkaSettings) -> None:
    before_ms = time.time_ns() // 1_000_000
    async with serving(settings_of(kafka_settings)) as (_, client):
        answers = await asyncio.gather(*(client.one(n, APPS[n % len(APPS)]) for n in range(100)))
    after_ms = time.time_ns() // 1_000_000

    records = await stored(kafka_settings)
    assert len(records) == 100
    for number, answer in enumerate(answers):
        app = APPS[number % len(APPS)]
        record, update = records[position(answer.json()["receipt"])]
        assert record.key == app.encode()
        assert record.partition == partition_of(app)
        assert before_ms <= record.timestamp <= after_ms
        assert record.timestamp_type == 0
        assert record.headers == ()
        assert (update.app_id, update.subscription_id) == (app, subscription(number))
        assert update.tags == {"n": number}


async def test_a_batch_that_fills_several_record_batches_keeps_its_order(
    kafka_settings: KafkaSettings,
) -> None:
    settings = settings_of(kafka_settings, record_batch_bytes_max=300_000)
    async with serving(settings) as (_, client):
        answer = await client.batch(*range(1_000), padding="x" * 900)

    records = await stored(kafka_settings)
    results = answer.json()["results"]
    numbers = [records[position(result["receipt"])][1].tags["n"] for result in results]
    assert numbers == list(range(1_000))
    assert [position(result["receipt"])[1] for result in results] == list(range(1_000))


async def test_batches_and_single_updates_of_one_app_pass_each_other_in_order(
    kafka_settings: KafkaSettings,
) -> None:
    async with serving(settings_of(kafka_settings)) as (_, client):

        async def sender(first: int) -> list[str]:
            receipts = []
            for number in range(first, first + 60, 3):
                receipts.append((await client.one(number)).json()["receipt"])
                results = (await client.batch(number + 1, number + 2)).json()["results"]
                receipts += [result["receipt"] for result in results]
            return receipts

        senders = await asyncio.gather(*(sender(first) for first in range(0, 600, 60)))

    records = await stored(kafka_settings)
    assert len(records) == 600
    for first, receipts in zip(range(0, 600, 60), senders, strict=True):
        positions = [position(receipt) for receipt in receipts]
        assert positions == sorted(positions)
        numbers = [records[each][1].tags["n"] for each in positions]
        assert numbers == list(range(first, first + 60))


async def test_a_killed_broker_is_503_at_once_and_nothing_accepted_is_lost(
    stack: LocalStack, kafka_settings: KafkaSettings
) -> None:
    accepted: dict[int, str] = {}
    unknown: set[int] = set()
    settings = settings_of(kafka_settings, enqueue_timeout_ms=1_000, ack_timeout_ms=2_000)
    async with serving(settings) as (publisher, client):

        async def send(numbers: range) -> Counter[int]:
            statuses: Counter[int] = Counter()
            for number in numbers:
                answer = await client.one(number, APPS[number % len(APPS)])
                statuses[answer.status_code] += 1
                if answer.status_code == 202:
                    accepted[number] = answer.json()["receipt"]
                if answer.status_code == 504:
                    unknown.add(number)
            return statuses

        load = [asyncio.ensure_future(send(range(n, n + 100))) for n in range(0, 800, 100)]
        await until(lambda: len(accepted) > 100)
        await asyncio.to_thread(stack.broker.kill)
        statuses = sum(await asyncio.gather(*load), Counter())
        assert statuses.keys() <= {202, 503, 504}
        assert statuses[503] > 0

        started = time.monotonic()
        refused = await asyncio.gather(*(client.one(n, APPS[n % 8]) for n in range(1_000, 1_200)))
        assert time.monotonic() - started < 2
        assert {answer.status_code for answer in refused} == {503}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}

        await asyncio.to_thread(stack.heal)
        for app in APPS:
            await until_accepted(client, _AFTERWARDS, app)
        await until(lambda: publisher.in_flight.updates == 0)

    records = await stored(kafka_settings)
    numbers = Counter(update.tags["n"] for _, update in records.values())
    del numbers[_AFTERWARDS]
    assert set(numbers.values()) == {1}
    assert accepted.keys() <= numbers.keys() <= accepted.keys() | unknown
    for number, receipt in accepted.items():
        assert records[position(receipt)][1].tags["n"] == number


async def test_a_broker_that_hangs_is_504_then_503_and_what_was_unknown_is_stored_later(
    stack: LocalStack, kafka_settings: KafkaSettings
) -> None:
    # Much shorter than the broker's session: one that has lost it refuses what it was sent.
    settings = settings_of(
        kafka_settings, enqueue_timeout_ms=300, ack_timeout_ms=300, stalled_after_ms=200
    )
    async with serving(settings) as (publisher, client):
        await until_accepted(client, 0)
        stack.broker.pause()
        unknown = await client.one(1)
        refused = await client.one(2)
        elsewhere = await client.one(3, APPS[0])
        counted = publisher.in_flight.updates
        stack.broker.resume()
        later = await until_accepted(client, 4)

    assert unknown.status_code == 504
    assert unknown.json()["type"] == "/problems/outcome-unknown"
    assert (refused.status_code, elsewhere.status_code) == (503, 503)
    assert counted == 1
    records = await stored(kafka_settings)
    places = {update.tags["n"]: place for place, (_, update) in records.items()}
    assert places.keys() == {0, 1, 4}
    assert places[1] < places[4] == position(later.json()["receipt"])


async def test_updates_in_flight_are_bounded_while_kafka_does_not_answer(
    stack: LocalStack, kafka_settings: KafkaSettings
) -> None:
    settings = settings_of(
        kafka_settings, updates_in_flight_max=1_000, partition_updates_in_flight_max=1_000
    )
    async with serving(settings) as (publisher, client):
        await until_accepted(client, 0)
        stack.broker.pause()
        waiting = asyncio.ensure_future(client.batch(*range(1_000)))
        await until(lambda: publisher.in_flight.updates == 1_000)
        refused = await client.one(1_001)
        stack.broker.resume()
        accepted = await waiting
        after = await client.one(1_002)

    assert refused.status_code == 503
    assert refused.json()["type"] == "/problems/busy"
    assert (accepted.status_code, after.status_code) == (202, 202)


async def test_a_client_that_leaves_changes_nothing_for_what_it_sent(
    stack: LocalStack, kafka_settings: KafkaSettings
) -> None:
    async with serving(settings_of(kafka_settings)) as (publisher, client):
        await until_accepted(client, 0)
        stack.broker.pause()
        # In another partition, where it waits behind nothing: what is counted is sent.
        leaving = [
            asyncio.ensure_future(client.one(1)),
            asyncio.ensure_future(client.batch(2, 3, app=APPS[0])),
        ]
        await until(lambda: publisher.in_flight.updates == 3)
        for request in leaving:
            request.cancel()
        await asyncio.wait(leaving)
        stack.broker.resume()
        await until(lambda: publisher.in_flight.updates == 0)
        assert (await client.one(4)).status_code == 202

    records = await stored(kafka_settings)
    assert {update.tags["n"] for _, update in records.values()} == {0, 1, 2, 3, 4}


async def test_a_producer_that_broke_is_replaced(kafka_settings: KafkaSettings) -> None:
    async with (
        another_topic(kafka_settings, configs={"max.message.bytes": "9999"}) as small,
        serving(settings_of(small)) as (_, client),
    ):
        before = await until_accepted(client, 0)
        # The broker refuses it, its sequence numbers are used up, and later ones out of order.
        too_large = await client.batch(*range(1, 101), padding="x" * 500)
        after = await until_accepted(client, 200)
        records = await stored(small)

    assert too_large.status_code == 503
    assert [position(each.json()["receipt"])[1] for each in (before, after)] == [0, 1]
    assert [update.tags["n"] for _, update in records.values()] == [0, 200]


async def test_a_batch_cut_off_in_the_middle_is_told_apart(
    stack: LocalStack, kafka_settings: KafkaSettings
) -> None:
    settings = settings_of(
        kafka_settings,
        record_batch_bytes_max=300_000,
        enqueue_timeout_ms=1_000,
        ack_timeout_ms=2_000,
    )
    async with serving(settings) as (publisher, client):
        await until_accepted(client, 0)
        sent = asyncio.ensure_future(client.batch(*range(1, 1_001), padding="x" * 900))
        async with asyncio.timeout(PATIENCE_S):
            while publisher.in_flight.updates not in range(1, 1_000):
                await asyncio.sleep(0)  # at each step: all four answers may come within 10 ms
        stack.broker.pause()
        answer = await sent
        stack.broker.resume()
        await until(lambda: publisher.in_flight.updates == 0)

    problem = answer.json()
    assert answer.status_code == 504
    outcomes = ["receipt" if "receipt" in each else each["outcome"] for each in problem["results"]]
    assert outcomes == sorted(outcomes, key=["receipt", "unknown", "not_accepted"].index)
    count = Counter(outcomes)
    assert problem["accepted"] == count["receipt"] > 0
    assert count["unknown"] > 0
    numbers = {update.tags["n"] for _, update in (await stored(kafka_settings)).values()}
    assert numbers == set(range(1 + count["receipt"] + count["unknown"]))
