"""Much traffic at little cost: marked updates straight into the topic, one record batch an app."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaProducer

from shared.kafka_clients import client_options
from shared.settings import KafkaSettings
from shared.topology import partition_of
from shared.updates import Scalar, Update, encode
from verification.marks import COUNT, MARK
from verification.oracle import StoredRow, Subscription


@dataclass
class Sent:
    """What every row must have in the end: how many updates, and the mark of the last."""

    total: int = 0
    counts: Counter[Subscription] = field(default_factory=Counter)
    last: dict[Subscription, int] = field(default_factory=dict)

    def wrong(self, rows: Mapping[Subscription, StoredRow]) -> int:
        """Count the rows that differ."""
        return sum(
            (each not in rows)
            or (rows[each].tags[COUNT], rows[each].tags[MARK]) != (count, self.last[each])
            for each, count in self.counts.items()
        )


async def send_bulk(
    kafka: KafkaSettings,
    batches: Iterator[tuple[str, Sequence[str]]],
    sent: Sent,
    *,
    per_s: float | None = None,
    tags: Mapping[str, Scalar] | None = None,
) -> float:
    """Send batches of one update per named subscription of an app; return the seconds it took.

    With `per_s` they are sent at that pace, however long the broker takes to answer.
    """
    producer = AIOKafkaProducer(
        **client_options(kafka, "chaos-bulk"),
        acks="all",
        enable_idempotence=True,
        max_batch_size=2**20,
        max_request_size=2**24,
    )
    await producer.start()
    started = time.monotonic()
    before = sent.total
    try:
        open_batches: set[Any] = set()
        for app, subscriptions in batches:
            if per_s is not None:
                await asyncio.sleep(
                    max(0.0, started + (sent.total - before) / per_s - time.monotonic())
                )
            builder = producer.create_batch()
            for subscription in subscriptions:
                sent.total += 1
                update = Update(
                    schema=1,
                    app_id=app,
                    subscription_id=subscription,
                    tags={**(tags or {}), MARK: sent.total},
                    increment_tags={COUNT: 1},
                )
                timestamp = time.time_ns() // 1_000_000
                metadata = builder.append(
                    key=app.encode(), value=encode(update), timestamp=timestamp
                )
                assert metadata is not None, "a batch is larger than the producer allows"
                sent.counts[app, subscription] += 1
                sent.last[app, subscription] = sent.total
            builder.close()
            future = await producer.send_batch(builder, kafka.topic, partition=partition_of(app))
            open_batches.add(future)
            future.add_done_callback(open_batches.discard)
            while len(open_batches) > 500:
                await asyncio.wait(open_batches, return_when=asyncio.FIRST_COMPLETED)
        await producer.flush()
    finally:
        await producer.stop()
    return time.monotonic() - started
