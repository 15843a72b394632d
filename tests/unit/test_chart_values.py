"""What is generated of the chart is made from values.yaml and the services' settings."""

import json
from typing import Any

import jsonschema
import pytest
import yaml

from consumer.settings import ConsumerSettings
from deploy.helm.renders import GOLDEN
from deploy.helm.renew import generated
from deploy.helm.values import CHART, VALUE_SETS, read_values
from shared.errors import Misconfigured
from tests.fake_publisher import FakePublisher
from tests.ingest_apps import app_of


def merged(values: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Values with others over them, as Helm does it: null takes away."""
    both = {
        name: merged(values[name], each)
        if isinstance(each, dict) and isinstance(values.get(name), dict)
        else each
        for name, each in over.items()
    }
    return {name: each for name, each in {**values, **both}.items() if each is not None}


def validate(over: dict[str, Any]) -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    jsonschema.validate(merged(defaults, over), schema)


def test_schema_and_table_are_as_generated() -> None:
    for path, content in generated().items():
        assert path.read_text("utf-8") == content, f"{path.name} is stale: run `make chart`"


def test_customers_reach_every_route_of_the_api_and_neither_metrics_nor_probes() -> None:
    rendered = yaml.safe_load_all((GOLDEN / "production.yaml").read_text("utf-8"))
    [rule] = next(each for each in rendered if each["kind"] == "Ingress")["spec"]["rules"]
    public = [each["path"] for each in rule["http"]["paths"]]
    routes = {*app_of(FakePublisher()).openapi()["paths"], "/docs", "/openapi.json", "/metrics"}

    outside = {each for each in routes if not any(f"{each}/".startswith(f"{p}/") for p in public)}

    assert outside == {"/metrics", "/livez", "/readyz"}


def test_the_guard_of_memory_knows_the_consumers_default() -> None:
    default = ConsumerSettings.model_fields["in_flight"].default.bytes_max

    assert f"default {default} " in (CHART / "templates" / "guards.yaml").read_text("utf-8")


def test_the_defaults_and_every_value_set_obey_the_schema() -> None:
    for path in (CHART / "values.yaml", *VALUE_SETS.glob("*.yaml")):
        validate(yaml.safe_load(path.read_text("utf-8")))


@pytest.mark.parametrize(
    "wrong",
    [
        {"consumer": {"settings": {"write": None}}},
        {"consumer": {"resources": None}},
        {"unknown": 1},
        {"ingest": {"replicas": 0}},
        {"consumer": {"replicas": 721}},
        {"consumer": {"autoscaling": {"kind": "cron"}}},
        {"consumer": {"settings": {"write": {"rows": 5}}}},
        {"consumer": {"settings": {"write": {"rows_per_flush_max": 100_000}}}},
        {"consumer": {"settings": {"group": {"instance_id": "same-for-all"}}}},
        {"consumer": {"settings": {"kafka": {"topic": "other"}}}},
        {"image": {"digest": "sha256:short"}},
        {"shards": [{"name": "shard-0"}]},
        {"shards": [{"name": "Shard_0", "connectionsMax": 1}]},
        {"kafka": {"securityProtocol": "TLS"}},
    ],
)
def test_unknown_and_wrong_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        validate(wrong)


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(Misconfigured, match="line 2: say what size is"):
        read_values("section:\n  size: 1\n")
