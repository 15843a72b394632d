"""Applies what was held back, in order and before anything newer of the same subscriptions."""

import asyncio
import heapq
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import structlog
from aiokafka.errors import KafkaError

from consumer.assigned_work import AssignedWork
from consumer.holding import HoldingTopic
from consumer.holds import ReleasedRecord
from consumer.partition_work import PartitionWork
from consumer.settings import ConsumerSettings
from consumer.subscription_queue import PendingUpdate, size_of
from shared.errors import OwnershipLost, Rejected, Transient
from shared.holds import HoldState, HoldView, Released, held_at, held_partition_of
from shared.topic_reader import open_reader
from shared.topology import ShardMap
from shared.updates import decode, read_sealed

log = structlog.get_logger()


class Committed(Protocol):
    """Knows what the group has committed; the intake is one."""

    async def committed(self, partition: int) -> int:
        """Return the next offset to read of a partition; 0 where nothing was committed."""


class HeldReader(Protocol):
    """Reads the holding topic; a topic reader does."""

    async def ends(self, partitions: Iterable[int]) -> dict[int, int]:
        """Return by partition the offset that the next record will get."""

    def read(
        self, starts: Mapping[int, int], ends: Mapping[int, int], *, records_max: int = ...
    ) -> AsyncGenerator[Sequence[Any], None]:
        """Yield records by portions, each of one partition, in its order."""


class Appends(Protocol):
    """Appends to the holding topic."""

    async def appended(self, work: PartitionWork, /) -> None:
        """Return when nothing of the partition is on its way any more."""


