"""The chart, rendered by Helm for every set of values that the repository shows."""

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from consumer.settings import ConsumerSettings
from deploy.helm.renders import (
    GOLDEN,
    OPERATIONS,
    golden,
    helm,
    objects,
    operations_page,
    render,
)
from deploy.helm.tools import find_tool
from deploy.helm.values import CHART, VALUE_SETS
from ingest_api.settings import IngestSettings
from shared.errors import Misconfigured
from shared.settings import read_shard_map

SETS = sorted(VALUE_SETS.glob("*.yaml"))
MINIMAL, PRODUCTION = VALUE_SETS / "minimal.yaml", VALUE_SETS / "production.yaml"
OLDEST, NEWEST = "1.29", kubernetes_validate.latest_version()

DEFINED_ELSEWHERE = {"ScaledObject", "TriggerAuthentication", "HTTPRoute"} | {
    "ServiceMonitor",
    "PrometheusRule",
}
"""Kinds that operators bring, and whose schemas do not come with Kubernetes."""

each_set = pytest.mark.parametrize("values", SETS, ids=[path.stem for path in SETS])


def shards(**partitions: list[int] | None) -> str:
    """A setting of shards of these names and partitions."""
    entries = [
        {"name": name, "connectionsMax": 9, **({"partitions": each} if each else {})}
        for name, each in partitions.items()
    ]
    return f"shards={json.dumps(entries)}"


@pytest.fixture(scope="session")
def program() -> Path:
    return find_tool("helm")


@each_set
def test_helm_lints_it_strictly(program: Path, values: Path) -> None:
    helm(program, "lint", "--strict", CHART, "--values", values)


@each_set
def test_its_render_is_the_golden_one(program: Path, values: Path) -> None:
    kept = (GOLDEN / values.name).read_text("utf-8")

    assert golden(render(program, values)) == kept, (
        "look at the difference; `make chart` accepts it"
    )


def test_the_page_for_operators_has_every_object_of_production(program: Path) -> None:
    assert OPERATIONS.read_text("utf-8") == operations_page(program), "run `make chart`"


@each_set
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_kubernetes_would_take_every_object(program: Path, values: Path, version: str) -> None:
    for each in objects(render(program, values)):
        if each["kind"] not in DEFINED_ELSEWHERE:
            kubernetes_validate.validate(each, version, strict=True)


@each_set
def test_every_pod_obeys_the_restricted_standard(program: Path, values: Path) -> None:
    pods = list(pod_specs(objects(render(program, values))))

    assert pods
    for name, pod in pods:
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), name
        assert not [each for each in pod["volumes"] if "hostPath" in each], name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name


@each_set
def test_no_render_holds_a_secret(program: Path, values: Path) -> None:
    manifests = render(program, values)

    assert not [each for each in objects(manifests) if each["kind"] == "Secret"]
    assert "postgresql://" not in manifests


@each_set
def test_the_services_read_the_shard_map_that_it_renders(
    program: Path, values: Path, tmp_path: Path
) -> None:
    maps = [
        each["data"]["shard_map.json"]
        for each in objects(render(program, values))
        if each["kind"] == "ConfigMap" and "shard_map.json" in each["data"]
    ]
    shard_map = json.loads(maps[0])
    for entry in shard_map["shards"]:
        entry["dsn_file"] = str(tmp_path / entry["name"])
        Path(entry["dsn_file"]).write_text("postgresql://tidemark:secret@postgres/tidemark\n")
    path = tmp_path / "shard_map.json"
    path.write_text(json.dumps(shard_map))

    directory = read_shard_map(path)

    assert len(set(maps)) == 1
    assert directory.budgets.keys() == directory.dsns.keys()


def test_every_selector_finds_the_pods_that_it_is_meant_for(program: Path) -> None:
    manifests = objects(render(program, PRODUCTION))
    labels = {
        each["metadata"]["name"]: each["spec"]["template"]["metadata"]["labels"]
        for each in manifests
        if each["kind"] in {"Deployment", "StatefulSet"}
    }
    for each in manifests:
        name, kind, spec = each["metadata"]["name"], each["kind"], each.get("spec", {})
        if kind == "Service":
            assert spec["selector"].items() <= labels[name].items()
        elif kind in {"Deployment", "StatefulSet", "PodDisruptionBudget", "ServiceMonitor"}:
            assert spec["selector"]["matchLabels"].items() <= labels[name].items()


