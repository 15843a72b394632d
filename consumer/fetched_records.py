"""Records of Kafka that cost less to make, to keep and to free than aiokafka's own.

Those are objects with a dictionary each, all of which the garbage collector goes through, and
sizes, a checksum and deserializers that nobody here asks for. Written against aiokafka 0.14;
`tests/integration/test_fetched_records.py` holds it to its word.
"""

from typing import Any

import msgspec
from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords


class FetchedRecord(msgspec.Struct, gc=False):
    """What is asked of a record, named as aiokafka names it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]


def fetch_small_records() -> None:
    """Have all consumers of this process make `FetchedRecord`s from now on."""
    PartitionRecords._consumer_record = _fetched  # noqa: SLF001


def _fetched(_: PartitionRecords, place: TopicPartition, record: Any) -> FetchedRecord:
    return FetchedRecord(
        place.topic,
        place.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        tuple(record.headers),
    )