class Releases:
    """Releases holds: one at a time of each partition, a few of each shard.

    A release waits for its rows, so those of a shard that is down must not take the places of
    others.
    """

    def __init__(
        self,
        work: AssignedWork,
        holding: HoldingTopic,
        committed: Committed,
        shard_map: ShardMap,
        settings: ConsumerSettings,
    ) -> None:
        self._work = work
        self._holding = holding
        self._shard_map = shard_map
        self._committed = committed
        self._settings = settings
        self._retry_s = settings.write.retry_base_ms / 1000
        self._slots = {
            shard.name: asyncio.Semaphore(settings.holds.releases_max) for shard in shard_map.shards
        }
        self._busy: set[PartitionWork] = set()

    async def run(self) -> None:
        """Release whatever is to be released, for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._work.holds_changed.wait()
                self._work.holds_changed.clear()
                for partition, work in self._work.partitions.items():
                    if work not in self._busy and work.diversion.release_next() is not None:
                        self._busy.add(work)
                        tasks.create_task(self._release_each(work), name=f"release-{partition}")

    async def _release_each(self, work: PartitionWork) -> None:
        async with self._slots[self._shard_map.shard_of(work.partition).name]:
            while not work.is_over and (view := work.diversion.release_next()) is not None:
                try:
                    await self._release(work, view)
                except OwnershipLost as error:
                    # Lost for good, or held again: what the loop asks for next knows.
                    log.info("release.ended", partition=work.partition, reason=str(error))
                    await asyncio.sleep(self._retry_s)
                except (Transient, KafkaError) as error:
                    log.warning("release.delayed", partition=work.partition, reason=str(error))
                    await asyncio.sleep(self._retry_s)
        self._busy.discard(work)

    async def _release(self, work: PartitionWork, view: HoldView) -> None:
        if work.diversion.is_left_to_the_app(view.key):
            end = view.read_from
            work.finish_release(view)
        else:
            kafka = self._settings.kafka
            async with open_reader(kafka, kafka.held_topic, "tidemark-release") as reader:
                end = await Release(
                    work,
                    view,
                    reader=reader,
                    holding=self._holding,
                    committed=self._committed,
                    settings=self._settings,
                ).run()
        if end > view.read_from or view.state is HoldState.RELEASING:
            released = Released(id=view.id, released_end=end, at_ms=int(time.time() * 1000))
            await self._note(work, view, released)

    async def _note(self, work: PartitionWork, view: HoldView, released: Released) -> None:
        while not work.is_over:
            try:
                await self._holding.note_released(view.key, released)
            except KafkaError as error:
                log.warning("release.delayed", partition=work.partition, reason=str(error))
                await asyncio.sleep(self._retry_s)
            else:
                log.info("hold.released", partition=work.partition)
                return


class Release:
    """The release of one hold in one assignment of its partition."""

    def __init__(
        self,
        work: PartitionWork,
        view: HoldView,
        *,
        reader: HeldReader,
        holding: Appends,
        committed: Committed,
        settings: ConsumerSettings,
    ) -> None:
        self._work = work
        self._view = view
        self._reader = reader
        self._holding = holding
        self._committed = committed
        self._held_partition = held_partition_of(work.partition)
        self._topic = settings.kafka.topic
        self._portion = settings.holds.release_records_max
        self._portion_bytes = settings.holds.release_bytes_max
        self._left_out_from: int | None = None
        """The first record that was left out because it will be received here as well."""

    async def run(self) -> int:
        """Return the offset below which nothing waits any more, once all of it is durable.

        Raises:
            OwnershipLost: the partition has gone, or the release is no longer wanted.
            Transient: Kafka could not be read; to be begun again.
        """
        work, view = self._work, self._view
        start, end = view.read_from, await self._end()
        found = await self._find(start, end)
        while True:
            async for updates in self._portions(found):
                self._check()
                work.feed(updates)
                await work.feeding.settled.wait()
            # Not by how far the end has moved: neighbours are held back there as well. And not by
            # how much it was this time: a row that others hold may have taken an hour.
            start, end = end, await self._end()
            found = await self._find(start, end)
            if found.count <= self._portion:
                break
        self._check()
        # From here on nothing more of it is appended, so what is left has an end.
        work.diversion.close(view.key, work.received_to)
        await self._holding.appended(work)
        end = await self._end()
        async for updates in self._portions(await self._find(start, end)):
            await work.feeding.settled.wait()
            self._check_owned()
            work.feed(updates)
        self._check_owned()
        work.finish_release(view)
        await work.feeding.settled.wait()
        self._check_owned()
        return end if self._left_out_from is None else min(end, self._left_out_from)

    def _check(self) -> None:
        self._check_owned()
        if not self._work.diversion.is_wanted(self._view):
            raise OwnershipLost("It is held back again.")

    def _check_owned(self) -> None:
        if self._work.lost:
            raise OwnershipLost("The partition is another's now.")
        if self._work.stopped:
            raise OwnershipLost("The partition has been stopped.")

    async def _end(self) -> int:
        partition = self._held_partition
        return (await self._reader.ends([partition]))[partition]

    async def _find(self, start: int, end: int) -> "_Found":
        """Find what waits between two offsets of the holding topic."""
        found = _Found()
        if start >= end:
            return found
        # Read after `end`: what we appended below it, we had received.
        found.limit = await self._limit()
        partition = self._held_partition
        async for records in self._reader.read({partition: start}, {partition: end}):
            for record in records:
                if self._update_of(record, found.limit) is None:
                    continue
                at = held_at(record)
                assert at is not None
                run = found.runs.setdefault(at[0].run, Run(at[0].run, record.offset))
                run.end = record.offset + 1
                found.count += 1
        return found

    async def _limit(self) -> int:
        """Return the offset from which updates come here by themselves, or wait here already."""
        waits_from = self._work.diversion.waits_from
        if waits_from:
            return waits_from
        committed = await self._committed.committed(self._work.partition)
        return committed if waits_from == 0 else max(self._work.received_to, committed)

    async def _portions(self, found: "_Found") -> AsyncIterator[Sequence[PendingUpdate]]:
        """Yield what was found by portions, in the order in which it was accepted.

        Each run of appends keeps it, but after a crash or beside a former owner the same updates
        are appended twice, and later ones before earlier.
        """
        merged = Merge(
            [
                _Cursor(self._reader, self._held_partition, run, self._portion)
                for run in found.runs.values()
            ],
            lambda record: self._update_of(record, found.limit),
        )
        while portion := await merged.take(self._portion, self._portion_bytes):
            yield portion

    def _update_of(self, record: "Held", limit: int) -> PendingUpdate | None:
        """Return the update of a held record; None where this release is not to apply it."""
        found = held_at(record)
        if found is None:
            return None
        try:
            decode(record.value, self._work.partition)  # in whole, as before it was held back
            update = read_sealed(record.value)
        except Rejected:
            return None
        key = (update.app_id, update.subscription_id)
        if not self._work.diversion.releases(self._view.key, *key):
            return None
        at, headers = found
        if at.offset >= limit:
            # A former owner was ahead of us; we are about to receive it ourselves. If we are the
            # former owner, it is the present one's, who relies on what we say is released.
            if self._left_out_from is None or record.offset < self._left_out_from:
                self._left_out_from = record.offset
            return None
        released = ReleasedRecord(
            record,
            topic=self._topic,
            partition=self._work.partition,
            offset=at.offset,
            headers=headers,
        )
        return PendingUpdate.of(released, update, key, size_of(released))


class Held(Protocol):
    """A record of the holding topic."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


