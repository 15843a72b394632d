"""What is noted of each flush: lags, sizes, hot keys, and spans for the few that get one."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from consumer.hot_keys import HotKeys
from consumer.spans import FlushedRow, ProcessSpans
from consumer.subscription_queue import Record
from shared.errors import Rejected, TidemarkError
from shared.histogram import COUNTS, Histogram

_HOT_WINDOW_S: Final = 60.0
_FEW_ROWS: Final = 64


class ShardNotes:
    """What was noted of one shard's flushes."""

    def __init__(self) -> None:
        self.time_lag = Histogram()
        self.flush_duration = Histogram()
        self.flush_rows = Histogram(COUNTS)
        self.pool_wait = Histogram()


class FlushObserver:
    """Notes each flush, at a small fraction of what the flush itself costs.

    All that is looked at for every single update is when it was accepted.
    """

    def __init__(
        self,
        shards: Sequence[str],
        spans: ProcessSpans | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.shards = {name: ShardNotes() for name in shards}
        self.subscriptions: HotKeys[tuple[str, str]] = HotKeys(_HOT_WINDOW_S, clock)
        self.apps: HotKeys[str] = HotKeys(_HOT_WINDOW_S, clock)
        self._spans = spans

    def written(
        self, shard: str, rows: Sequence[FlushedRow], *, took_s: float, pool_wait_s: float
    ) -> None:
        """Note a statement that was written, before its updates are taken out of their queues."""
        notes = self.shards[shard]
        notes.flush_duration.observe(took_s)
        notes.flush_rows.observe(len(rows))
        notes.pool_wait.observe(pool_wait_s)
        # Most rows are of one update, so that is made fast.
        folded = [row for row in rows if row.count > 1]
        records = [row.queue.updates[0].record for row in rows]
        with_headers = [
            (record, row.count) for row, record in zip(rows, records, strict=True) if record.headers
        ]
        for row in folded:
            tail = [pending.record for pending in row.queue.updates[1 : row.count]]
            with_headers += [(record, row.count) for record in tail if record.headers]
            records += tail
        moments = sorted([record.timestamp for record in records])
        now_ms = int(time.time() * 1000)
        notes.time_lag.observe_ages(moments, now_ms)
        self._count(rows, folded, len(records))
        if self._spans is not None:
            self._spans.written(
                shard,
                rows,
                with_headers,
                oldest_s=(now_ms - moments[0]) / 1000,
                took_s=took_s,
                pool_wait_s=pool_wait_s,
            )

    def failed(self, shard: str, rows: Sequence[FlushedRow], error: TidemarkError) -> None:
        """Note a statement that the shard did not do."""
        if self._spans is not None:
            self._spans.failed(shard, rows, error)

    def given_up(self, record: Record, rejected: Rejected) -> None:
        """Note a record that is in the dead-letter topic now."""
        if self._spans is not None:
            self._spans.given_up(record, rejected)

    def _count(
        self, rows: Sequence[FlushedRow], folded: Sequence[FlushedRow], updates: int
    ) -> None:
        apps, subscriptions = self.apps.filling(), self.subscriptions.filling()
        apps.total += updates
        subscriptions.total += updates
        apps.add([row.queue.key[0] for row in rows])
        few = len(rows) <= _FEW_ROWS
        if few:
            subscriptions.add([row.queue.key for row in rows])
        else:
            # Whoever is hot waits, and so has more than one update in a statement. Of the others
            # a statement has one each at most, so that is all by which a count can be too low.
            subscriptions.note_missed()
        for row in folded:
            apps.add_many(row.queue.key[0], row.count - 1)
            subscriptions.add_many(row.queue.key, row.count - few)
