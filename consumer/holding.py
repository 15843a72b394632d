"""Everything of holds that talks to Kafka: the control topic, and appends to the holding topic."""

import asyncio
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from weakref import WeakKeyDictionary

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from consumer.partition_work import PartitionWork
from consumer.settings import ConsumerSettings
from consumer.subscription_queue import Record
from shared.errors import Misconfigured
from shared.holds import (
    HeldAt,
    HoldKey,
    Holds,
    Released,
    control_record,
    held_headers,
    held_partition_of,
)
from shared.kafka_clients import FORBIDDEN, client_options, close_client, until_reachable

log = structlog.get_logger()


class HoldsFollower:
    """Keeps `holds` as the control topic says, from its beginning on and for ever."""

    def __init__(self, client: AIOKafkaConsumer, topic: str, *, retry_s: float) -> None:
        self.holds = Holds()
        self._client = client
        self._at = TopicPartition(topic, 0)
        self._retry_s = retry_s
        self._read_to = 0
        self._moved = asyncio.Event()

    async def run(self, on_change: Callable[[], None]) -> None:
        """Read, and call `on_change` after every change.

        Raises:
            Misconfigured: the broker forbids reading the topic.
        """
        while True:
            try:
                found = await self._client.getmany(timeout_ms=500)
            except FORBIDDEN as error:
                raise Misconfigured(
                    f"Kafka forbids reading topic {self._at.topic} ({type(error).__name__}); "
                    "grant Read on it."
                ) from error
            except KafkaError as error:
                log.warning("holds.not_read", reason=type(error).__name__)
                await asyncio.sleep(self._retry_s)
                continue
            for record in found.get(self._at, ()):
                self._apply(record)
            if found:
                on_change()
            self._read_to = await self._client.position(self._at)
            self._moved.set()
            self._moved.clear()

    def _apply(self, record: Record) -> None:
        try:
            self.holds.apply(record.key, record.value)
        except ValueError:
            log.exception("hold.unreadable", offset=record.offset)

    async def catch_up(self) -> None:
        """Return once everything is known that the topic holds now; retry until it can be read."""
        while True:
            try:
                end = (await self._client.end_offsets([self._at]))[self._at]
            except KafkaError as error:
                log.warning("holds.not_read", reason=type(error).__name__)
                await asyncio.sleep(self._retry_s)
            else:
                break
        while self._read_to < end:
            await self._moved.wait()


@asynccontextmanager
async def open_holds(settings: ConsumerSettings) -> AsyncIterator[HoldsFollower]:
    """Open a reader of the control topic, which belongs to no group.

    Waits until there is a broker.
    """
    at = TopicPartition(settings.kafka.holds_topic, 0)
    client = AIOKafkaConsumer(
        **client_options(settings.kafka, "tidemark-holds"),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    client.assign([at])
    try:
        await until_reachable(client.start)
        await client.seek_to_beginning(at)
        yield HoldsFollower(client, at.topic, retry_s=settings.write.retry_base_ms / 1000)
    finally:
        await close_client(client.stop(), timeout_s=settings.kafka.request_timeout_ms / 1000)


class _Appends:
    """What is on its way to one partition of the holding topic, in order."""

    __slots__ = ("done", "pending", "run")

    def __init__(self) -> None:
        self.pending: deque[Record] = deque()
        self.done = asyncio.Event()
        self.done.set()
        self.run = uuid.uuid4().hex


class HoldingTopic:
    """Moves updates away that are held back; their offsets are completed when the broker has them.

    Each partition has one path, one batch at a time, so appends of one run are in the order of
    their offsets. A batch of which the outcome is unknown is appended again, as a new run.
    """

    def __init__(self, producer: AIOKafkaProducer, settings: ConsumerSettings) -> None:
        self.count = 0
        self._producer = producer
        self._topic = settings.kafka.held_topic
        self._holds_topic = settings.kafka.holds_topic
        self._retry_s = settings.write.retry_cap_ms / 1000
        self._appends: WeakKeyDictionary[PartitionWork, _Appends] = WeakKeyDictionary()
        self._begun: asyncio.Queue[tuple[PartitionWork, _Appends]] = asyncio.Queue()

    def hold_back(self, work: PartitionWork, records: Sequence[Record]) -> None:
        """Append records to the holding topic, after those that are on their way already.

        Bounded by what may be in flight: each of them counts there until it is completed.
        """
        appends = self._appends.setdefault(work, _Appends())
        appends.pending.extend(records)
        if appends.done.is_set():
            appends.done.clear()
            self._begun.put_nowait((work, appends))

    async def appended(self, work: PartitionWork) -> None:
        """Return when nothing of the partition is on its way any more."""
        if work in self._appends:
            await self._appends[work].done.wait()

    async def run(self) -> None:
        """Append for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                work, appends = await self._begun.get()
                tasks.create_task(self._append(work, appends), name=f"holding-{work.partition}")

    async def _append(self, work: PartitionWork, appends: _Appends) -> None:
        while appends.pending and not work.lost:
            batch = self._producer.create_batch()
            count = 0
            for record in appends.pending:
                at = HeldAt(record.offset, appends.run)
                headers = [*record.headers, *held_headers(at)]
                if (
                    batch.append(
                        timestamp=record.timestamp,
                        key=record.key,
                        value=record.value,
                        headers=headers,
                    )
                    is None
                ):
                    break
                count += 1
            assert count
            try:
                await (
                    await self._producer.send_batch(
                        batch, self._topic, partition=held_partition_of(work.partition)
                    )
                )
            except KafkaError as error:
                level = log.error if isinstance(error, FORBIDDEN) else log.warning
                level("update.not_held", topic=self._topic, reason=type(error).__name__)
                # It may be there all the same, and later ones are not to come before it.
                appends.run = uuid.uuid4().hex
                await asyncio.sleep(self._retry_s)
                continue
            work.complete_records([appends.pending.popleft() for _ in range(count)])
            self.count += count
        appends.done.set()

    async def note_released(self, key: HoldKey, released: Released) -> None:
        """Tell everybody how far a release has come.

        Raises:
            KafkaError: the broker did not take it.
        """
        name, value = control_record(key, released)
        await self._producer.send_and_wait(self._holds_topic, key=name, value=value)


@asynccontextmanager
async def open_holding(settings: ConsumerSettings) -> AsyncIterator[HoldingTopic]:
    """Open a producer to the holding topic; acknowledged means by all in-sync replicas.

    Not an idempotent one: that cannot go on after a batch that is refused. A batch may be there
    twice, and a release applies each offset once.
    """
    producer = AIOKafkaProducer(
        **client_options(settings.kafka, "tidemark-holding"),
        acks="all",
        max_batch_size=settings.holds.batch_bytes_max,
    )
    try:
        await until_reachable(producer.start)
        yield HoldingTopic(producer, settings)
    finally:
        await close_client(producer.stop(), timeout_s=settings.kafka.request_timeout_ms / 1000)