def test_a_restarted_consumer_has_time_to_drain_and_its_place_is_kept(program: Path) -> None:
    (consumer,) = [
        each for each in objects(render(program, MINIMAL)) if each["kind"] == "StatefulSet"
    ]
    pod = consumer["spec"]["template"]["spec"]
    environment = {each["name"]: each for each in pod["containers"][0]["env"]}

    def milliseconds(name: str) -> int:
        return int(environment[f"TIDEMARK_GROUP__{name}"]["value"])

    grace_ms = pod["terminationGracePeriodSeconds"] * 1000
    assert grace_ms > 2 * milliseconds("DRAIN_TIMEOUT_MS")
    assert milliseconds("SESSION_TIMEOUT_MS") > grace_ms
    assert consumer["spec"]["podManagementPolicy"] == "Parallel"
    assert environment["TIDEMARK_GROUP__INSTANCE_ID"]["valueFrom"] == {
        "fieldRef": {"fieldPath": "metadata.name"}
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["consumer.replicas=11"],
            "but 11 consumers with 2 each would take 22: lower consumer.replicas to 10",
        ),
        (
            ['consumer.autoscaling={"kind": "hpa", "maxReplicas": 30}'],
            "30 consumers with 2 each would take 60: lower consumer.autoscaling.maxReplicas to 10",
        ),
        (
            ["consumer.settings.write.flushes_in_flight_max=7"],
            "3 consumers with 7 each would take 21: lower consumer.replicas to 2",
        ),
        (['kafka.bootstrapServers=""'], "kafka.bootstrapServers is empty"),
        (['postgres.existingSecret=""'], "postgres.existingSecret is empty"),
        (['keys.existingSecret=""'], "name a secret with the public keys"),
        (["shards=[]"], "shards is empty"),
        (['kafka.securityProtocol="SASL_SSL"'], "name the secret with user and password"),
        (
            ["topics.replicationFactor=1"],
            "minInsyncReplicas is 2 and topics.replicationFactor is 1",
        ),
        (
            ['shards=[{"name": "a", "connectionsMax": 9}, {"name": "a", "connectionsMax": 9}]'],
            "Two shards are named a",
        ),
        (
            [shards(a=[0, 700])],
            "701 of 720 partitions have a shard",
        ),
        (
            [shards(a=[0, 400], b=[400, 719])],
            "Partition 400 belongs to shard a and to shard b",
        ),
        (
            [shards(a=[0, 359], b=None)],
            "1 of 2 shards have partitions",
        ),
        (
            [shards(**{f"s{number}": None for number in range(7)})],
            "7 equal shards cannot share 720 partitions",
        ),
        (["ingest.autoscaling.minReplicas=13"], "minReplicas is 13 and maxReplicas 12"),
        (['consumer.autoscaling={"minReplicas": 13}'], "minReplicas is 13 and maxReplicas 12"),
        (
            ["consumer.settings.group.drain_timeout_ms=60000"],
            "drain_timeout_ms is 60000 and session_timeout_ms 90000",
        ),
        (
            ['kafka.bootstrapServers="a:9092,b:9093"'],
            "kafka.bootstrapServers names port 9093 and networkPolicy.kafka.ports has 9092",
        ),
        (
            ['kafka.tls.existingSecret="ca"'],
            "kafka.securityProtocol is PLAINTEXT: nothing would be encrypted",
        ),
        (
            ['kafka.sasl.existingSecret="user"', 'kafka.securityProtocol="SSL"'],
            "kafka.securityProtocol is SSL: nobody would log in",
        ),
        (['kafka.tls.certKey="tls.crt"'], "needs both kafka.tls.certKey and kafka.tls.keyKey"),
        (
            ["consumer.settings.in_flight.bytes_max=419430400"],
            "twice of which may be in memory, and consumer.resources.limits.memory is 768Mi",
        ),
        (
            ['consumer.resources.limits.memory="128Mi"'],
            "bytes_max is 83886080, twice of which may be in memory",
        ),
        (
            [
                "consumer.settings.group.session_timeout_ms=6000",
                "consumer.settings.group.drain_timeout_ms=3000",
            ],
            "heartbeat_interval_ms is 3000 and session_timeout_ms 6000",
        ),
        (
            ['ingest.extraEnv=[{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://c:4317"}]'],
            "networkPolicy.extraEgress is empty: nothing would reach the collector",
        ),
        (
            ["ingest.settings.body.held_bytes_max=536870912"],
            "held_bytes_max is 536870912 and produce.bytes_in_flight_max 33554432",
        ),
        (
            ['ingest.resources.limits.memory="128Mi"'],
            "and ingest.resources.limits.memory is 128Mi: pods would be killed under load",
        ),
        (
            ['consumer.extraEnv=[{"name": "TIDEMARK_WRITE__ROWS_PER_FLUSH_MAX", "value": "9"}]'],
            "write it in consumer.settings",
        ),
        (
            ["consumer.settings.write.flushes_in_flight_max=null"],
            "missing property 'flushes_in_flight_max'",
        ),
        (
            ["monitoring.prometheusRule.enabled=true"],
            "monitoring.prometheusRule is enabled and monitoring.lagExporter is not",
        ),
        (
            ["monitoring.serviceMonitor.enabled=true"],
            "networkPolicy.metricsFrom is empty: Prometheus could not reach the pods",
        ),
        (
            [f'shards=[{{"name": "{"s" * 47}", "connectionsMax": 9}}]'],
            "has a name of 47 characters, and the job that migrates it has room for 46",
        ),
        (
            ['ingest.limitsStore.existingSecret="limits"'],
            "networkPolicy.extraEgress is empty: pods could not reach the store",
        ),
        (["ingest.ingress.enabled=true"], "list its hosts"),
        (["ingest.gateway.enabled=true"], "name the gateways"),
        (["consumer.replcias=1"], "additional properties 'replcias' not allowed"),
        (['consumer.settings.write.missing="x"'], "value must be one of 'create', 'ignore'"),
    ],
)
def test_what_cannot_work_is_a_sentence_and_no_render(
    program: Path, settings: list[str], sentence: str
) -> None:
    with pytest.raises(Misconfigured, match=re.escape(sentence)):
        render(program, MINIMAL, *settings)


