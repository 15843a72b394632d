"""Every metric there is, with its unit and one line of meaning; `docs/metrics.md` is made of it.

`python -m shared.metrics > docs/metrics.md` renews that page.
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final


class Kind(Enum):
    """COUNTER only grows, GAUGE is as it is now, HISTOGRAM counts by upper bound."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric; `unit` is UCUM, `labels` are all that it can have.

    A label has few values, known beforehand: an app or a subscription never is one.
    """

    name: str
    kind: Kind
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()

    @property
    def prometheus_name(self) -> str:
        """Its name at `/metrics`; a histogram has `_bucket`, `_sum` and `_count` after it."""
        unit = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        ending = "_total" if self.kind is Kind.COUNTER else ""
        return self.name.replace(".", "_") + unit + ending


_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM
_SHARD: Final = ("shard",)


class Consumer:
    """What a consumer says of itself and of the partitions it owns; sum over consumers."""

    message_lag = Metric(
        "tidemark.consumer.message_lag",
        _G,
        "{record}",
        "Records accepted and not yet committed as applied.",
        _SHARD,
    )
    partition_lag_max = Metric(
        "tidemark.consumer.partition_lag_max",
        _G,
        "{record}",
        "The largest message lag of one partition; far above the others it is skew.",
        _SHARD,
    )
    oldest_age = Metric(
        "tidemark.consumer.oldest_age",
        _G,
        "s",
        "Time lag: age of the oldest update that is accepted and not applied; 0 where none is.",
        _SHARD,
    )
    time_lag = Metric(
        "tidemark.consumer.time_lag",
        _H,
        "s",
        "Seconds from acceptance to the row, of every update that was written.",
        _SHARD,
    )
    catch_up = Metric(
        "tidemark.consumer.catch_up",
        _G,
        "s",
        "Estimated time until nothing waits, at the rates of the last minute; +Inf where the "
        "backlog does not shrink.",
        _SHARD,
    )
    accepted = Metric(
        "tidemark.consumer.accepted",
        _C,
        "{record}",
        "Records that Kafka has accepted since each partition was first seen here.",
        _SHARD,
    )
    updates = Metric(
        "tidemark.consumer.updates",
        _C,
        "{update}",
        "Updates done with: `applied`, `replayed` (the row had them), `ignored` (no row, and none "
        "to be created), `dead_lettered` (refused by Postgres, or found wrong when it was folded).",
        ("shard", "outcome"),
    )
    rows_written = Metric(
        "tidemark.consumer.rows_written",
        _C,
        "{row}",
        "Rows written; updates applied for each of them say how much folding saves.",
        _SHARD,
    )
    flushes = Metric(
        "tidemark.consumer.flushes",
        _C,
        "{statement}",
        "Statements: `written`, `failed` (the shard did not do it), `slowed` (it was busy).",
        ("shard", "outcome"),
    )
    flush_duration = Metric(
        "tidemark.consumer.flush.duration", _H, "s", "How long a statement took.", _SHARD
    )
    flush_rows = Metric(
        "tidemark.consumer.flush.rows", _H, "{row}", "Rows of one statement.", _SHARD
    )
    pool_wait = Metric(
        "tidemark.consumer.pool.wait",
        _H,
        "s",
        "How long a statement waited for a connection.",
        _SHARD,
    )
    flushes_in_flight = Metric(
        "tidemark.consumer.flushes_in_flight", _G, "{statement}", "Statements under way.", _SHARD
    )
    flushes_in_flight_limit = Metric(
        "tidemark.consumer.flushes_in_flight_limit",
        _G,
        "{statement}",
        "How many statements may be under way now; less for a slow shard.",
        _SHARD,
    )
    ready = Metric(
        "tidemark.consumer.ready",
        _G,
        "{subscription}",
        "Subscriptions that wait for a place in a statement.",
        _SHARD,
    )
    locked = Metric(
        "tidemark.consumer.locked",
        _G,
        "{subscription}",
        "Subscriptions that wait because somebody else's transaction holds their row.",
        _SHARD,
    )
    breaker = Metric(
        "tidemark.consumer.breaker",
        _G,
        "",
        "1 for the state that the shard's breaker is in: `closed` lets writes through.",
        ("shard", "state"),
    )
    in_flight_records = Metric(
        "tidemark.consumer.in_flight.records", _G, "{record}", "Records in memory.", _SHARD
    )
    in_flight_records_limit = Metric(
        "tidemark.consumer.in_flight.records_limit",
        _G,
        "{record}",
        "The shard's share of `in_flight.records_max`.",
        _SHARD,
    )
    in_flight_bytes = Metric(
        "tidemark.consumer.in_flight.size", _G, "By", "Their bytes, as held in memory.", _SHARD
    )
    in_flight_bytes_limit = Metric(
        "tidemark.consumer.in_flight.size_limit",
        _G,
        "By",
        "The shard's share of `in_flight.bytes_max`.",
        _SHARD,
    )
    partitions = Metric(
        "tidemark.consumer.partitions",
        _G,
        "{partition}",
        "Partitions: `assigned`; of these `paused` (over their bound) and `stopped` (nearly all "
        "of it can never succeed).",
        ("shard", "state"),
    )
    commits = Metric(
        "tidemark.consumer.commits", _C, "{commit}", "Commits: `done` or `failed`.", ("outcome",)
    )
    uncommitted_age = Metric(
        "tidemark.consumer.uncommitted_age",
        _G,
        "s",
        "How long there has been something to commit since the last commit; 0 where there is not.",
    )
    rebalances = Metric(
        "tidemark.consumer.rebalances", _C, "{rebalance}", "How often partitions were assigned."
    )
    dead_letters = Metric(
        "tidemark.consumer.dead_letters", _C, "{record}", "Records given up on.", ("reason",)
    )
    holds = Metric("tidemark.consumer.holds", _G, "{hold}", "Holds that are not released.")
    held = Metric("tidemark.consumer.held", _C, "{update}", "Updates moved to the holding topic.")
    hottest_share = Metric(
        "tidemark.consumer.hottest_share",
        _G,
        "",
        "Share of the hottest `subscription` or `app` in the updates of the last minutes, 0 to 1.",
        ("of",),
    )
    hottest_rate = Metric(
        "tidemark.consumer.hottest_rate",
        _G,
        "{update}",
        "Updates a second of the hottest `subscription` or `app`.",
        ("of",),
    )


class Ingest:
    """What the ingest API says of itself."""

    requests = Metric(
        "http.server.request.duration",
        _H,
        "s",
        "Requests, from the first byte of the head to the last of the answer.",
        ("http.request.method", "http.route", "http.response.status_code"),
    )
    accepted = Metric(
        "tidemark.ingest.accepted", _C, "{update}", "Updates that Kafka has acknowledged."
    )
    failed = Metric(
        "tidemark.ingest.failed",
        _C,
        "{update}",
        "Updates that were not acknowledged: `not_accepted` (503) or `unknown` (504).",
        ("outcome",),
    )
    ack = Metric(
        "tidemark.ingest.ack.duration",
        _H,
        "s",
        "From handing the updates of a request to Kafka's client to the last acknowledgement.",
    )
    in_flight = Metric(
        "tidemark.ingest.in_flight.updates", _G, "{update}", "Updates not acknowledged yet."
    )
    in_flight_limit = Metric(
        "tidemark.ingest.in_flight.updates_limit",
        _G,
        "{update}",
        "As many as `produce.updates_in_flight_max`; one more is answered 503.",
    )
    in_flight_bytes = Metric("tidemark.ingest.in_flight.size", _G, "By", "Their bytes.")
    in_flight_bytes_limit = Metric(
        "tidemark.ingest.in_flight.size_limit", _G, "By", "As `produce.bytes_in_flight_max`."
    )
    limits_alone = Metric(
        "tidemark.ingest.limits.counted_alone",
        _C,
        "{request}",
        "Requests that this process counted alone because the store of limits did not answer.",
    )
    ready = Metric("tidemark.ingest.ready", _G, "", "1 while requests should be sent to it.")


class Exporter:
    """What `tidemark lag --export` reads from Kafka alone; right also while consumers are down."""

    message_lag = Metric(
        "tidemark.lag.messages", _G, "{record}", "Records accepted and not committed.", _SHARD
    )
    partition_lag_max = Metric(
        "tidemark.lag.partition_max",
        _G,
        "{record}",
        "The largest message lag of one partition.",
        _SHARD,
    )
    oldest_age = Metric(
        "tidemark.lag.oldest_age",
        _G,
        "s",
        "Age of the oldest record that is accepted and not committed; 0 where none is.",
        _SHARD,
    )
    catch_up = Metric(
        "tidemark.lag.catch_up",
        _G,
        "s",
        "Estimated time until nothing waits; +Inf where the backlog does not shrink.",
        _SHARD,
    )
    accepted = Metric("tidemark.lag.accepted", _C, "{record}", "End offsets, summed.", _SHARD)
    committed = Metric(
        "tidemark.lag.committed", _C, "{record}", "Committed offsets, summed.", _SHARD
    )


_GROUPS: Final[Mapping[str, type]] = {
    "Consumer, `/metrics` on its status port": Consumer,
    "Ingest API, `/metrics` on its port": Ingest,
    "Exporter, `tidemark lag --export`": Exporter,
}


def metrics_of(group: type) -> Iterable[Metric]:
    """Yield the metrics of one of the classes here, in order."""
    return (each for each in vars(group).values() if isinstance(each, Metric))


def all_metrics() -> Iterable[Metric]:
    """Yield every metric there is."""
    return (each for group in _GROUPS.values() for each in metrics_of(group))


def page() -> str:
    """Return `docs/metrics.md`."""
    lines = [
        "# Metrics",
        "",
        "Made by `python -m shared.metrics > docs/metrics.md`. Names are those at `/metrics`;",
        "over OTLP they have dots, and neither unit nor `_total` at the end. A histogram is read",
        "from `…_bucket`, `…_sum` and `…_count`. No label is ever an app or a subscription.",
    ]
    for title, group in _GROUPS.items():
        about = (group.__doc__ or "").partition("\n")[0]
        lines += ["", f"## {title}", about, ""]
        lines += ["| name | kind | unit | labels | meaning |", "|---|---|---|---|---|"]
        for each in metrics_of(group):
            labels = ", ".join(label.replace(".", "_") for label in each.labels)
            cells = (
                f"`{each.prometheus_name}`",
                each.kind.value,
                each.unit.strip("{}"),
                labels,
                each.meaning,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(page())
