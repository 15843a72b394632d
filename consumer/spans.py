"""Spans of the consumer: roots of their own, linked to the span that sent the update.

Never children of it: whoever keeps or drops whole traces would have to hold one open for as long
as the queue is long.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)

from consumer.partition_work import Row
from consumer.per_second import PerSecond
from consumer.subscription_queue import Record
from shared.errors import Rejected, TidemarkError
from shared.tracing import sampled_sender

_SENDERS_PER_FLUSH_MAX: Final = 32
_UNASKED_PER_S: Final = 5
_STATEMENT: Final = "MERGE subscriptions"


class ProcessSpans:
    """Makes spans of updates after the fact, so that one without a span costs one look.

    Updates that were sampled where they were sent get one, about `per_s_max` a second at most. Of
    others it makes some all the same: of those given up on, of statements that failed, and of the
    oldest in a statement when that is older than `slow_s`; of all these together five a second at
    most, so that an outage does not become an outage of telemetry.
    """

    def __init__(
        self,
        tracer: Tracer,
        *,
        group: str,
        topic_epoch: int,
        slow_s: float,
        per_s_max: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tracer = tracer
        self._group = group
        self._topic_epoch = topic_epoch
        self._slow_s = slow_s
        self._asked = PerSecond(per_s_max, clock)
        self._unasked = PerSecond(_UNASKED_PER_S, clock)

    def written(
        self,
        shard: str,
        rows: Sequence[Row],
        *,
        oldest_s: float,
        took_s: float,
        pool_wait_s: float,
    ) -> None:
        """Make spans for those updates of a statement that were sampled where they were sent.

        Once a second's spans are used up, nobody looks.
        """
        asked = _sampled(rows) if self._asked.is_left else []
        self._asked.take(len(asked))
        if not asked and oldest_s > self._slow_s and self._unasked.may():
            row = min(rows, key=lambda row: row.updates[0].accepted_ms)
            asked = [(row.updates[0].record, len(row.updates), None)]
        if asked:
            self._spans(shard, rows, asked, took_s=took_s, pool_wait_s=pool_wait_s)

    def failed(self, shard: str, rows: Sequence[Row], error: TidemarkError) -> None:
        """Make spans for a statement that failed.

        Rows of it may have been written before, while it was split to find what it failed for.
        """
        row = next((row for row in rows if row.queue.updates), None)
        if row is not None and self._unasked.may():
            asked = [(row.queue.updates[0].record, len(row.updates), None)]
            self._spans(shard, rows, asked, error=error)

    def given_up(self, record: Record, rejected: Rejected) -> None:
        """Make a span for a record that is in the dead-letter topic now."""
        sender = sampled_sender(record.headers) if record.headers else None
        if (self._unasked if sender is None else self._asked).may():
            span = self._process(record, sender, fold_size=1, started_ns=time.time_ns())
            _fail(span, rejected.reason, str(rejected))
            span.end()

    def _spans(
        self,
        shard: str,
        rows: Sequence[Row],
        asked: "Sequence[_Asked]",
        *,
        took_s: float = 0.0,
        pool_wait_s: float = 0.0,
        error: TidemarkError | None = None,
    ) -> None:
        ended_ns = time.time_ns()
        started_ns = ended_ns - int((took_s) * 1e9)
        spans = [
            self._process(record, sender, shard=shard, fold_size=fold_size, started_ns=started_ns)
            for record, fold_size, sender in asked
        ]
        flush = self._tracer.start_span(
            _STATEMENT,
            context=set_span_in_context(spans[0], Context()),
            kind=SpanKind.CLIENT,
            links=[Link(span.get_span_context()) for span in spans[1:]],
            attributes={
                "db.system.name": "postgresql",
                "db.operation.name": "MERGE",
                "db.collection.name": "subscriptions",
                "db.query.summary": _STATEMENT,
                "db.operation.batch.size": len(rows),
                "tidemark.shard": shard,
                "tidemark.pool_wait_s": pool_wait_s,
            },
            start_time=started_ns,
        )
        if error is not None:
            for span in (flush, *spans):
                _fail(span, type(error.__cause__ or error).__name__, str(error))
        for span in (flush, *spans):
            span.end(ended_ns)

    def _process(
        self,
        record: Record,
        sender: SpanContext | None,
        *,
        fold_size: int,
        started_ns: int,
        shard: str | None = None,
    ) -> Span:
        attributes: dict[str, Any] = {
            "messaging.system": "kafka",
            "messaging.operation.type": "process",
            "messaging.operation.name": "process",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.kafka.offset": record.offset,
            "messaging.consumer.group.name": self._group,
            "tidemark.position": f"{self._topic_epoch}.{record.partition}.{record.offset}",
            "tidemark.time_lag_s": max(0.0, time.time() - record.timestamp / 1000),
            "tidemark.fold_size": fold_size,
        }
        if shard is not None:
            attributes["tidemark.shard"] = shard
        return self._tracer.start_span(
            f"process {record.topic}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=[Link(sender)] if sender is not None else [],
            attributes=attributes,
            start_time=started_ns,
        )


_Asked = tuple[Record, int, SpanContext | None]
"""A record that gets a span, how many updates its row was folded of, and where it was sent."""


def _sampled(rows: Sequence[Row]) -> list[_Asked]:
    """Return the first so many updates that were sampled where they were sent."""
    found: list[_Asked] = []
    for record, fold_size in [
        (pending.record, len(row.updates))
        for row in rows
        if row.queue.has_headers
        for pending in row.updates
        if pending.record.headers
    ]:
        sender = sampled_sender(record.headers)
        if sender is not None:
            found.append((record, fold_size, sender))
            if len(found) == _SENDERS_PER_FLUSH_MAX:
                break
    return found


def _fail(span: Span, kind: str, sentence: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, sentence))