def test_receipts_and_lag_are_of_the_group_that_consumes(program: Path) -> None:
    manifests = objects(render(program, PRODUCTION, 'consumer.settings.group.id="another"'))
    said = {
        (name.removeprefix("tidemark-"), each["name"])
        for name, pod in pod_specs(manifests)
        for container in pod["containers"]
        for each in container.get("env", [])
        if each.get("value") == "another"
    }

    assert said == {
        ("ingest", "TIDEMARK_RECEIPTS__CONSUMER_GROUP"),
        ("consumer", "TIDEMARK_GROUP__ID"),
        ("lag", "TIDEMARK_GROUP__ID"),
    }


def test_hot_keys_of_all_consumers_are_asked_for_in_any_of_their_pods(program: Path) -> None:
    [consumer] = [
        pod
        for name, pod in pod_specs(objects(render(program, PRODUCTION)))
        if name == "tidemark-consumer"
    ]
    said = {each["name"]: each.get("value") for each in consumer["containers"][0]["env"]}

    assert said["TIDEMARK_CONSUMERS"] == said["TIDEMARK_TELEMETRY__PEERS"]


def test_guards_take_the_settings_that_services_have_by_default(program: Path) -> None:
    consumer, ingest = ConsumerSettings(), IngestSettings.model_construct()
    ours = [
        consumer.in_flight.bytes_max,
        ingest.body.held_bytes_max,
        ingest.produce.bytes_in_flight_max,
    ]
    heartbeat_ms = consumer.group.heartbeat_interval_ms

    with pytest.raises(Misconfigured, match=f"heartbeat_interval_ms is {heartbeat_ms} and"):
        render(
            program,
            MINIMAL,
            "consumer.settings.group.session_timeout_ms=1000",
            "consumer.settings.group.drain_timeout_ms=0",
        )
    with pytest.raises(Misconfigured, match=f"bytes_max is {ours[0]},"):
        render(program, MINIMAL, 'consumer.resources.limits.memory="128Mi"')
    with pytest.raises(Misconfigured, match=f"held_bytes_max is {ours[1]} and .* {ours[2]},"):
        render(program, MINIMAL, 'ingest.resources.limits.memory="128Mi"')


