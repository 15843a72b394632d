"""What is accepted of a subscription and not in its row."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from operator_cli.inspection import Filters, Seen, fates, update_in
from operator_cli.subscriptions import SubscriptionRow
from shared.settings import KafkaSettings
from shared.topic_reader import open_reader
from shared.topology import partition_of


@dataclass(frozen=True, slots=True)
class OnTheWay:
    """How many updates are not in the row, by what became of them, and the newest of them."""

    waiting: int
    held: int
    dead_lettered: int
    newest_receipt: str | None
    newest_accepted_at: datetime | None

    def as_json(self) -> Mapping[str, Any]:
        """Return it for programs."""
        at = self.newest_accepted_at
        return {
            "waiting": self.waiting,
            "held": self.held,
            "dead_lettered": self.dead_lettered,
            "newest_receipt": self.newest_receipt,
            "newest_accepted_at": at and at.isoformat(),
        }

    def __str__(self) -> str:
        """Say it in words."""
        kinds = {
            "waiting": self.waiting,
            "held": self.held,
            "dead-lettered": self.dead_lettered,
        }
        counted = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items() if count)
        if self.newest_accepted_at is None:
            return "nothing"
        at = self.newest_accepted_at.isoformat(timespec="milliseconds")
        return f"{counted}; newest {self.newest_receipt}, accepted {at}"


async def on_the_way(
    kafka: KafkaSettings,
    group: str,
    app_id: str,
    subscription_id: str,
    *,
    row: SubscriptionRow | None,
) -> OnTheWay:
    """Read what comes after the row's position; without a row, all that Kafka still has.

    Joins no group. What is applied while it reads is left out.

    Raises:
        Misconfigured: a topic is missing, or may not be read.
        Transient: Kafka cannot be reached.
    """
    partition = partition_of(app_id)
    filters = Filters(app=app_id, subscription=subscription_id)
    seen: list[Seen] = []
    async with open_reader(kafka, kafka.topic, "tidemark-show") as reader:
        starts, ends = await reader.beginnings([partition]), await reader.ends([partition])
        if row is not None and row.applied_epoch == kafka.topic_epoch:
            starts[partition] = max(starts[partition], row.applied_offset + 1)
        async for records in reader.read(starts, ends):
            found = [Seen(record, update_in(record)) for record in filters.sieve(records)]
            seen += [each for each in found if filters.match(each.record, each.update)]
    known = await fates(kafka, group, seen)
    counts = Counter(known.of(each.record) for each in seen)
    missing = [each.record for each in seen if known.of(each.record) != "applied"]
    newest = missing[-1] if missing else None
    return OnTheWay(
        waiting=counts["waiting"],
        held=counts["held"],
        dead_lettered=counts["dead-lettered"],
        newest_receipt=newest and f"{kafka.topic_epoch}.{partition}.{newest.offset}",
        newest_accepted_at=newest and datetime.fromtimestamp(newest.timestamp / 1000, UTC),
    )
