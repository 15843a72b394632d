"""What another number of shards would move."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from operator_cli.main import app
from operator_cli.shard_plans import Move, plan
from operator_cli.shards import bounds
from shared.errors import Misconfigured
from shared.topology import PARTITIONS, Shard, ShardMap, partition_of

DIVISORS = [n for n in range(1, PARTITIONS + 1) if PARTITIONS % n == 0]


def test_splitting_four_in_eight_moves_the_upper_half_of_each() -> None:
    found = plan(ShardMap.equal(4), 8)

    assert found.moves == [
        Move(90, 179, "shard-0", "shard-4"),
        Move(270, 359, "shard-1", "shard-5"),
        Move(450, 539, "shard-2", "shard-6"),
        Move(630, 719, "shard-3", "shard-7"),
    ]
    assert found.new == ["shard-4", "shard-5", "shard-6", "shard-7"]
    assert found.left_over == []


def test_joining_leaves_servers_over() -> None:
    found = plan(ShardMap.equal(4), 2)

    assert found.left_over == ["shard-1", "shard-3"]
    assert sum(move.partitions for move in found.moves) == 360


def test_a_number_that_does_not_divide_the_partitions_is_refused() -> None:
    with pytest.raises(Misconfigured, match="7 equal shards"):
        plan(ShardMap.equal(4), 7)


@given(st.sampled_from(DIVISORS[:12]), st.sampled_from(DIVISORS[:12]))
def test_moves_and_what_stays_make_the_new_map(before: int, after: int) -> None:
    current = ShardMap.equal(before)
    found = plan(current, after)

    owner = {p: shard.name for shard in current.shards for p in shard.partitions}
    for move in found.moves:
        for partition in range(move.first, move.last + 1):
            assert owner[partition] == move.source
            owner[partition] = move.target
    assert owner == {p: shard.name for shard in found.map.shards for p in shard.partitions}
    if before == after:
        assert found.moves == []


@given(st.integers(0, PARTITIONS - 1), st.integers(0, PARTITIONS - 1))
def test_the_bounds_of_a_shard_are_its_first_and_last_app(one: int, other: int) -> None:
    shard = Shard("s", min(one, other), max(one, other))

    lowest, highest = bounds(shard)

    assert partition_of(str(lowest)) == shard.first
    assert partition_of(str(highest)) == shard.last
    if lowest.int:
        assert partition_of(str(type(lowest)(int=lowest.int - 1))) == shard.first - 1
    if shard.last < PARTITIONS - 1:
        assert partition_of(str(type(highest)(int=highest.int + 1))) == shard.last + 1


def test_shards_that_cannot_be_asked_are_listed_and_the_plan_needs_none(tmp_path: Path) -> None:
    path = tmp_path / "shard_map.json"
    entries = [
        {
            "name": each.name,
            "partitions": [each.first, each.last],
            "dsn": "postgresql://tidemark:x@127.0.0.1:1/tidemark",
        }
        for each in ShardMap.equal(2).shards
    ]
    path.write_text(json.dumps({"version": 1, "shards": entries}))

    checked = CliRunner().invoke(app, ["shards", "check", "--shard-map", str(path)])
    planned = CliRunner().invoke(app, ["shards", "plan", "--shards", "4", "--shard-map", str(path)])

    assert checked.exit_code == 1
    assert checked.stderr == "tidemark: shard-0, shard-1 cannot be asked.\n"
    assert planned.exit_code == 0
    assert "shard-0 → shard-2: partitions 180 to 359, 180 of its 360\n" in planned.stdout
