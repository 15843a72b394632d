"""What is noted of each flush: lags, sizes, hot keys, and spans for the few that get one."""

import time
from collections.abc import Callable, Sequence
from typing import Final

from consumer.hot_keys import HotKeys
from consumer.partition_work import Row
from consumer.spans import ProcessSpans
from consumer.subscription_queue import Record
from shared.errors import Rejected, TidemarkError
from shared.histogram import COUNTS, Histogram

_HOT_WINDOW_S: Final = 60.0
_FEW: Final = 64
_LIGHT_SHARE: Final = 256


class ShardNotes:
    """What was noted of one shard's flushes."""

    def __init__(self) -> None:
        self.time_lag = Histogram()
        self.flush_duration = Histogram()
        self.flush_rows = Histogram(COUNTS)
        self.pool_wait = Histogram()


class FlushObserver:
    """Notes each flush, at a small fraction of what the flush itself costs.

    All that is looked at for every single update is when it was accepted, and while spans are left
    for this second whether it has headers.
    """

    def __init__(
        self,
        shards: Sequence[str],
        spans: ProcessSpans | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        silent: bool = False,
    ) -> None:
        self.shards = {name: ShardNotes() for name in shards}
        self.subscriptions: HotKeys[tuple[str, str]] = HotKeys(_HOT_WINDOW_S, clock)
        self.apps: HotKeys[str] = HotKeys(_HOT_WINDOW_S, clock)
        self._spans = spans
        self._silent = silent

    def written(
        self,
        shard: str,
        rows: Sequence[Row],
        *,
        took_s: float,
        pool_wait_s: float,
    ) -> None:
        """Note a statement that was written."""
        if self._silent:
            return
        notes = self.shards[shard]
        notes.flush_duration.observe(took_s)
        notes.flush_rows.observe(len(rows))
        notes.pool_wait.observe(pool_wait_s)
        moments = [pending.accepted_ms for row in rows for pending in row.updates]
        now_ms = int(time.time() * 1000)
        notes.time_lag.observe_ages(moments, now_ms)
        apps = self.apps.filling()
        apps.total += len(moments)
        apps.add(_by_app(rows).items())
        self._count_subscriptions(rows, len(moments))
        if self._spans is not None:
            self._spans.written(
                shard,
                rows,
                oldest_s=(now_ms - min(moments)) / 1000,
                took_s=took_s,
                pool_wait_s=pool_wait_s,
            )

    def failed(self, shard: str, rows: Sequence[Row], error: TidemarkError) -> None:
        """Note a statement that the shard did not do."""
        if self._spans is not None:
            self._spans.failed(shard, rows, error)

    def given_up(self, record: Record, rejected: Rejected) -> None:
        """Note a record that is in the dead-letter topic now."""
        if self._spans is not None:
            self._spans.given_up(record, rejected)

    def _count_subscriptions(self, rows: Sequence[Row], updates: int) -> None:
        """Count the rows that matter: whoever is hot waits, and so has many in a statement.

        Of a large statement's rows, those with a small share of its updates are left out. By as
        much as that a count can be too low.
        """
        subscriptions = self.subscriptions.filling()
        subscriptions.total += updates
        light = 0 if updates <= _FEW else 1 + updates // _LIGHT_SHARE
        heavy = [row for row in rows if len(row.updates) > light]
        if len(heavy) < len(rows):
            subscriptions.missed += light
        subscriptions.add([(row.queue.key, len(row.updates)) for row in heavy])


def _by_app(rows: Sequence[Row]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        app_id, _ = row.queue.key
        counts[app_id] = counts.get(app_id, 0) + len(row.updates)
    return counts