def test_a_budget_that_is_just_enough_renders(program: Path) -> None:
    assert render(program, MINIMAL, "consumer.replicas=10")


def test_large_numbers_reach_the_services_as_they_are(program: Path) -> None:
    manifests = render(
        program,
        MINIMAL,
        "consumer.settings.in_flight.bytes_max=100663296",
        "consumer.settings.dead_letters.share_max=0.25",
        "consumer.settings.write.flush_target_ms=null",
    )

    (consumer,) = [each for each in objects(manifests) if each["kind"] == "StatefulSet"]
    values = {
        each["name"]: each.get("value")
        for each in consumer["spec"]["template"]["spec"]["containers"][0]["env"]
    }
    assert values["TIDEMARK_IN_FLIGHT__BYTES_MAX"] == "100663296"
    assert values["TIDEMARK_DEAD_LETTERS__SHARE_MAX"] == "0.25"


def test_alerts_and_dashboards_are_those_of_the_repository(program: Path) -> None:
    files = CHART.parents[1] / "monitoring"
    manifests = objects(render(program, PRODUCTION))
    rules = [each["spec"] for each in manifests if each["kind"] == "PrometheusRule"]
    boards = [
        json.loads(content)
        for each in manifests
        if each["kind"] == "ConfigMap"
        for name, content in each["data"].items()
        if "-dashboard-" in each["metadata"]["name"]
    ]

    assert rules == [
        yaml.safe_load(path.read_text("utf-8")) for path in sorted(files.glob("rules/*.yaml"))
    ]
    assert boards == [
        json.loads(path.read_text("utf-8")) for path in sorted(files.glob("dashboards/*.json"))
    ]
    assert len(rules) >= 1
    assert len(boards) >= 1


def test_every_secret_and_account_that_is_named_is_made_or_expected(program: Path) -> None:
    for values in SETS:
        manifests = objects(render(program, values))
        made = {(each["kind"], each["metadata"]["name"]) for each in manifests}
        for each in manifests:
            for trigger in each.get("spec", {}).get("triggers", []):
                if "authenticationRef" in trigger:
                    assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in made
        for name, pod in pod_specs(manifests):
            account = pod.get("serviceAccountName")
            assert account is None or ("ServiceAccount", account) in made, name
            for volume in pod["volumes"]:
                if "configMap" in volume:
                    assert ("ConfigMap", volume["configMap"]["name"]) in made, name


def test_keda_scales_evenly_and_not_for_what_it_cannot_help(program: Path) -> None:
    (scaled,) = [
        each
        for each in objects(render(program, VALUE_SETS / "keda.yaml"))
        if each["kind"] == "ScaledObject"
    ]

    by_lag, by_time = scaled["spec"]["triggers"]
    assert by_lag["metadata"]["ensureEvenDistributionOfPartitions"] == "true"
    assert by_lag["metadata"]["excludePersistentLag"] == "true"
    assert by_time["type"] == "prometheus"
    assert scaled["spec"]["maxReplicaCount"] == 40


def pod_specs(manifests: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Every pod that these objects would make, by name."""
    found = []
    for each in manifests:
        if each["kind"] == "Pod":
            found.append((each["metadata"]["name"], each["spec"]))
        elif "template" in each.get("spec", {}):
            found.append((each["metadata"]["name"], each["spec"]["template"]["spec"]))
    return found


def test_the_values_that_the_readme_names_are_there() -> None:
    assert {path.stem for path in SETS} == {path.stem for path in GOLDEN.glob("*.yaml")}
    assert len(SETS) >= 6
    assert yaml.safe_load((CHART / "Chart.yaml").read_text("utf-8"))["kubeVersion"] == (
        f">={OLDEST}.0-0"
    )
