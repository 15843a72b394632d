"""Rules, runbooks and dashboards speak of metrics and pages that there are."""

import re
from typing import Any

import yaml

from deploy.local.layout import CHECKOUT
from deploy.monitoring.dashboards import DASHBOARDS, dashboards
from shared.metrics import Consumer, Kind, all_metrics, metrics_of

MONITORING = CHECKOUT / "deploy" / "monitoring"
NAME = re.compile(r"\b(?:tidemark|http_server)_[a-z0-9_]+")


def names() -> set[str]:
    known = set()
    for metric in all_metrics():
        endings = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        known |= {metric.prometheus_name + ending for ending in endings}
    return known


def rules() -> list[dict[str, Any]]:
    files = MONITORING.glob("rules/*.yaml")
    groups = [g for path in files for g in yaml.safe_load(path.read_text("utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def test_rules_read_metrics_that_there_are() -> None:
    for rule in rules():
        used = set(NAME.findall(re.sub(r"tidemark:\w+:\w+", "", rule["expr"])))
        assert used <= names(), rule


def test_every_alert_has_a_runbook_and_a_case() -> None:
    alerts = {rule["alert"]: rule for rule in rules() if "alert" in rule}
    cases = {
        case["alertname"]
        for path in MONITORING.glob("tests/*.yaml")
        for test in yaml.safe_load(path.read_text("utf-8"))["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }

    assert alerts.keys() == cases
    for name, rule in alerts.items():
        page = (CHECKOUT / rule["annotations"]["runbook"]).read_text("utf-8")
        assert f"`{name}`" in page


def test_dashboards_are_as_generated_and_read_metrics_that_there_are() -> None:
    for name, content in dashboards().items():
        path = DASHBOARDS / name
        assert path.read_text("utf-8") == content, "python -m deploy.monitoring.dashboards"
        assert set(NAME.findall(content)) <= names()


def test_what_a_consumer_tells_is_in_an_alert_or_on_a_dashboard() -> None:
    shown = {name for content in dashboards().values() for name in NAME.findall(content)}
    shown |= {name for rule in rules() for name in NAME.findall(rule["expr"])}
    told = {metric.prometheus_name for metric in metrics_of(Consumer)}

    assert {name for name in told if not any(name in each for each in shown)} == set()


def test_runbooks_and_dashboards_speak_of_no_metric_in_part() -> None:
    for path in (CHECKOUT / "docs" / "runbooks").glob("*.md"):
        assert set(NAME.findall(path.read_text("utf-8"))) <= names() | {
            metric.prometheus_name for metric in all_metrics()
        }
