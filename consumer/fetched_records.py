"""Records of Kafka that cost less to make, to keep and to free than aiokafka's own.

Those are objects with a dictionary each, all of which the garbage collector goes through. Written
against aiokafka 0.14; `tests/integration/test_fetched_records.py` holds it to its word.
"""

import aiokafka.consumer.fetcher
import msgspec


class FetchedRecord(msgspec.Struct, gc=False):
    """What aiokafka knows of a record, in the order in which it says it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    checksum: int | None
    serialized_key_size: int
    serialized_value_size: int
    headers: tuple[tuple[str, bytes], ...]


def fetch_small_records() -> None:
    """Have all consumers of this process make `FetchedRecord`s from now on."""
    aiokafka.consumer.fetcher.ConsumerRecord = FetchedRecord
