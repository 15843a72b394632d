"""`tidemark shards check` on real shards."""

import asyncio
import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from operator_cli.main import app
from operator_cli.migrations import known_migrations
from operator_cli.shards import ShardFacts, check, problems, skew, skew_problems
from shared.settings import read_shard_map
from shared.topology import Shard

Dsns = Mapping[str, SecretStr]
STRAY = (
    "it has rows of app {}, which is not in partitions 0 to 179; was the shard map changed "
    "without moving rows?"
)


async def execute(dsn: SecretStr, sql: str, *arguments: Any) -> None:
    connection = await asyncpg.connect(dsn.get_secret_value())
    await connection.execute(sql, *arguments)
    await connection.close()


async def insert(dsn: SecretStr, app: uuid.UUID, rows: int) -> None:
    await execute(
        dsn,
        "INSERT INTO subscriptions SELECT $1::uuid, gen_random_uuid(), '{}', '{}', now(), now(), "
        "0, 0 FROM generate_series(1, $2)",
        app,
        rows,
    )


async def test_shards_in_order_have_no_problems(shard_map_file: Path) -> None:
    reports = await check(read_shard_map(shard_map_file))

    assert [each.shard.name for each in reports] == [f"shard-{n}" for n in range(4)]
    for each in reports:
        assert each.problems == []
        assert each.facts is not None
        assert each.facts.schema == len(known_migrations())
        assert abs(each.facts.clock_off_s) < 1
        assert each.facts.connections_max == 100


def with_moved_partitions(shard_map_file: Path) -> Path:
    """Give partitions of the first shard to the second without their rows, and lose the last."""
    shard_map = json.loads(shard_map_file.read_text())
    shard_map["shards"][0]["partitions"] = [0, 99]
    shard_map["shards"][1]["partitions"] = [100, 359]
    shard_map["shards"][3]["dsn"] = "postgresql://tidemark:x@127.0.0.1:1/tidemark"
    path = shard_map_file.with_name("moved.json")
    path.write_text(json.dumps(shard_map))
    return path


def changed(shard_map_file: Path) -> Path:
    """Give the second shard a large budget, and the last one an address of nobody's."""
    shard_map = json.loads(shard_map_file.read_text())
    shard_map["shards"][1]["connections_max"] = 1_000
    shard_map["shards"][3]["dsn"] = "postgresql://tidemark:x@127.0.0.1:1/tidemark"
    path = shard_map_file.with_name("changed.json")
    path.write_text(json.dumps(shard_map))
    return path


async def test_what_is_wrong_is_said_in_words(databases: Dsns, shard_map_file: Path) -> None:
    stray = uuid.UUID("ff000000-0000-4000-8000-000000000000")
    await insert(databases["shard-0"], stray, 1)
    await execute(databases["shard-1"], "DELETE FROM schema_migrations WHERE version > 1")
    await execute(databases["shard-2"], "DROP TABLE subscriptions")

    first, second, third, fourth = await check(read_shard_map(changed(shard_map_file)))

    assert first.problems == [STRAY.format(stray)]
    assert second.problems == [
        f"its schema is 1 of {len(known_migrations())}; run tidemark migrate",
        "its budget is 1000 connections, and the server allows 100",
    ]
    assert third.problems == ["shard-2 has no table of subscriptions; run tidemark migrate."]
    assert fourth.facts is None
    assert "shard-3 could not be asked" in fourth.problems[0]


async def test_a_shard_that_was_never_migrated_is_to_be_put_right_and_not_to_be_asked_again(
    databases: Dsns, shard_map_file: Path
) -> None:
    await execute(databases["shard-2"], "DROP TABLE subscriptions")

    arguments = ["shards", "check", "--shard-map", str(shard_map_file)]
    checked = await asyncio.to_thread(CliRunner().invoke, app, arguments)

    assert checked.exit_code == 2
    assert "shard-2 has no table of subscriptions; run tidemark migrate." in checked.stdout
    assert "put right at shard-2" in checked.stderr


async def test_a_shard_map_that_was_changed_without_its_rows_migrates_nothing(
    databases: Dsns, shard_map_file: Path
) -> None:
    app_id = uuid.UUID("3f000000-0000-4000-8000-000000000000")
    await insert(databases["shard-0"], app_id, 1)
    kept, moved = [
        await asyncio.to_thread(CliRunner().invoke, app, ["migrate", "--shard-map", str(path)])
        for path in (shard_map_file, with_moved_partitions(shard_map_file))
    ]

    assert kept.exit_code == 0, kept.output
    assert moved.exit_code == 2
    assert f"shard-0 has rows of app {app_id}, which the shard map gives to shard-1" in moved.stderr
    assert "shard-3 could not be asked" in moved.stderr


async def test_a_shard_with_more_than_its_part_is_named(
    databases: Dsns, shard_map_file: Path
) -> None:
    await insert(databases["shard-3"], uuid.UUID("f0000000-0000-4000-8000-000000000000"), 500)
    for dsn in databases.values():
        await execute(dsn, "ANALYZE subscriptions")

    reports = await check(read_shard_map(shard_map_file))

    assert reports[3].facts is not None
    assert (reports[3].facts.rows, reports[3].facts.apps) == (500, 1)
    assert "shard-3 has 4.0 times the mean of rows" in skew_problems(reports)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, None),
        ({"clock_off_s": -3.0}, "its clock is -3.0 s off; synchronise it"),
        ({"schema": 9}, "its schema is 9, and this program knows 2; use a newer one"),
        (
            {"consumers_connections": 7},
            "consumers have 7 connections of a budget of 6; run fewer, or raise connections_max",
        ),
    ],
)
def test_problems_are_decided_by_the_facts(change: dict[str, Any], sentence: str | None) -> None:
    good: dict[str, Any] = {
        "schema": 2,
        "clock_off_s": 0.0,
        "bytes": 1,
        "rows": 1,
        "apps": None,
        "writes": 1,
        "hot_share": None,
        "dead_rows": 0,
        "connections": 6,
        "consumers_connections": 6,
        "connections_max": 100,
        "stray_app": None,
    }

    found = problems(Shard("s", 0, 9), ShardFacts(**{**good, **change}), budget=6, newest=2)

    assert found == ([sentence] if sentence else [])


def test_skew_is_the_largest_against_the_mean() -> None:
    assert skew({"a": 6, "b": 2}) == ("a", 1.5)
    assert skew({"a": 0, "b": 0}) is None
