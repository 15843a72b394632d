"""What the consumer's metrics are now, read from whatever counts them."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from consumer.assigned_work import AssignedWork
from consumer.breaker import BreakerState
from consumer.budget import ShardBudget
from consumer.committer import CommitCounts
from consumer.dead_letters import DeadLetterTopic
from consumer.holding import HoldingTopic
from consumer.hot_keys import HotKeys
from consumer.lag_watch import LagWatch
from consumer.observer import FlushObserver, ShardNotes
from consumer.once import REUSED
from consumer.partition_work import PartitionWork
from consumer.shard_writer import ShardWriter
from shared.histogram import Histogram
from shared.holds import Holds, HoldState
from shared.lag import TOTAL, Lag
from shared.metrics import Consumer, Metric
from shared.telemetry import Labels, Read
from shared.topology import ShardMap

_NONE_YET: Final = dict.fromkeys(
    ("undecodable", "wrong_partition", "refused", "too_many_tags", REUSED), 0
)
"""Told from the start: whoever looks for an increase sees none where a count only appears."""

_Readings = Iterable[tuple[float, Labels]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Everything of a consumer that counts or knows something."""

    shard_map: ShardMap
    work: AssignedWork
    writers: Mapping[str, ShardWriter]
    observer: FlushObserver
    lag: LagWatch
    commits: CommitCounts
    dead_letters: DeadLetterTopic
    holds: Holds
    holding: HoldingTopic


def reads(of: Sources) -> Mapping[Metric, Read]:
    """Return how each metric of a consumer is read."""
    return {
        Consumer.message_lag: _of_lags(of, lambda lag: lag.message_lag),
        Consumer.partition_lag_max: _of_lags(of, lambda lag: lag.partition_max),
        Consumer.oldest_age: _of_lags(of, lambda lag: lag.time_lag_s),
        Consumer.time_lag: _of_notes(of, lambda notes: notes.time_lag),
        Consumer.catch_up: _of_lags(of, lambda lag: lag.catch_up_s),
        Consumer.accepted: lambda: [(n, {"shard": name}) for name, n in of.lag.accepted.items()],
        Consumer.updates: lambda: _updates(of.writers),
        Consumer.rows_written: _of_writers(of, lambda writer: writer.counts.rows_written),
        Consumer.flushes: lambda: _flushes(of.writers),
        Consumer.flush_duration: _of_notes(of, lambda notes: notes.flush_duration),
        Consumer.flush_rows: _of_notes(of, lambda notes: notes.flush_rows),
        Consumer.pool_wait: _of_notes(of, lambda notes: notes.pool_wait),
        Consumer.flushes_in_flight: _of_writers(of, lambda writer: writer.flushes_in_flight),
        Consumer.flushes_in_flight_limit: _of_writers(of, lambda writer: writer.pace.flushes),
        Consumer.ready: _of_writers(of, lambda writer: writer.ready),
        Consumer.locked: _of_writers(of, lambda writer: writer.locked),
        Consumer.breaker: lambda: [
            (float(writer.breaker.state is state), {"shard": name, "state": state.value})
            for name, writer in of.writers.items()
            for state in BreakerState
        ],
        Consumer.in_flight_records: _of_budgets(of, lambda budget: budget.records),
        Consumer.in_flight_records_limit: _of_budgets(of, lambda b: b.bounds.share_records),
        Consumer.in_flight_bytes: _of_budgets(of, lambda budget: budget.bytes),
        Consumer.in_flight_bytes_limit: _of_budgets(of, lambda budget: budget.bounds.share_bytes),
        Consumer.partitions: lambda: _partitions(of.shard_map, of.work.partitions),
        Consumer.commits: lambda: [
            (of.commits.done, {"outcome": "done"}),
            (of.commits.failed, {"outcome": "failed"}),
        ],
        Consumer.uncommitted_age: lambda: [(of.commits.owed_s, {})],
        Consumer.rebalances: lambda: [(of.work.assignments, {})],
        Consumer.dead_letters: lambda: [
            (count, {"reason": reason})
            for reason, count in {**_NONE_YET, **of.dead_letters.counts}.items()
        ],
        Consumer.holds: lambda: [
            (sum(view.state is not HoldState.RELEASED for view in of.holds.views()), {})
        ],
        Consumer.held: lambda: [(of.holding.count, {})],
        Consumer.hottest_share: lambda: _hottest(of.observer, _share),
        Consumer.hottest_rate: lambda: _hottest(of.observer, _rate),
    }


def _of_lags(of: Sources, value: Callable[[Lag], float]) -> Read:
    return lambda: [
        (value(lag), {"shard": lag.name}) for lag in of.lag.by_shard() if lag.name != TOTAL
    ]


def _of_notes(of: Sources, value: Callable[[ShardNotes], Histogram]) -> Read:
    return lambda: [(value(notes), {"shard": name}) for name, notes in of.observer.shards.items()]


def _of_writers(of: Sources, value: Callable[[ShardWriter], float]) -> Read:
    return lambda: [(value(writer), {"shard": name}) for name, writer in of.writers.items()]


def _of_budgets(of: Sources, value: Callable[[ShardBudget], float]) -> Read:
    return lambda: [(value(budget), {"shard": name}) for name, budget in of.work.budgets.items()]


def _updates(writers: Mapping[str, ShardWriter]) -> Iterator[tuple[float, Labels]]:
    for name, writer in writers.items():
        counts = writer.counts
        yield counts.updates_applied, {"shard": name, "outcome": "applied"}
        yield counts.updates_replayed, {"shard": name, "outcome": "replayed"}
        yield counts.updates_ignored, {"shard": name, "outcome": "ignored"}
        yield counts.updates_dead_lettered, {"shard": name, "outcome": "dead_lettered"}


def _flushes(writers: Mapping[str, ShardWriter]) -> Iterator[tuple[float, Labels]]:
    for name, writer in writers.items():
        yield writer.counts.flushes, {"shard": name, "outcome": "written"}
        yield writer.counts.flushes_failed, {"shard": name, "outcome": "failed"}
        yield writer.counts.flushes_slowed, {"shard": name, "outcome": "slowed"}


def _partitions(shard_map: ShardMap, partitions: Mapping[int, PartitionWork]) -> _Readings:
    counts: Counter[tuple[str, str]] = Counter()
    for shard in shard_map.shards:
        own = [partitions[each] for each in shard.partitions if each in partitions]
        counts[shard.name, "assigned"] = len(own)
        counts[shard.name, "paused"] = sum(work.paused for work in own)
        counts[shard.name, "stopped"] = sum(work.stopped for work in own)
    return [(count, {"shard": name, "state": state}) for (name, state), count in counts.items()]


def _hottest(
    observer: FlushObserver, value: Callable[["HotKeys[tuple[str, str]] | HotKeys[str]"], float]
) -> _Readings:
    return [
        (value(observer.subscriptions), {"of": "subscription"}),
        (value(observer.apps), {"of": "app"}),
    ]


def _share(keys: "HotKeys[tuple[str, str]] | HotKeys[str]") -> float:
    top = keys.top(1)
    return top[0].low / keys.total if top and keys.total else 0.0


def _rate(keys: "HotKeys[tuple[str, str]] | HotKeys[str]") -> float:
    top = keys.top(1)
    return top[0].low / max(keys.seconds, 1.0) if top else 0.0
