"""Where an app lives: pure arithmetic from app ID to partition to shard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.errors import Misconfigured

PARTITIONS: Final = 720
"""Partitions of the update topic: 30 divisors, so shards and consumers split it evenly."""


def partition_of(app_id: str) -> int:
    """Return the partition of an app: its ID's first 16 bits, scaled to 720.

    Args:
        app_id: UUID in canonical text form (hexadecimal, hyphenated).
    """
    return int(app_id[:4], 16) * PARTITIONS >> 16


@dataclass(frozen=True, slots=True)
class Shard:
    """One Postgres server and the partitions it owns, `first` and `last` included."""

    name: str
    first: int
    last: int

    @property
    def partitions(self) -> range:
        """The partitions of this shard, in order."""
        return range(self.first, self.last + 1)


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Which shard owns which partition; every partition is owned exactly once.

    Raises:
        Misconfigured: a partition is owned by no shard or by two, or two shards share a name.
    """

    shards: Sequence[Shard]

    def __post_init__(self) -> None:
        names = [shard.name for shard in self.shards]
        if len(set(names)) != len(names):
            raise Misconfigured(f"Shard names must differ; the shard map lists {sorted(names)}.")
        expected = 0
        for shard in sorted(self.shards, key=lambda shard: shard.first):
            if shard.first != expected or not shard.first <= shard.last < PARTITIONS:
                raise Misconfigured(
                    f"Shard {shard.name} owns partitions {shard.first} to {shard.last}, but the "
                    f"next one without an owner is {expected}; list ranges that cover 0 to "
                    f"{PARTITIONS - 1} exactly once."
                )
            expected = shard.last + 1
        if expected != PARTITIONS:
            raise Misconfigured(
                f"Partitions {expected} to {PARTITIONS - 1} have no shard; list ranges that cover "
                f"0 to {PARTITIONS - 1} exactly once."
            )

    @classmethod
    def equal(cls, count: int) -> "ShardMap":
        """Split the partitions into `count` shards of the same size; `count` must divide 720."""
        if count < 1 or PARTITIONS % count:
            raise Misconfigured(f"{count} equal shards cannot share {PARTITIONS} partitions.")
        size = PARTITIONS // count
        return cls([Shard(f"shard-{i}", i * size, (i + 1) * size - 1) for i in range(count)])

    def shard_of(self, partition: int) -> Shard:
        """Return the shard that owns `partition`."""
        return next(shard for shard in self.shards if partition in shard.partitions)
