"""The Grafana dashboards, as data; `python -m deploy.monitoring.dashboards` writes them as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shared.metrics import Consumer, Exporter, Ingest, Metric

DASHBOARDS: Final = Path(__file__).with_name("dashboards")

_WIDTH: Final = 8
_HEIGHT: Final = 8
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}


@dataclass(frozen=True, slots=True)
class Panel:
    """A plot of one or more queries, each with its legend."""

    title: str
    unit: str
    queries: Sequence[tuple[str, str]]
    about: str = ""


def _sum(metric: Metric, by: str = "shard") -> str:
    return f"sum by ({by}) ({metric.prometheus_name})"


def _rate(metric: Metric, by: str = "shard", where: str = "") -> str:
    return f"sum by ({by}) (rate({metric.prometheus_name}{where}[$__rate_interval]))"


def _quantile(quantile: float, metric: Metric, by: str = "shard") -> str:
    rate = f"rate({metric.prometheus_name}_bucket[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by ({by}, le) ({rate}))"


_SHARD: Final = "{{shard}}"

_LAG: Final = (
    Panel("Message lag", "short", [(_sum(Consumer.message_lag), _SHARD)], "Records waiting."),
    Panel(
        "Age of the oldest open record",
        "s",
        [(f"max by (shard) ({Consumer.oldest_age.prometheus_name})", _SHARD)],
        "It goes on growing after message lag has begun to fall: what is applied now is old.",
    ),
    Panel(
        "Estimated time to catch up",
        "s",
        [
            (f"max by (shard) ({Consumer.catch_up.prometheus_name})", _SHARD),
            (f"max({Consumer.catch_up.prometheus_name})", "all"),
        ],
        "All is caught up with when the last shard is. A shard that does not catch up has no line.",
    ),
    Panel(
        "Accepted to applied",
        "s",
        [(_quantile(q, Consumer.time_lag), f"p{q * 100:.0f} {_SHARD}") for q in (0.5, 0.99)],
    ),
    Panel(
        "Accepted and applied a second",
        "ops",
        [
            (f"sum(rate({Consumer.accepted.prometheus_name}[$__rate_interval]))", "accepted"),
            (
                (
                    f'sum(rate({Consumer.updates.prometheus_name}{{outcome="applied"}}'
                    "[$__rate_interval]))"
                ),
                "applied",
            ),
        ],
    ),
    Panel(
        "Seen from Kafka alone",
        "short",
        [(_sum(Exporter.message_lag), _SHARD)],
        "From `tidemark lag --export`; right also while no consumer runs.",
    ),
)
_WORK: Final = (
    Panel(
        "Updates folded into one row",
        "short",
        [
            (
                f"{_rate(Consumer.updates)} / {_rate(Consumer.rows_written)}",
                _SHARD,
            )
        ],
    ),
    Panel("Rows of a statement, p50", "short", [(_quantile(0.5, Consumer.flush_rows), _SHARD)]),
    Panel("Statements a second", "ops", [(_rate(Consumer.flushes, "outcome"), "{{outcome}}")]),
    Panel("Statement time, p99", "s", [(_quantile(0.99, Consumer.flush_duration), _SHARD)]),
    Panel("Wait for a connection, p99", "s", [(_quantile(0.99, Consumer.pool_wait), _SHARD)]),
    Panel(
        "Statements under way and allowed",
        "short",
        [
            (_sum(Consumer.flushes_in_flight), _SHARD),
            (_sum(Consumer.flushes_in_flight_limit), f"allowed {_SHARD}"),
        ],
    ),
    Panel("Waiting for a statement", "short", [(_sum(Consumer.ready), _SHARD)]),
    Panel(
        "Breaker not closed",
        "short",
        [(f'1 - min by (shard) ({Consumer.breaker.prometheus_name}{{state="closed"}})', _SHARD)],
    ),
    Panel(
        "Memory for records, used",
        "percentunit",
        [
            (
                f"{_sum(Consumer.in_flight_records)} / {_sum(Consumer.in_flight_records_limit)}",
                f"records {_SHARD}",
            ),
            (
                f"{_sum(Consumer.in_flight_bytes)} / {_sum(Consumer.in_flight_bytes_limit)}",
                f"bytes {_SHARD}",
            ),
        ],
    ),
    Panel("Partitions", "short", [(_sum(Consumer.partitions, "state"), "{{state}}")]),
    Panel(
        "Hottest key's share",
        "percentunit",
        [(f"max by (of) ({Consumer.hottest_share.prometheus_name})", "{{of}}")],
        "`tidemark hot` names it.",
    ),
    Panel("Dead letters a second", "ops", [(_rate(Consumer.dead_letters, "reason"), "{{reason}}")]),
    Panel(
        "Holds, and updates held back a second",
        "short",
        [
            (f"max({Consumer.holds.prometheus_name})", "holds"),
            (f"sum(rate({Consumer.held.prometheus_name}[$__rate_interval]))", "held back a second"),
        ],
        "`tidemark hold list` names them.",
    ),
    Panel(
        "Rows that others hold",
        "short",
        [(_sum(Consumer.locked), _SHARD)],
        "Their updates wait for somebody else's transaction.",
    ),
    Panel(
        "Uncommitted for",
        "s",
        [(f"max by (instance) ({Consumer.uncommitted_age.prometheus_name})", "{{instance}}")],
    ),
    Panel(
        "Commits and rebalances",
        "ops",
        [
            (_rate(Consumer.commits, "outcome"), "{{outcome}}"),
            (f"sum(rate({Consumer.rebalances.prometheus_name}[$__rate_interval]))", "rebalances"),
        ],
    ),
)
_INGEST: Final = (
    Panel(
        "Requests a second",
        "reqps",
        [
            (
                (
                    f"sum by (http_response_status_code) "
                    f"(rate({Ingest.requests.prometheus_name}_count[$__rate_interval]))"
                ),
                "{{http_response_status_code}}",
            )
        ],
    ),
    Panel(
        "Request time",
        "s",
        [(_quantile(q, Ingest.requests, "http_route"), f"p{q * 100:.0f}") for q in (0.5, 0.99)],
    ),
    Panel(
        "Kafka's acknowledgement",
        "s",
        [
            (
                (
                    f"histogram_quantile({q}, sum by (le) "
                    f"(rate({Ingest.ack.prometheus_name}_bucket[$__rate_interval])))"
                ),
                f"p{q * 100:.0f}",
            )
            for q in (0.5, 0.99)
        ],
    ),
    Panel(
        "Updates a second",
        "ops",
        [
            (f"sum(rate({Ingest.accepted.prometheus_name}[$__rate_interval]))", "accepted"),
            (_rate(Ingest.failed, "outcome"), "{{outcome}}"),
        ],
    ),
    Panel(
        "Not acknowledged yet",
        "percentunit",
        [
            (
                (
                    f"sum({Ingest.in_flight.prometheus_name}) / "
                    f"sum({Ingest.in_flight_limit.prometheus_name})"
                ),
                "updates",
            ),
            (
                (
                    f"sum({Ingest.in_flight_bytes.prometheus_name}) / "
                    f"sum({Ingest.in_flight_bytes_limit.prometheus_name})"
                ),
                "bytes",
            ),
        ],
    ),
    Panel("Ready", "short", [(f"sum({Ingest.ready.prometheus_name})", "instances")]),
)


def dashboards() -> dict[str, str]:
    """Return the JSON of each dashboard, by file name."""
    return {
        "lag.json": _dashboard("tidemark-lag", "Tidemark: how far behind", _LAG),
        "consumer.json": _dashboard("tidemark-consumer", "Tidemark: consumer", _WORK),
        "ingest.json": _dashboard("tidemark-ingest", "Tidemark: ingest", _INGEST),
    }


def _dashboard(uid: str, title: str, panels: Sequence[Panel]) -> str:
    content = {
        "uid": uid,
        "title": title,
        "tags": ["tidemark"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(panels)],
    }
    return json.dumps(content, indent=1) + "\n"


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {
            "x": number % 3 * _WIDTH,
            "y": number // 3 * _HEIGHT,
            "w": _WIDTH,
            "h": _HEIGHT,
        },
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": expression, "legendFormat": legend}
            for place, (expression, legend) in enumerate(panel.queries)
        ],
    }


def main() -> int:
    """Write every dashboard."""
    for name, content in dashboards().items():
        (DASHBOARDS / name).write_text(content, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
