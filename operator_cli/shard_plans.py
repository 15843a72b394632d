"""What another number of equal shards would move: pure arithmetic on partitions."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.topology import Shard, ShardMap


@dataclass(frozen=True, slots=True)
class Move:
    """Neighbouring partitions that would go from one shard to another."""

    first: int
    last: int
    source: str
    target: str

    @property
    def partitions(self) -> int:
        """How many there are."""
        return self.last - self.first + 1


@dataclass(frozen=True, slots=True)
class Plan:
    """The new map, which of its shards are new, which present ones are left over, and the moves."""

    map: ShardMap
    new: Sequence[str]
    left_over: Sequence[str]
    moves: Sequence[Move]


def plan(current: ShardMap, count: int) -> Plan:
    """Split or join shards into `count` equal ones, with as little moved as can be.

    Each present shard stays where most of what it has stays; of two that could, the first does.

    Raises:
        Misconfigured: `count` equal shards cannot share the partitions.
    """
    targets = ShardMap.equal(count).shards
    overlaps = sorted(
        (
            (-_common(source, target), target.first, source.name, number)
            for number, target in enumerate(targets)
            for source in current.shards
            if _common(source, target)
        ),
    )
    names: dict[int, str] = {}
    for _, _, name, number in overlaps:
        if number not in names and name not in names.values():
            names[number] = name
    new = []
    for number in range(count):
        if number not in names:
            names[number] = _unused(current, names)
            new.append(names[number])
    shards = [Shard(names[number], each.first, each.last) for number, each in enumerate(targets)]
    moves = [
        Move(
            max(source.first, target.first), min(source.last, target.last), source.name, target.name
        )
        for target in shards
        for source in current.shards
        if _common(source, target) and source.name != target.name
    ]
    left_over = [each.name for each in current.shards if each.name not in names.values()]
    return Plan(ShardMap(shards), new, left_over, moves)


def _common(one: Shard, other: Shard) -> int:
    return max(0, min(one.last, other.last) - max(one.first, other.first) + 1)


def _unused(current: ShardMap, names: dict[int, str]) -> str:
    taken = {each.name for each in current.shards} | set(names.values())
    number = 0
    while f"shard-{number}" in taken:
        number += 1
    return f"shard-{number}"
