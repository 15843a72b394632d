"""What we need of aiokafka's producer that it does not publish. Nothing else touches its privates.

Written against 0.14; `tests/contract/test_publisher.py` holds every use here to its word.
"""

from collections.abc import Awaitable
from typing import Any, Protocol

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import KafkaError


class Queue(Protocol):
    """The record batches that wait to be sent, by partition.

    `AIOKafkaProducer.send` leads here too, but builds two sets of all the topic's partitions on
    its way: 20 microseconds a record where there are 720. Both raise `KafkaTimeoutError` where the
    partition has no room for `timeout` seconds; they queue at once or, cancelled, not at all.
    """

    def add_message(  # noqa: D102, PLR0917
        self,
        tp: TopicPartition,
        key: bytes,
        value: bytes,
        timeout: float,
        timestamp_ms: int,
        headers: list[tuple[str, bytes]],
    ) -> Awaitable[Any]: ...

    def add_batch(  # noqa: D102
        self,
        builder: Any,
        tp: TopicPartition,
        timeout: float,
    ) -> Awaitable[Any]: ...


def queue_of(client: AIOKafkaProducer) -> Queue:
    """Return what holds the records that are to be sent."""
    queue: Queue = client._message_accumulator  # noqa: SLF001
    return queue


def is_connected(client: AIOKafkaProducer, broker: int) -> bool:
    """Tell whether there is a connection for records to `broker`, without opening one."""
    connection = client.client._conns.get((broker, ConnectionGroup.DEFAULT))  # noqa: SLF001
    return connection is not None and connection.connected()


def fail_unanswered(client: AIOKafkaProducer, error: KafkaError) -> None:
    """End every wait for an answer with `error`.

    `stop()` would first wait for all of them, and an idempotent producer never gives up.
    """
    queue = client._message_accumulator  # noqa: SLF001
    queue.fail_all(error)
    for batches in queue._batches.values():  # noqa: SLF001
        for batch in batches:
            # Nobody waits for most of these, and asyncio logs what nobody has seen.
            batch._drain_waiter.exception()  # noqa: SLF001
