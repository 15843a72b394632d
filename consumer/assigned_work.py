"""The partitions that are assigned to this consumer, and what is in flight of them."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping

from consumer.breaker import BreakerState
from consumer.budget import BudgetBounds, ShardBudget
from consumer.dead_letter_guard import GuardBounds
from consumer.partition_work import GiveUp, HoldBack, PartitionWork
from consumer.settings import InFlightSettings
from consumer.shard_writer import ShardWriter
from shared.holds import Holds
from shared.topology import ShardMap


class AssignedWork:
    """Takes records in for assigned partitions, and says what of them may be committed."""

    def __init__(
        self,
        shard_map: ShardMap,
        writers: Mapping[str, ShardWriter],
        *,
        bounds: InFlightSettings,
        guard: GuardBounds,
        give_up: GiveUp,
        holds: Holds,
        hold_back: HoldBack,
    ) -> None:
        self.room = asyncio.Event()
        """Set when a paused partition may have room again."""
        self.assignments = 0
        """How often the group has given us partitions, be it none."""
        self.holds_changed = asyncio.Event()
        """Set when a hold has changed, or may have for partitions that are new here."""
        self.budgets: Mapping[str, ShardBudget] = {}
        """What is in flight by shard, of those that we own partitions of."""
        self._shard_map = shard_map
        self._writers = writers
        self._bounds = bounds
        self._guard = guard
        self._give_up = give_up
        self._holds = holds
        self._hold_back = hold_back
        self._partitions: dict[int, PartitionWork] = {}
        self._committed: dict[int, int] = {}

    @property
    def partitions(self) -> Mapping[int, PartitionWork]:
        """Every assigned partition's work."""
        return self._partitions

    def assign(self, partitions: Iterable[int]) -> None:
        """Start with nothing in flight for `partitions`, which are ours from now on."""
        assert not self._partitions
        self._committed.clear()
        self.assignments += 1
        shards = {
            partition: self._shard_map.shard_of(partition).name for partition in sorted(partitions)
        }
        names = set(shards.values())
        self.budgets = {name: ShardBudget(self._share(len(names)), self.room) for name in names}
        for partition, name in shards.items():
            self._partitions[partition] = PartitionWork(
                partition,
                shard=self._writers[name],
                budget=self.budgets[name],
                guard=self._guard,
                give_up=self._give_up,
                hold_back=self._hold_back,
            )
        self._follow_holds(first=True)

    def follow_holds(self) -> None:
        """Hold back and release as the holds say now."""
        self._follow_holds(first=False)

    def _follow_holds(self, *, first: bool) -> None:
        for partition, work in self._partitions.items():
            views = self._holds.of_partition(partition)
            if views:
                work.diversion.follow(views, first=first)
        self.holds_changed.set()

    def _share(self, shards: int) -> BudgetBounds:
        return BudgetBounds(
            share_records=self._bounds.records_max // shards,
            share_bytes=self._bounds.bytes_max // shards,
            partition_records=self._bounds.partition_records_max,
        )

    def newly_scarce(self) -> Iterator[PartitionWork]:
        """Yield what belongs to a share that has been used up since this was asked last."""
        for budget in self.budgets.values():
            if budget.turned_scarce:
                budget.turned_scarce = False
                yield from (work for work in self._partitions.values() if work.budget is budget)

    def committable(self) -> Mapping[int, int]:
        """Return, by partition, each offset that may be committed and has not been."""
        found = {}
        for partition, work in self._partitions.items():
            offset = work.committable
            if offset is not None and self._committed.get(partition) != offset:
                found[partition] = offset
        return found

    def committed(self, offsets: Mapping[int, int]) -> None:
        """Note that these offsets need not be committed again."""
        self._committed.update(offsets)

    async def drain(self, timeout_s: float) -> int:
        """Wait until nothing is in flight at shards that can be written.

        What cannot be finished within `timeout_s` is abandoned; whoever owns the partition next
        reads it again. Returns how many records that is.
        """
        try:
            async with asyncio.timeout(timeout_s):
                # A list: the other hand-over, of a rebalance or of the end, may clear it.
                for work in list(self._partitions.values()):
                    if not work.stopped and self._is_writable(work):
                        await work.idle.wait()
        except TimeoutError:
            pass
        return sum(work.records_in_flight for work in self._partitions.values())

    def _is_writable(self, work: PartitionWork) -> bool:
        writer = self._writers[self._shard_map.shard_of(work.partition).name]
        return writer.breaker.state is BreakerState.CLOSED

    def lose_all(self) -> None:
        """Forget every partition; statements that still carry their rows are ended."""
        busy = any(
            work.records_in_flight or work.feeding.outstanding for work in self._partitions.values()
        )
        for work in self._partitions.values():
            work.lose()
        self._partitions.clear()
        if busy:
            for writer in self._writers.values():
                writer.abort()
