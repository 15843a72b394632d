"""Everything that the status page tells, as one value that is read at each request."""

import time
from collections.abc import Collection, Mapping, Sequence
from typing import Final, TypedDict, TypeVar

import msgspec

from consumer.budget import ShardBudget
from consumer.hot_keys import HotKeys
from consumer.metrics import Sources
from shared.holds import HoldState
from shared.lag import TOTAL, Lag
from shared.topology import PARTITIONS
from shared.wording import app_ids

K = TypeVar("K")

_HOT: Final = 10


class Point(msgspec.Struct, frozen=True):
    """One moment of the last half hour."""

    at_s: float
    message_lag: int
    time_lag_s: float


class ShardView(msgspec.Struct, frozen=True, kw_only=True):
    """A shard as this consumer sees it: of its partitions, those that are ours."""

    name: str
    apps: str
    """With what the IDs of its apps begin."""
    first: int
    partitions: int
    paused: int
    stopped: int
    message_lag: int
    partition_max: int
    time_lag_s: float
    accepted_per_s: float
    applied_per_s: float
    catch_up_s: float | None
    """None while the backlog does not shrink."""
    breaker: str
    failing_since_s: float | None
    failing_because: str | None
    flushes_in_flight: int
    ready: int
    locked: int
    """Subscriptions whose row somebody else's transaction holds."""
    trend: Sequence[Point]


class Hot(msgspec.Struct, frozen=True, kw_only=True):
    """A key that comes often; `low` and `high` bound how often it came."""

    app: str
    subscription: str | None = None
    low: int
    high: int
    per_s: float
    share: float


class HoldLine(msgspec.Struct, frozen=True):
    """What is held back."""

    key: str
    state: str
    reason: str
    since_s: float


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """One consumer, now."""

    name: str
    at_s: float
    ready: bool
    partitions: int
    shards: Sequence[ShardView]
    waiting: Mapping[int, int]
    """Message lag of every partition of the topic that has any, whoever owns it."""
    hot_subscriptions: Sequence[Hot]
    hot_apps: Sequence[Hot]
    hot_window_s: float
    updates_per_s: float
    """Updates written a second in that time."""
    holds: Sequence[HoldLine]
    dead_letters: Mapping[str, int]
    uncommitted_s: float
    in_flight: int
    in_flight_share: float
    """How much of the bounds on records and bytes in memory is used, 0 to 1."""
    silent: Sequence[str] = ()
    """Consumers that were asked and did not answer."""
    kafka_silent_s: float = 0.0
    """How long Kafka has not said where updates stand, though it was asked; 0 while it does."""


def read_overview(of: Sources, name: str) -> Overview:
    """Look at everything once."""
    lags = {lag.name: lag for lag in of.lag.by_shard()}
    now = time.time()
    look = of.lag.everything.latest
    subscriptions, apps = of.observer.subscriptions, of.observer.apps
    budgets = of.work.budgets.values()
    return Overview(
        name=name,
        at_s=now,
        ready=of.work.assignments > 0,
        partitions=len(of.work.partitions),
        shards=[_shard(of, number, lags) for number in range(len(of.shard_map.shards))],
        waiting={} if look is None else {n: lag for n in range(PARTITIONS) if (lag := look.lag(n))},
        hot_subscriptions=[
            Hot(app=app, subscription=subscription, **_numbers(subscriptions, low, high))
            for (app, subscription), low, high in _most(subscriptions)
            if low >= high - low  # less is what anybody may have
        ],
        hot_apps=[Hot(app=app, **_numbers(apps, low, high)) for app, low, high in _most(apps)],
        hot_window_s=subscriptions.seconds,
        updates_per_s=subscriptions.total / max(subscriptions.seconds, 1.0),
        holds=[
            HoldLine(str(view.key), view.state.value, view.reason, view.since_ms / 1000)
            for view in of.holds.views()
            if view.state is not HoldState.RELEASED
        ],
        dead_letters=dict(of.dead_letters.counts),
        uncommitted_s=of.commits.owed_s,
        kafka_silent_s=of.lag.silent_s,
        in_flight=sum(budget.records for budget in budgets),
        in_flight_share=used(budgets),
    )


def used(budgets: Collection[ShardBudget]) -> float:
    """Return how much of the bounds on records and bytes in memory is used, 0 to 1."""
    bounds = [each.bounds for each in budgets]
    if not bounds:
        return 0.0  # nothing is assigned yet
    return max(
        sum(each.records for each in budgets) / sum(each.share_records for each in bounds),
        sum(each.bytes for each in budgets) / sum(each.share_bytes for each in bounds),
    )


def _shard(of: Sources, number: int, lags: Mapping[str, Lag]) -> ShardView:
    shard = of.shard_map.shards[number]
    writer = of.writers[shard.name]
    own = [of.work.partitions[each] for each in shard.partitions if each in of.work.partitions]
    lag = lags.get(shard.name) or _NO_LAG
    failing = writer.failing
    return ShardView(
        name=shard.name,
        apps=app_ids(shard.first, shard.last, PARTITIONS),
        first=shard.first,
        partitions=len(own),
        paused=sum(work.paused for work in own),
        stopped=sum(work.stopped for work in own),
        message_lag=lag.message_lag,
        partition_max=lag.partition_max,
        time_lag_s=lag.time_lag_s,
        accepted_per_s=lag.accepted_per_s,
        applied_per_s=lag.done_per_s,
        catch_up_s=None if lag.catch_up_s == float("inf") else lag.catch_up_s,
        breaker=writer.breaker.state.value,
        failing_since_s=failing.since_s if failing else None,
        failing_because=failing.reason if failing else None,
        flushes_in_flight=writer.flushes_in_flight,
        ready=writer.ready,
        locked=writer.locked,
        trend=[
            Point(at_s, lags[shard.name].message_lag, lags[shard.name].time_lag_s)
            for at_s, lags in of.lag.trend
        ],
    )


_NO_LAG: Final = Lag(TOTAL, 0, 0.0, 0, 0, 0.0, 0.0, 0, 0.0)


class _Numbers(TypedDict):
    low: int
    high: int
    per_s: float
    share: float


def _most(keys: HotKeys[K]) -> list[tuple[K, int, int]]:
    return [(each.key, each.low, each.high) for each in keys.top(_HOT)]


def _numbers(keys: HotKeys[K], low: int, high: int) -> _Numbers:
    return {
        "low": low,
        "high": high,
        "per_s": low / max(keys.seconds, 1.0),
        "share": low / max(keys.total, 1),
    }
