"""Updates and records for tests."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from consumer.subscription_queue import PendingUpdate, Record, size_of
from shared.updates import Once, Update, encode, read_sealed

APP = "00000000-0000-4000-8000-000000000000"
"""An app of partition 0."""


def subscription(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def update_of(number: int = 0, app: str = APP, **fields: Any) -> Update:
    return Update(schema=1, app_id=app, subscription_id=subscription(number), **fields)


def once_of(key: int, body: int = 0) -> Once:
    """What an update carries that was sent with an idempotency key."""
    return Once(key=f"{key:032x}", body=f"{body:032x}")


@dataclass
class StubRecord:
    """A record as the broker would hand it over."""

    offset: int
    value: bytes | None
    partition: int = 0
    topic: str = "subscription-updates"
    timestamp: int = 1_700_000_000_000
    key: bytes | None = APP.encode()
    headers: Sequence[tuple[str, bytes]] = field(default_factory=tuple)


def record_of(offset: int, update: Update, partition: int = 0) -> StubRecord:
    return StubRecord(offset, encode(update), partition, timestamp=1_700_000_000_000 + offset)


def pending_of(offset: int, update: Update) -> PendingUpdate:
    return pending_in(record_of(offset, update))


def pending_in(record: Record) -> PendingUpdate:
    """The update that a record holds, as it waits in a queue."""
    update = read_sealed(record.value)
    key = (update.app_id, update.subscription_id)
    return PendingUpdate.of(record, update, key, size_of(record))


def body_of(update: Update) -> dict[str, Any]:
    """The HTTP body that asks for `update`."""
    tags = {f"tags.{name}": amount for name, amount in update.increment_tags.items()}
    return {
        "tags": update.tags,
        "properties": update.properties,
        "increment": {**update.increment, **tags},
    }
