"""One aiokafka producer, from its start to its end; what breaks it replaces it as a whole."""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from ingest_api.aiokafka_insides import fail_unanswered, is_connected, queue_of
from ingest_api.in_flight import Progress
from ingest_api.reachability import Reachability
from ingest_api.settings import ProduceSettings
from shared.errors import Misconfigured, Transient
from shared.kafka_clients import FORBIDDEN, client_options
from shared.origins import Header
from shared.settings import KafkaSettings
from shared.topology import PARTITIONS

log = structlog.get_logger()

_CLOSE_TIMEOUT_S: Final = 5.0
_REFRESH_PAUSE_S: Final = 0.25
_NOT_WRITTEN: Final = (*FORBIDDEN, MessageSizeTooLargeError, RecordListTooLargeError)
"""What a broker answers before it writes anything."""


class _Abandoned(KafkaError):  # type: ignore[misc]  # noqa: N818 - the base is untyped
    """The producer ended before the broker had answered."""


@dataclass(frozen=True, slots=True)
class Sent:
    """Records that are on their way: the first `count` of those given."""

    count: int
    answer: asyncio.Future[Any]


def base_offset(answer: asyncio.Future[Any]) -> int:
    """Return the offset of the first record that Kafka has answered for.

    Raises:
        Transient: Kafka did not take them, or it is unknown whether it did.
    """
    try:
        offset: int = answer.result().offset
    except _NOT_WRITTEN as error:
        raise Transient("Kafka refused the update.") from error
    except KafkaError as error:
        raise Transient("Kafka failed on the update.", outcome_unknown=True) from error
    if offset < 0:  # a duplicate of what the broker no longer remembers
        raise Transient("Kafka does not tell where the update is.", outcome_unknown=True)
    return offset


