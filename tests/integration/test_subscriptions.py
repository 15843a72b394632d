import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from operator_cli.main import app
from shared.settings import KafkaSettings, read_shard_map
from shared.topology import partition_of
from tests.consumers import kafka_environment
from tests.records import subscription

APP = "80000000-0000-4000-8000-000000000000"


async def test_a_row_is_shown_with_the_receipt_of_its_last_update(
    databases: Mapping[str, SecretStr], shard_map_file: Path, kafka_settings: KafkaSettings
) -> None:
    shard = read_shard_map(shard_map_file).map.shard_of(partition_of(APP)).name
    connection = await asyncpg.connect(databases[shard].get_secret_value())
    await connection.execute(
        "INSERT INTO subscriptions VALUES ($1, $2, $3, '{}', now(), now(), 3, 41)",
        APP,
        subscription(7),
        json.dumps({"city": "東京"}),
    )
    await connection.close()

    result = _show(APP.upper(), shard_map_file, kafka_settings, "--json")

    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["shard"] == "shard-2"
    assert shown["tags"] == {"city": "東京"}
    assert shown["last_receipt"] == "3.360.41"
    assert shown["on_the_way"]["waiting"] == 0


async def test_a_row_that_is_not_there_is_told_in_a_sentence(
    shard_map_file: Path, kafka_settings: KafkaSettings
) -> None:
    result = _show(APP, shard_map_file, kafka_settings)

    assert result.exit_code == 1
    assert "has no row" in result.stderr
    assert "on the way: nothing" in result.stderr


def test_an_id_that_is_none_is_told_in_a_sentence(tmp_path: Path) -> None:
    result = _show("me", tmp_path / "shard_map.json", KafkaSettings())

    assert result.exit_code == 2
    assert "not a UUID" in result.stderr


def _show(app_id: str, shard_map_file: Path, kafka: KafkaSettings, *options: str) -> Result:
    # In a thread of its own: the command brings its own event loop.

    arguments = ["subscription", "show", app_id, subscription(7), *options]
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(
            CliRunner().invoke,
            app,
            [*arguments, "--shard-map", str(shard_map_file)],
            env=kafka_environment(kafka),
        ).result()
