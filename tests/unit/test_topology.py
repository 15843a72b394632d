import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import Misconfigured
from shared.topology import PARTITIONS, Shard, ShardMap, partition_of

DIVISORS = [n for n in range(1, PARTITIONS + 1) if PARTITIONS % n == 0]


def app_with_prefix(prefix: int) -> str:
    return f"{prefix:04x}0000-0000-4000-8000-000000000000"


def test_720_has_thirty_divisors() -> None:
    assert len(DIVISORS) == 30


def test_every_partition_is_some_apps_home_and_no_other_is() -> None:
    found = [partition_of(app_with_prefix(prefix)) for prefix in range(65_536)]

    assert set(found) == set(range(PARTITIONS))
    assert found == sorted(found)


@pytest.mark.parametrize("count", DIVISORS)
def test_equal_shards_are_contiguous_ranges_of_app_ids(count: int) -> None:
    shard_map = ShardMap.equal(count)

    for prefix in range(0, 65_536, 7):
        partition = partition_of(app_with_prefix(prefix))
        assert shard_map.shard_of(partition).name == f"shard-{prefix * count >> 16}"
    assert {len(shard.partitions) for shard in shard_map.shards} == {PARTITIONS // count}


@given(st.uuids(), st.sampled_from(DIVISORS))
def test_splitting_shards_never_moves_an_app_to_another_partition(app: object, count: int) -> None:
    partition = partition_of(str(app))

    assert partition in ShardMap.equal(count).shard_of(partition).partitions


@pytest.mark.parametrize(
    ("shards", "says"),
    [
        ([Shard("a", 0, 100), Shard("b", 102, 719)], "next one without an owner is 101"),
        ([Shard("a", 0, 100), Shard("b", 100, 719)], "next one without an owner is 101"),
        ([Shard("a", 0, 718)], "Partitions 719 to 719 have no shard"),
        ([Shard("a", 0, 719), Shard("a", 0, 719)], "must differ"),
        ([Shard("a", 0, 720)], "have no shard|without an owner|Partitions 721"),
    ],
)
def test_a_map_must_own_every_partition_exactly_once(shards: list[Shard], says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        ShardMap(shards)
