"""Give up on a record durably: it goes to the dead-letter topic, with reason and origin."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError

from consumer.observer import FlushObserver
from consumer.partition_work import PartitionWork
from consumer.per_second import PerSecond
from consumer.settings import ConsumerSettings
from consumer.subscription_queue import Record
from shared.errors import Rejected
from shared.kafka_clients import FORBIDDEN, client_options, close_client, until_reachable

log = structlog.get_logger()

_LOGGED_PER_S: Final = 20
"""Lines a second at most, each with the total since the start; every one is in the topic."""


class DeadLetterTopic:
    """Keeps what can never succeed, as it came, with headers that say why and from where."""

    def __init__(
        self, producer: AIOKafkaProducer, topic: str, *, retry_s: float, observer: FlushObserver
    ) -> None:
        self.counts: Counter[str] = Counter()
        """How many there were, by reason."""
        self._producer = producer
        self._topic = topic
        self._retry_s = retry_s
        self._observer = observer
        self._logged = PerSecond(_LOGGED_PER_S)

    async def send(self, record: Record, rejected: Rejected) -> None:
        """Return when the broker has the dead letter; retry for as long as it has not.

        Its record cannot be completed before, so there is nothing better to do meanwhile.
        """
        headers = [*record.headers, *_headers(record, rejected)]
        value = record.value
        if value is None and record.key is None:
            value = b""  # aiokafka sends no record without both
        while True:
            try:
                await self._producer.send_and_wait(
                    self._topic, key=record.key, value=value, headers=headers
                )
            except (MessageSizeTooLargeError, RecordListTooLargeError):
                # With our headers it no longer fits; its origin says where it can be found.
                value = b""
                headers = [*_headers(record, rejected), ("tidemark.value_omitted", b"too large")]
            except KafkaError as error:
                level = log.error if isinstance(error, FORBIDDEN) else log.warning
                level(
                    "dead_letter.not_taken",
                    topic=self._topic,
                    reason=type(error).__name__,
                    retry_in_s=self._retry_s,
                )
                await asyncio.sleep(self._retry_s)
            else:
                break
        self.counts[rejected.reason] += 1
        self._observer.given_up(record, rejected)
        if self._logged.may():
            log.warning(
                "update.dead_lettered",
                reason=rejected.reason,
                sqlstate=rejected.sqlstate,
                partition=record.partition,
                offset=record.offset,
                total=self.counts.total(),
            )


_MESSAGE_LENGTH_MAX: Final = 500
"""It may quote the name of a field, which may be as long as the record."""


def _headers(record: Record, rejected: Rejected) -> list[tuple[str, bytes]]:
    facts = {
        "reason": rejected.reason,
        "message": str(rejected)[:_MESSAGE_LENGTH_MAX],
        "sqlstate": rejected.sqlstate or "",
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp,
    }
    return [(f"tidemark.{name}", str(fact).encode()) for name, fact in facts.items()]


class UnreadableRecords:
    """Records that were given up on as they came in, on their way to the dead-letter topic.

    Bounded by what may be in flight: each of them counts there until it is completed.
    """

    def __init__(self, dead_letters: DeadLetterTopic) -> None:
        self.count = 0
        self._dead_letters = dead_letters
        self._waiting: asyncio.Queue[tuple[PartitionWork, Record, Rejected]] = asyncio.Queue()

    def add(self, work: PartitionWork, record: Record, rejected: Rejected) -> None:
        """Give up on `record`, which could not be read as an update."""
        self._waiting.put_nowait((work, record, rejected))

    async def run(self) -> None:
        """Complete each record once the broker has its dead letter, for ever.

        Several may run side by side: nothing waits for these records but their offsets.
        """
        while True:
            await self._give_up(*await self._waiting.get())

    async def _give_up(self, work: PartitionWork, record: Record, rejected: Rejected) -> None:
        if not work.lost:
            await self._dead_letters.send(record, rejected)
            self.count += 1
            work.complete_records([record])


@asynccontextmanager
async def open_dead_letters(
    settings: ConsumerSettings, observer: FlushObserver
) -> AsyncIterator[DeadLetterTopic]:
    """Open a producer to the dead-letter topic; acknowledged means by all in-sync replicas.

    Not an idempotent one: that cannot go on after a record that is refused. A dead letter may be
    there twice, never not at all.
    """
    producer = AIOKafkaProducer(
        **client_options(settings.kafka, "tidemark-dead-letters"),
        acks="all",
        max_request_size=2**21,  # a record of the largest size, and what is added to it
    )
    try:
        await until_reachable(producer.start)
        yield DeadLetterTopic(
            producer,
            settings.kafka.dead_letter_topic,
            retry_s=settings.write.retry_cap_ms / 1000,
            observer=observer,
        )
    finally:
        await close_client(producer.stop(), timeout_s=settings.kafka.request_timeout_ms / 1000)
