"""What is wrong now, in words, and what to do about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from consumer.overview import Hot, Overview, ShardView
from shared.topology import PARTITIONS
from shared.wording import amount, duration

LATE_S: Final = 30.0
"""A time lag that is worth a sentence."""

_HOT_SHARE: Final = 0.2
_HOT_PER_S: Final = 20.0
_UNCOMMITTED_S: Final = 30.0
_SKEW_RECORDS: Final = 1_000
_SKEW_SHARE: Final = 0.8
_NEAR_LIMIT: Final = 0.9
_NOT_KNOWN: Final = "Whether all updates are applied is not known at the moment."

Severity = Literal["bad", "warn", "note"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """A sentence that says what is wrong, and one that says what to do."""

    severity: Severity
    what: str
    advice: str
    public: str | None = None
    """What customers may be told, without IDs; None for nothing."""


def troubles(view: Overview) -> Sequence[Trouble]:
    """Return what is wrong, the worst first; empty when nothing is."""
    order = {"bad": 0, "warn": 1, "note": 2}
    return sorted(_all(view), key=lambda trouble: order[trouble.severity])


def _all(view: Overview) -> Iterator[Trouble]:
    if not view.ready:
        yield Trouble(
            "warn",
            "This consumer has not been given partitions yet.",
            "It joins its group; if that takes longer than a minute, look at its log.",
            _NOT_KNOWN,
        )
    if view.kafka_silent_s:
        since = clock(view.at_s - view.kafka_silent_s)
        yield Trouble(
            "bad",
            f"Kafka has not answered since {since}, so what waits is not known; numbers are of "
            "then.",
            "Bring the brokers back, or the network to them. Nothing accepted is lost, and "
            "consumers go on by themselves.",
            f"Since {since} it is not known what waits. What was accepted is kept, and applied "
            "later.",
        )
    elsewhere = PARTITIONS - view.partitions
    if view.ready and elsewhere > 0:
        yield Trouble(
            "note",
            f"{elsewhere} of {PARTITIONS} partitions belong to no consumer that this page asks, so "
            "what is wrong there is not known here.",
            "Name the other consumers in TIDEMARK_TELEMETRY__PEERS, and start those that are "
            "missing. `tidemark lag` shows all partitions.",
            _NOT_KNOWN,
        )
    for name in view.silent:
        yield Trouble(
            "warn",
            f"The consumer at {name} does not answer, so its numbers are missing here.",
            "If it is down, its partitions go to others when its session ends. `tidemark lag` "
            "shows them all the same.",
            _NOT_KNOWN,
        )
    for shard in view.shards:
        yield from _of_shard(shard, others=len(view.shards) > 1)
    yield from _of_keys(view)
    if view.uncommitted_s > _UNCOMMITTED_S:
        yield Trouble(
            "bad",
            f"Nothing could be committed for {duration(view.uncommitted_s)}.",
            "Rows are written all the same. Look whether Kafka answers, and whether its log "
            "speaks of rebalances.",
        )
    if view.in_flight_share >= _NEAR_LIMIT:
        yield Trouble(
            "warn",
            "Memory for records is nearly used up, so partitions wait to be fetched.",
            "It is bounded, and fair by shard. The shard that waits longest is the one to look at.",
        )
    for hold in view.holds:
        app, _, subscription = hold.key.partition("/")
        which = f"--app {app}" + (f" --subscription {subscription}" if subscription else "")
        yield Trouble(
            "note",
            f"{hold.key} is held back since {clock(hold.since_s)}: {hold.reason}",
            f"`tidemark hold release {which}` has it applied, in order.",
            "Some updates are held back on purpose, and applied later.",
        )


def _of_shard(shard: ShardView, *, others: bool) -> Iterator[Trouble]:
    apps = f"apps with IDs from {shard.apps}"
    idle = not shard.flushes_in_flight and not shard.ready
    elsewhere = "; other shards are not affected" if others else ""
    if shard.failing_since_s is not None:
        yield Trouble(
            "bad",
            f"{shard.name} cannot be written since {clock(shard.failing_since_s)}: "
            f"{shard.failing_because} {shard.partitions} partitions wait{elsewhere}.",
            f"Bring {shard.name} back. Its updates wait in Kafka, nothing is lost, and it is tried "
            "again by itself.",
            f"Updates of {apps} are accepted, and applied later.",
        )
    elif shard.time_lag_s > LATE_S and not (idle and shard.locked):
        wait = (
            "caught up in " + duration(shard.catch_up_s)
            if shard.catch_up_s is not None
            else "not catching up"
        )
        yield Trouble(
            "bad" if idle else "warn",
            f"Updates of {apps} ({shard.name}) are {duration(shard.time_lag_s)} late; "
            f"{amount(shard.message_lag)} wait, {wait}.",
            "Nothing is being written although records wait: look whether partitions are paused, "
            "held or not fetched (runbook: starvation)."
            if idle
            else "More arrive than this shard takes. Look at its hottest keys, then at its load.",
            f"Updates of {apps} are applied {duration(shard.time_lag_s)} late.",
        )
    if shard.locked:
        yield Trouble(
            "warn",
            f"{amount(shard.locked)} rows of {shard.name} are held by somebody else's transaction; "
            "their updates wait, others go on.",
            "The oldest transactions in pg_stat_activity say whose it is (runbook: shard-stalled). "
            "When it ends, they are written by themselves.",
            f"Some updates of {apps} wait.",
        )
    if shard.stopped:
        yield Trouble(
            "bad",
            f"{shard.stopped} partitions of {shard.name} are stopped: nearly all of their records "
            "can never succeed.",
            "`tidemark dead-letters list --since 1h` shows them. Put right what writes them, "
            "then restart the consumer.",
            f"Some updates of {apps} wait.",
        )
    if (
        shard.partition_max > _SKEW_RECORDS
        and shard.partition_max > _SKEW_SHARE * shard.message_lag
        and shard.failing_since_s is None
    ):
        yield Trouble(
            "warn",
            f"One partition of {shard.name} has {amount(shard.partition_max)} of the "
            f"{amount(shard.message_lag)} records that wait there.",
            "One app sends more than its partition takes in; `tidemark hot` names it.",
        )


def _of_keys(view: Overview) -> Iterator[Trouble]:
    for hot in view.hot_subscriptions[:3]:
        if hot.share >= _HOT_SHARE and hot.per_s >= _HOT_PER_S:
            yield _hot_row(hot)
    for hot in view.hot_apps[:1]:
        if hot.share >= 0.5 and hot.per_s >= _HOT_PER_S and _total_lag(view):  # noqa: PLR2004
            yield Trouble(
                "note",
                f"App {hot.app} sends {hot.share:.0%} of all updates, {amount(hot.per_s)} a "
                "second.",
                "Others in its partition wait behind it; `tidemark inspect --app … --top tags` "
                "says what it sends.",
            )


def _hot_row(hot: Hot) -> Trouble:
    return Trouble(
        "warn",
        f"One row takes {hot.share:.0%} of all updates, {amount(hot.per_s)} a second: subscription "
        f"{hot.subscription} of app {hot.app}.",
        "Its updates are folded, so others go on. If it is a mistake of theirs: "
        f"`tidemark hold add --app {hot.app} --subscription {hot.subscription} --reason …`",
    )


def _total_lag(view: Overview) -> int:
    return sum(shard.message_lag for shard in view.shards)


def clock(moment_s: float) -> str:
    """Return the time of day, UTC."""
    return datetime.fromtimestamp(moment_s, UTC).strftime("%H:%M:%S UTC")
