"""Reads a part of a topic without a group: it commits nothing and disturbs nobody."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from shared.errors import Misconfigured, Transient
from shared.kafka_clients import FORBIDDEN, client_options, close_client, count_partitions, no_topic
from shared.settings import KafkaSettings

_POLL_MS: Final = 200
_PORTION_RECORDS: Final = 2_000


class TopicReader:
    """Reads ranges of offsets of one topic, one range of each partition at a time."""

    def __init__(self, client: AIOKafkaConsumer, topic: str, *, stall_timeout_s: float) -> None:
        self.topic = topic
        self._client = client
        self._stall_timeout_s = stall_timeout_s

    async def beginnings(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return by partition the lowest offset that is still there."""
        with _translated_errors(self.topic):
            found = await self._client.beginning_offsets(self._named(partitions))
        return {tp.partition: offset for tp, offset in found.items()}

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return by partition the offset that the next record will get."""
        with _translated_errors(self.topic):
            found = await self._client.end_offsets(self._named(partitions))
        return {tp.partition: offset for tp, offset in found.items()}

    async def at_time(self, partitions: Iterable[int], timestamp_ms: int) -> dict[int, int | None]:
        """Return by partition the first offset of that time or later; None where there is none."""
        times = dict.fromkeys(self._named(partitions), timestamp_ms)
        with _translated_errors(self.topic):
            found = await self._client.offsets_for_times(times)
        return {tp.partition: at and at.offset for tp, at in found.items()}

    async def read(
        self,
        starts: Mapping[int, int],
        ends: Mapping[int, int],
        *,
        records_max: int = _PORTION_RECORDS,
    ) -> AsyncGenerator[Sequence[Any], None]:
        """Yield records by portions, each of one partition, in its order.

        A start that retention has removed means the first record that is left.

        Raises:
            Misconfigured: Kafka forbids reading the topic.
            Transient: nothing came for too long.
        """
        rest = [
            TopicPartition(self.topic, partition)
            for partition, start in starts.items()
            if start < ends[partition]
        ]
        if not rest:
            return
        with _translated_errors(self.topic):
            self._client.assign(rest)
            for tp in rest:
                self._client.seek(tp, starts[tp.partition])
            while rest:
                async with asyncio.timeout(self._stall_timeout_s):
                    found: Mapping[TopicPartition, Sequence[Any]] = {}
                    while not found and rest:
                        found = await self._client.getmany(
                            *rest, timeout_ms=_POLL_MS, max_records=records_max
                        )
                        # Positions, not records: the last offsets may be no records of ours.
                        rest = [tp for tp in rest if await self._position(tp) < ends[tp.partition]]
                for tp, records in found.items():
                    if tp not in rest:
                        self._client.pause(tp)
                        yield [each for each in records if each.offset < ends[tp.partition]]
                    else:
                        yield records

    async def _position(self, tp: TopicPartition) -> int:
        position: int = await self._client.position(tp)
        return position

    def _named(self, partitions: Iterable[int]) -> list[TopicPartition]:
        return [TopicPartition(self.topic, each) for each in partitions]


@asynccontextmanager
async def open_reader(
    kafka: KafkaSettings, topic: str, client_id: str
) -> AsyncIterator[TopicReader]:
    """Open a reader of a topic that is there; it belongs to no group.

    Raises:
        Transient: Kafka cannot be reached.
    """
    client = AIOKafkaConsumer(
        **client_options(kafka, client_id),
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_partition_fetch_bytes=2**21,
    )
    try:
        with _translated_errors(topic):
            await client.start()
            # aiokafka's stop() fails where tasks that start() made have not had a turn yet.
            await asyncio.sleep(0)
        yield TopicReader(client, topic, stall_timeout_s=kafka.request_timeout_ms * 3 / 1000)
    finally:
        await close_client(client.stop(), timeout_s=kafka.request_timeout_ms / 1000)


async def require_partitions(kafka: KafkaSettings, topic: str) -> int:
    """Return how many partitions a topic has.

    Raises:
        Misconfigured: there is no such topic, or it may not be described.
        Transient: Kafka cannot be reached.
    """
    counts = await count_partitions(kafka)
    if topic not in counts:
        raise no_topic(topic)
    return counts[topic]


@contextmanager
def _translated_errors(topic: str) -> Iterator[None]:
    try:
        yield
    except FORBIDDEN as error:
        raise Misconfigured(
            f"Kafka forbids reading topic {topic} ({type(error).__name__}); grant Read on it."
        ) from error
    except (KafkaError, TimeoutError) as error:
        raise Transient(f"Topic {topic} could not be read ({type(error).__name__}).") from error
