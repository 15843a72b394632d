"""What is generated of the chart is made from values.yaml and the services' settings."""

import json

import jsonschema
import pytest
import yaml

from deploy.helm.renew import generated
from deploy.helm.values import CHART, VALUE_SETS, read_values
from shared.errors import Misconfigured


def test_schema_and_table_are_as_generated() -> None:
    for path, content in generated().items():
        assert path.read_text("utf-8") == content, f"{path.name} is stale: run `make chart`"


def test_the_defaults_and_every_value_set_obey_the_schema() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))

    for path in (CHART / "values.yaml", *VALUE_SETS.glob("*.yaml")):
        jsonschema.validate(yaml.safe_load(path.read_text("utf-8")), schema)


@pytest.mark.parametrize(
    "wrong",
    [
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
def test_unknown_and_wrong_values_are_refused(wrong: object) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


def test_a_value_without_a_comment_is_refused() -> None:
    with pytest.raises(Misconfigured, match="line 2: say what size is"):
        read_values("section:\n  size: 1\n")
