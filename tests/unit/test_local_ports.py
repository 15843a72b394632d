"""Ports of the local stack: arithmetic, variables, and the sentences for what cannot be."""

from pathlib import Path

import pytest

from deploy.local.ports import Plan, read_variables
from shared.errors import Misconfigured


def test_defaults_are_what_the_makefile_says() -> None:
    plan = Plan.from_variables({})

    assert (plan.ingest, plan.broker, plan.controller) == (8080, 9092, 9093)
    assert plan.shards == (5440, 5441, 5442, 5443)
    assert plan.status == (8090,)


def test_each_shard_and_consumer_takes_the_next_port() -> None:
    plan = Plan.from_variables({"POSTGRES_PORT": "6000", "STATUS_PORT": "7000", "CONSUMERS": "3"})

    assert plan.shards == (6000, 6001, 6002, 6003)
    assert plan.status == (7000, 7001, 7002)
    assert plan.consumers == 3


def test_an_empty_variable_is_an_unset_one() -> None:
    assert Plan.from_variables({"KAFKA_PORT": ""}) == Plan.from_variables({"KAFKA_PORT": None})


def test_a_plan_survives_being_written_down() -> None:
    plan = Plan.from_variables({"CONSUMERS": "2"})

    assert Plan.from_json(plan.as_json()) == plan


@pytest.mark.parametrize("text", ["0", "-1", "many", "65536", "8080.0"])
def test_what_is_not_a_port_is_refused_by_name(text: str) -> None:
    with pytest.raises(Misconfigured, match=r"INGEST_PORT is .*from 1 to 65535"):
        Plan.from_variables({"INGEST_PORT": text})


def test_more_consumers_than_partitions_are_refused() -> None:
    with pytest.raises(Misconfigured, match=r"CONSUMERS .*from 1 to 720"):
        Plan.from_variables({"CONSUMERS": "721"})


def test_two_owners_of_one_port_are_refused_by_name() -> None:
    with pytest.raises(Misconfigured, match=r"ingest-api and consumer-2 would both need port 8081"):
        Plan.from_variables({"INGEST_PORT": "8081", "STATUS_PORT": "8080", "CONSUMERS": "2"})


def test_ports_that_run_past_the_last_one_are_refused() -> None:
    with pytest.raises(Misconfigured, match=r"shard-1 would need port 65536.*POSTGRES_PORT"):
        Plan.from_variables({"POSTGRES_PORT": "65535"})


def test_the_environment_beats_the_env_file_unless_it_is_empty(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("# mine\nKAFKA_PORT=1111\nexport INGEST_PORT='2222'\n", encoding="utf-8")

    variables = read_variables({"KAFKA_PORT": "3333", "INGEST_PORT": ""}, env_file)

    assert variables["KAFKA_PORT"] == "3333"
    assert variables["INGEST_PORT"] == "2222"


def test_no_env_file_is_fine(tmp_path: Path) -> None:
    assert read_variables({}, tmp_path / ".env") == {}
