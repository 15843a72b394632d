"""One subscription's FIFO, and whether it may be written."""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import msgspec

from shared.updates import Update


class Record(Protocol):
    """What is read of a Kafka record; aiokafka's `ConsumerRecord` is one."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Acceptance in milliseconds of Unix time."""
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


def size_of(record: Record) -> int:
    """Return the bytes of a record's value and headers."""
    size = len(record.value) if record.value else 0
    if record.headers:
        size += sum(len(name) + len(value or b"") for name, value in record.headers)
    return size


class PendingUpdate(msgspec.Struct, frozen=True, gc=False):
    """An update that waits, beside the record that carried it."""

    record: Record
    update: Update
    size: int
    """What `size_of` says of the record; kept, since looking at it again is dear."""


class QueueState(Enum):
    """Where a subscription stands at its shard.

    LOCKED: somebody else's transaction holds its row, so it waits apart from those that are ready.
    GIVING_UP: its oldest update is on its way to the dead-letter topic. Until it is there nothing
    newer may be written: a row that has moved on would say that it had been applied.
    """

    IDLE = "idle"
    READY = "ready"
    WRITING = "writing"
    LOCKED = "locked"
    GIVING_UP = "giving up"


class SubscriptionQueue(msgspec.Struct, gc=False, eq=False):
    """The updates of one subscription that are not yet durable, oldest first.

    It exists only while it has work. While it is WRITING nobody else may write its row; what
    arrives meanwhile waits behind, to be folded into the next write.
    """

    key: tuple[str, str]
    """App ID and subscription ID."""
    updates: list[PendingUpdate]
    state: QueueState = QueueState.IDLE
    has_keys: bool = False
    """Whether any of its updates was sent with an idempotency key."""
