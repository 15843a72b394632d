"""Produce updates and await Kafka's acknowledgement."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import structlog

from ingest_api.in_flight import InFlight
from ingest_api.producer import Producer, Sent, base_offset, open_producer
from ingest_api.receipts import receipt
from ingest_api.settings import IngestSettings
from shared.errors import Transient
from shared.kafka_clients import require_topics
from shared.origins import Header
from shared.topology import partition_of

log = structlog.get_logger()

_RECONNECT_PAUSE_S: Final = (0.2, 1.0)


class PartlyPublished(Transient):
    """Kafka failed in the middle: what has a receipt is stored, and nothing overtook it.

    After the updates with a receipt come `unknown` ones that may be stored; the rest is not.
    """

    def __init__(self, cause: Transient, *, receipts: list[str], unknown: int) -> None:
        super().__init__(
            str(cause), outcome_unknown=cause.outcome_unknown, saturation=cause.saturation
        )
        self.receipts = receipts
        self.unknown = unknown


class KafkaPublisher:
    """Publishes updates through a producer that is replaced whenever it breaks."""

    def __init__(self, settings: IngestSettings) -> None:
        self.connected_once = False
        self._kafka = settings.kafka
        self._settings = produce = settings.produce
        self._patience_s = (produce.enqueue_timeout_ms + produce.ack_timeout_ms) / 1000
        self.in_flight = InFlight(produce)
        self._producer: Producer | None = None

    async def keep_connected(self) -> None:
        """Have a working producer at all times, as far as Kafka allows; until cancelled.

        Raises:
            Misconfigured: the topic is not one of ours, or Kafka forbids to write to it.
        """
        while True:
            await require_topics(self._kafka)
            try:
                async with open_producer(self._kafka, self._settings) as producer:
                    self._producer = producer
                    self.connected_once = True
                    log.info("kafka.connected", topic=self._kafka.topic)
                    try:
                        await producer.broken.wait()
                    finally:
                        self._producer = None
            except Transient as error:
                log.warning("kafka.unreachable", reason=str(error))
            await asyncio.sleep(random.uniform(*_RECONNECT_PAUSE_S))  # noqa: S311 - jitter

    async def publish(
        self, app_id: str, values: Sequence[bytes], headers: Sequence[Header] = ()
    ) -> list[str]:
        """Store updates of one app in their order, each with `headers`; return a receipt for each.

        Raises:
            PartlyPublished: some of several are stored, or may be.
            Transient: none is stored, or it is unknown whether the only one is.
        """
        timestamp_ms = time.time_ns() // 1_000_000
        give_up_at = time.monotonic() + self._patience_s
        partition = partition_of(app_id)
        key = app_id.encode()
        offsets: list[int] = []
        sizes = [len(value) for value in values]
        self.in_flight.admit(partition, len(values), sum(sizes))
        sent_count = 0
        try:
            while sent_count < len(values):
                unsent = values[sent_count:]
                sent = await self._send(partition, key, unsent, timestamp_ms, give_up_at, headers)
                size = sum(sizes[sent_count : sent_count + sent.count])
                sent_count += sent.count
                base = await self._acknowledged(sent, partition, size, give_up_at)
                offsets.extend(range(base, base + sent.count))
        except Transient as error:
            unknown = sent_count - len(offsets) if error.outcome_unknown else 0
            if len(values) > 1 and (offsets or unknown):
                receipts = self._receipts(partition, offsets)
                raise PartlyPublished(error, receipts=receipts, unknown=unknown) from error
            raise
        finally:
            if sent_count < len(values):
                unsent_sizes = sizes[sent_count:]
                self.in_flight.withdraw(partition, len(unsent_sizes), sum(unsent_sizes))
        return self._receipts(partition, offsets)

    async def flush(self, timeout_s: float) -> None:
        """Wait until Kafka has answered for all that was sent, or the time is over."""
        if self._producer is None:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._producer.flush()
        except TimeoutError:
            log.warning("flush.timed_out", updates_unanswered=self.in_flight.updates)

    async def _send(  # noqa: PLR0917 - as the producer takes them
        self,
        partition: int,
        key: bytes,
        values: Sequence[bytes],
        timestamp_ms: int,
        give_up_at: float,
        headers: Sequence[Header],
    ) -> Sent:
        if time.monotonic() > give_up_at:
            raise Transient("Kafka is too slow for the whole batch.", saturation=True)
        if self._producer is None:
            raise Transient("Kafka cannot be reached.")
        return await self._producer.send(partition, key, values, timestamp_ms, headers)

    async def _acknowledged(self, sent: Sent, partition: int, size: int, give_up_at: float) -> int:
        """Return the offset of the first update of `sent`, which has `size` bytes."""
        # A future of our own, so that neither time-out nor client touches what others share.
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_answer(_: asyncio.Future[Any]) -> None:
            # Not when the request ends: what was answered 504 still sits in the producer.
            self.in_flight.settle(partition, sent.count, size)
            if not acknowledged.done():
                acknowledged.set_result(None)

        sent.answer.add_done_callback(on_answer)
        expiry = acknowledged.get_loop().call_later(
            give_up_at - time.monotonic(), _expire, acknowledged
        )
        try:
            await acknowledged
        finally:
            expiry.cancel()
        return base_offset(sent.answer)

    def _receipts(self, partition: int, offsets: list[int]) -> list[str]:
        return [receipt(self._kafka.topic_epoch, partition, offset) for offset in offsets]


def _expire(acknowledged: asyncio.Future[None]) -> None:
    if not acknowledged.done():
        acknowledged.set_exception(
            Transient("Kafka has not acknowledged the update in time.", outcome_unknown=True)
        )


@contextlib.asynccontextmanager
async def open_publisher(settings: IngestSettings) -> AsyncIterator[KafkaPublisher]:
    """Keep a publisher connected while the block runs; at its end, flush and close.

    Raises:
        Misconfigured: in a group, as soon as it is known, which may be long after the start.
    """
    publisher = KafkaPublisher(settings)
    async with asyncio.TaskGroup() as tasks:
        keeper = tasks.create_task(publisher.keep_connected(), name="producer-keeper")
        yield publisher
        await publisher.flush(settings.flush_timeout_ms / 1000)
        keeper.cancel()
