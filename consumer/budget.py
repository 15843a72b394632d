"""How much may be in flight of one shard, and of each of its partitions."""

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BudgetBounds:
    """How much may be in flight: received, and not yet below the committable offset.

    A shard's share is its part of the process's caps, so a shard that stands still fills its own
    share only. Inside it one partition may take up to `partition_records`, but while the share is
    used up no more than its fair part.
    """

    share_records: int
    share_bytes: int
    partition_records: int


class ShardBudget:
    """What the partitions of one shard have in flight together."""

    __slots__ = ("bounds", "bytes", "is_scarce", "partitions", "records", "room", "turned_scarce")

    def __init__(self, bounds: BudgetBounds, room: asyncio.Event) -> None:
        self.bounds = bounds
        self.partitions = 0
        self.records = 0
        self.bytes = 0
        self.is_scarce = False
        """Whether the share was used up, and half of it is not free again (hysteresis)."""
        self.turned_scarce = False
        """Set when it becomes scarce; cleared by whoever acts on that, or when it no longer is."""
        self.room = room
        """Set when a partition that was full may have room again."""

    @property
    def fair_part(self) -> tuple[int, int]:
        """Records and bytes that each partition may have in flight while the share is scarce."""
        partitions = max(self.partitions, 1)
        return self.bounds.share_records // partitions, self.bounds.share_bytes // partitions

    def account(self, records: int, size: int) -> None:
        """Note that so much more, or less, is in flight."""
        self.records += records
        self.bytes += size
        if self._uses(1):
            self.turned_scarce |= not self.is_scarce
            self.is_scarce = True
        elif self.is_scarce and not self._uses(2):
            self.is_scarce = self.turned_scarce = False
            self.room.set()

    def _uses(self, divisor: int) -> bool:
        records, size = self.records * divisor, self.bytes * divisor
        return records >= self.bounds.share_records or size >= self.bounds.share_bytes