@dataclass(slots=True)
class Run:
    """Appends of one owner without a break: in the order of acceptance, repetitions aside."""

    name: str
    start: int
    end: int = 0


@dataclass(slots=True)
class _Found:
    """Runs in which a release found updates below `limit`, and how many, repetitions included."""

    runs: dict[str, Run] = field(default_factory=dict)
    count: int = 0
    limit: int = 0


class RunReader(Protocol):
    """Reads one run from its beginning."""

    run: Run

    async def take(self) -> Held | None:
        """Return the next record, be it of another run; None at the end."""


class _Cursor:
    """Reads one run by chunks."""

    def __init__(self, reader: HeldReader, partition: int, run: Run, portion: int) -> None:
        self.run = run
        self._reader = reader
        self._partition = partition
        self._portion = portion
        self._next = run.start
        self._buffer: deque[Held] = deque()

    async def take(self) -> Held | None:
        """Return the next record, be it of another run; None at the end."""
        while not self._buffer and self._next < self.run.end:
            starts, ends = {self._partition: self._next}, {self._partition: self.run.end}
            reading = self._reader.read(starts, ends, records_max=self._portion)
            async for records in reading:
                self._buffer.extend(records)
                self._next = records[-1].offset + 1 if records else self.run.end
                break
            else:
                self._next = self.run.end
            await reading.aclose()
        return self._buffer.popleft() if self._buffer else None


class Merge:
    """Merges runs by the offsets that their updates were accepted at, each offset once."""

    def __init__(
        self, cursors: Sequence[RunReader], update_of: Callable[[Held], PendingUpdate | None]
    ) -> None:
        self._begun = False
        self._update_of = update_of
        self._heads: list[tuple[int, int, PendingUpdate]] = []
        self._cursors = cursors
        self._last = -1

    async def take(self, count: int, size: int) -> list[PendingUpdate]:
        """Return the next updates: at most `count`, and no more once they have `size` bytes."""
        if not self._begun:
            self._begun = True
            for number in range(len(self._cursors)):
                await self._advance(number)
        taken: list[PendingUpdate] = []
        while self._heads and len(taken) < count and size > 0:
            offset, number, pending = heapq.heappop(self._heads)
            if offset > self._last:
                self._last = offset
                taken.append(pending)
                size -= pending.size
            await self._advance(number)
        return taken

    async def _advance(self, number: int) -> None:
        cursor = self._cursors[number]
        while (record := await cursor.take()) is not None:
            found = held_at(record)
            if found is None or found[0].run != cursor.run.name:
                continue
            pending = self._update_of(record)
            if pending is not None:
                heapq.heappush(self._heads, (found[0].offset, number, pending))
                return
