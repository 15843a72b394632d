"""One subscription's FIFO, and whether it may be written."""

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import msgspec

from shared.updates import Once, SealedUpdate


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
    """An update that waits, beside the record that carried it.

    It is as small as can be, and has at hand whatever is asked of each update: what is put aside
    for some milliseconds leaves the processor's caches, so that each object less and each look
    less counts for more than the work on it. What it changes stays JSON until it is folded.
    """

    record: Record
    key: tuple[str, str]
    """App ID and subscription ID, most often the very object that its queue has."""
    offset: int
    accepted_ms: int
    size: int
    """What `size_of` says of the record."""
    tags: msgspec.Raw
    properties: msgspec.Raw
    increment: msgspec.Raw
    increment_tags: msgspec.Raw
    once: Once | None

    @classmethod
    def of(
        cls, record: Record, update: SealedUpdate, key: tuple[str, str], size: int
    ) -> "PendingUpdate":
        """Return the update that a record was found to hold."""
        return cls(
            record,
            key,
            record.offset,
            record.timestamp,
            size,
            update.tags,
            update.properties,
            update.increment,
            update.increment_tags,
            update.once,
        )


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
    size: int = 0
    """Of its updates together."""
    has_keys: bool = False
    """Whether any of its updates was sent with an idempotency key."""
    has_headers: bool = False
    """Whether any of their records has headers."""
    holds_nul: bool = False
    """Whether any of its updates holds a NUL, or did: Postgres refuses those."""
