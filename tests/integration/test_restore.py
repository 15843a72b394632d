"""A shard that is restored from a backup taken under load, and caught up by replay."""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from deploy.local.homes import client
from operator_cli.main import app
from operator_cli.rewinds import plan_rewind
from shared.errors import Misconfigured
from shared.settings import KafkaSettings, read_shard_map
from shared.topology import partition_of
from tests.consumers import consumer_settings, group_of, produce, running_consumer
from tests.integration.test_consumer import APPS, traffic
from verification.oracle import Ledger, read_rows
from verification.progress import wait_until_committed

SHARD = "shard-1"
PATIENCE_S = 120


def run(program: str, dsn: SecretStr, *arguments: str) -> None:
    """Run one of Postgres's programs on a database."""
    subprocess.run(
        [client(program), "--dbname", dsn.get_secret_value(), *arguments],
        check=True,
        capture_output=True,
        env={"PATH": os.defpath},
    )


def without_dsns(shard_map_file: Path) -> Path:
    """Name files that are not there: while no consumer's pod runs, none has them."""
    shard_map = json.loads(shard_map_file.read_text())
    for entry in shard_map["shards"]:
        del entry["dsn"]
        entry["dsn_file"] = f"/nowhere/{entry['name']}"
    path = shard_map_file.with_name("without-dsns.json")
    path.write_text(json.dumps(shard_map))
    return path


def restore(dsn: SecretStr, backup: Path) -> None:
    run("psql", dsn, "--command", "DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    run("psql", dsn, "--set", "ON_ERROR_STOP=1", "--file", str(backup))


async def test_a_backup_taken_under_load_is_caught_up_by_replay(
    kafka_settings: KafkaSettings,
    shard_map_file: Path,
    databases: Mapping[str, SecretStr],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = read_shard_map(shard_map_file)
    settings = consumer_settings(kafka_settings, shard_map_file)
    ledger, group = Ledger(), group_of(kafka_settings)
    backup = tmp_path / "backup.sql"
    monkeypatch.setenv("TIDEMARK_KAFKA__BOOTSTRAP_SERVERS", kafka_settings.bootstrap_servers)
    monkeypatch.setenv("TIDEMARK_KAFKA__TOPIC", kafka_settings.topic)
    monkeypatch.setenv("TIDEMARK_SHARD_MAP_FILE", str(without_dsns(shard_map_file)))
    monkeypatch.setenv("TIDEMARK_GROUP__ID", group)

    async def differences() -> list[object]:
        return list(ledger.differences(await read_rows(directory, APPS)))

    async with asyncio.timeout(PATIENCE_S):
        async with running_consumer(settings):
            await produce(kafka_settings, traffic(2_000, seed=1), ledger)
            await wait_until_committed(kafka_settings, group, ledger.ends())
            since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(produce(kafka_settings, traffic(6_000, seed=2), ledger))
                await asyncio.to_thread(run, "pg_dump", databases[SHARD], "--file", str(backup))
            await wait_until_committed(kafka_settings, group, ledger.ends())
            with pytest.raises(Misconfigured, match="has 1 members: stop every consumer"):
                await plan_rewind(kafka_settings, group, directory.map.shard_of(180), 0, 0)
        before = await differences()
        await asyncio.to_thread(restore, databases[SHARD], backup)
        restored = await differences()
        arguments = ["shards", "rewind", SHARD, "--since", since, "--yes"]
        rewound = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        async with running_consumer(settings):
            await produce(kafka_settings, traffic(1_000, seed=3), ledger)
            await wait_until_committed(kafka_settings, group, ledger.ends())

    assert before == []
    assert restored, "the backup held everything already: it was not taken under load"
    assert rewound.exit_code == 0, rewound.output
    assert rewound.stdout.startswith(
        f"180 partitions of {SHARD} are set back: group {group} reads up to "
    )
    assert await differences() == []


async def test_what_retention_may_have_removed_is_not_replayed_in_part(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    shard = read_shard_map(shard_map_file).map.shard_of(partition_of(APPS[0]))
    now_ms = round(time.time() * 1000)

    with pytest.raises(Misconfigured, match=r"kept for 7\.0 days, and that was before"):
        await plan_rewind(kafka_settings, "nobody", shard, now_ms - 8 * 86_400_000, now_ms)


async def test_a_group_that_never_read_the_shard_is_not_taken_for_the_consumers(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    shard = read_shard_map(shard_map_file).map.shard_of(partition_of(APPS[0]))
    await produce(kafka_settings, traffic(20, seed=1), Ledger())
    now_ms = round(time.time() * 1000)

    with pytest.raises(Misconfigured, match="Group nobody has committed nothing"):
        await plan_rewind(kafka_settings, "nobody", shard, now_ms - 60_000, now_ms)


async def test_a_time_that_is_yet_to_come_sets_nothing_back(
    kafka_settings: KafkaSettings, shard_map_file: Path
) -> None:
    shard = read_shard_map(shard_map_file).map.shard_of(partition_of(APPS[0]))

    with pytest.raises(Misconfigured, match="yet to come"):
        await plan_rewind(kafka_settings, "nobody", shard, 2_000, 1_000)