class Producer:
    """Hands records to the leaders of their partitions, and tells at once when it cannot.

    `broken` is set when it can never again keep its order: a batch that failed leaves a gap in
    the sequence numbers of its partition, and Kafka refuses whatever comes after one.
    """

    def __init__(self, client: AIOKafkaProducer, topic: str, settings: ProduceSettings) -> None:
        self.broken = asyncio.Event()
        self._client = client
        self._cluster = client.client.cluster
        self._queue = queue_of(client)
        self._partitions = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        self._enqueue_timeout_s = settings.enqueue_timeout_ms / 1000
        self._stalled_after_s = settings.stalled_after_ms / 1000
        self._brokers: dict[int, Progress] = {}
        self._reachability = Reachability(client.client.ready, self._enqueue_timeout_s)
        self._turns = [asyncio.Lock() for _ in range(PARTITIONS)]
        self._refresh_at = 0.0

    async def send(
        self,
        partition: int,
        key: bytes,
        values: Sequence[bytes],
        timestamp_ms: int,
        headers: Sequence[Header] = (),
    ) -> Sent:
        """Queue as many of `values` as fit into one record batch, in their order.

        A value that comes alone shares a record batch with others that do.

        Raises:
            Transient: the partition's leader cannot be reached; nothing was sent.
        """
        tp = self._partitions[partition]
        leader = self._leader_of(tp)
        progress = self._brokers.get(leader) or self._brokers.setdefault(leader, Progress())
        if progress.idle_for(time.monotonic()) > self._stalled_after_s:
            raise Transient("Kafka does not answer.")
        if not (is_connected(self._client, leader) or await self._reachability.reach(leader)):
            raise Transient("Kafka cannot be reached.")
        try:
            sent = await self._enqueue(tp, key, values, timestamp_ms, headers)
        except (TimeoutError, KafkaTimeoutError) as error:
            raise Transient("The partition's queue has no room.", saturation=True) from error
        except KafkaError as error:
            self._break(error)
            raise Transient("Kafka cannot take updates for a moment.") from error
        progress.begin(sent.count, time.monotonic())
        sent.answer.add_done_callback(functools.partial(self._answered, progress, sent.count))
        return sent

    async def flush(self) -> None:
        """Wait until Kafka has answered for all that was sent."""
        await self._client.flush()

    def _leader_of(self, tp: TopicPartition) -> int:
        leader: int | None = self._cluster.leader_for_partition(tp)
        if leader is None or leader < 0:
            self._refresh_metadata()
            raise Transient("Kafka has no leader for the app's partition.")
        return leader

    def _refresh_metadata(self) -> None:
        now = time.monotonic()
        if now >= self._refresh_at:
            self._refresh_at = now + _REFRESH_PAUSE_S
            self._client.client.force_metadata_update()

    async def _enqueue(
        self,
        tp: TopicPartition,
        key: bytes,
        values: Sequence[bytes],
        timestamp_ms: int,
        headers: Sequence[Header],
    ) -> Sent:
        turn = self._turns[tp.partition]
        single = len(values) == 1
        if single and not turn.locked():
            return Sent(1, await self._add_one(tp, key, values[0], timestamp_ms, headers))
        # aiokafka lets a batch in when nothing else waits for its partition, and wakes all that
        # want to get in at once. In turns, none is overtaken until it has run out of time.
        async with asyncio.timeout(self._enqueue_timeout_s), turn:
            if single:
                return Sent(1, await self._add_one(tp, key, values[0], timestamp_ms, headers))
            count, batch = self._packed(key, values, timestamp_ms, headers)
            return Sent(count, await self._queue.add_batch(batch, tp, self._enqueue_timeout_s))

    def _add_one(
        self,
        tp: TopicPartition,
        key: bytes,
        value: bytes,
        timestamp_ms: int,
        headers: Sequence[Header],
    ) -> Awaitable[asyncio.Future[Any]]:
        return self._queue.add_message(
            tp, key, value, self._enqueue_timeout_s, timestamp_ms, [*headers]
        )

    def _packed(
        self, key: bytes, values: Sequence[bytes], timestamp_ms: int, headers: Sequence[Header]
    ) -> tuple[int, Any]:
        """Return a record batch, and how many of `values` are in it."""
        batch = self._client.create_batch()
        count = 0
        for value in values:
            appended = batch.append(
                key=key, value=value, timestamp=timestamp_ms, headers=[*headers]
            )
            if appended is None:
                break
            count += 1
        batch.close()
        return count, batch

    def _answered(self, progress: Progress, count: int, answer: asyncio.Future[Any]) -> None:
        progress.end(count, time.monotonic())
        error = answer.exception()
        if error is not None and not isinstance(error, _Abandoned):
            self._break(error)

    def _break(self, error: BaseException) -> None:
        if not self.broken.is_set():
            log.error("producer.broken", error=type(error).__name__)
            self.broken.set()


@contextlib.asynccontextmanager
async def open_producer(kafka: KafkaSettings, settings: ProduceSettings) -> AsyncIterator[Producer]:
    """Start a producer. At the end, whatever was not answered is given up.

    Raises:
        Misconfigured: Kafka forbids to write.
        Transient: Kafka cannot be reached.
    """
    client = AIOKafkaProducer(
        **client_options(kafka, "tidemark-ingest"),
        acks="all",
        enable_idempotence=True,
        linger_ms=0,
        max_batch_size=settings.record_batch_bytes_max,
        max_request_size=settings.record_batch_bytes_max,
    )
    try:
        await _start(client, kafka)
        yield Producer(client, kafka.topic, settings)
    finally:
        await _stop(client)


async def _start(client: AIOKafkaProducer, kafka: KafkaSettings) -> None:
    try:
        async with asyncio.timeout(kafka.request_timeout_ms / 1000):
            await client.start()
            await client.partitions_for(kafka.topic)
    except FORBIDDEN as error:
        raise Misconfigured(
            f"Kafka forbids to write ({type(error).__name__}); grant Write on topic {kafka.topic} "
            "and, before Kafka 3, IdempotentWrite on the cluster."
        ) from error
    except (KafkaError, TimeoutError) as error:
        raise Transient(f"Kafka cannot be reached ({type(error).__name__}).") from error


async def _stop(client: AIOKafkaProducer) -> None:
    fail_unanswered(client, _Abandoned())
    for close in (client.stop, client.client.close):
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await close()
        except TimeoutError:  # a broker that hangs; its connections are still to be closed
            log.warning("producer.close_timed_out")
        else:
            break
