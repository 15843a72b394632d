"""One assigned partition: its budget, its queues, its tracker."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Final, Protocol

import msgspec

from consumer.budget import ShardBudget
from consumer.dead_letter_guard import DeadLetterGuard, GuardBounds
from consumer.holds import Diversion, Feeding, ReleasedRecord, Route
from consumer.offsets import OffsetTracker
from consumer.refusals import holds_nul
from consumer.subscription_queue import (
    PendingUpdate,
    QueueState,
    Record,
    SubscriptionQueue,
    size_of,
)
from shared.errors import Rejected
from shared.holds import HoldView
from shared.updates import check_ids, read, read_sealed

STOPPED: Final = "Most of its recent records can never succeed; see the dead-letter topic."


class ReadyQueues(Protocol):
    """Takes subscriptions that have work and no write under way; a shard's writer is one."""

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to write, and nothing being written."""

    def add_ready(self, work: "PartitionWork", queues: Sequence[SubscriptionQueue]) -> None:
        """Write the head of each of `queues` when its turn comes."""


GiveUp = Callable[["PartitionWork", Record, Rejected], None]
HoldBack = Callable[["PartitionWork", Sequence[Record]], None]
"""Takes records whose offsets are completed once they are in the holding topic."""


class PartitionWork:
    """Everything that is in flight of one assigned partition.

    It belongs to one assignment: after `lose` it ignores completions, and a later assignment of
    the same partition starts with a new one.
    """

    def __init__(
        self,
        partition: int,
        *,
        shard: ReadyQueues,
        budget: ShardBudget,
        guard: GuardBounds,
        give_up: GiveUp,
        hold_back: HoldBack,
    ) -> None:
        self.partition = partition
        self.lost = False
        self.stopped = False
        """Whether too many of its records can never succeed, so that no more is taken or done."""
        self.paused = False
        self.idle = asyncio.Event()
        """Set while nothing is in flight."""
        self.idle.set()
        self.received_to = 0
        """The offset just after the last record that was received; 0 before the first."""
        self._received_at_ms = 0
        self.diversion = Diversion()
        self.feeding = Feeding()
        self._shard = shard
        self.budget = budget
        # Two, because records are read long before they are written: each has its own count.
        self._unreadable_guard = DeadLetterGuard(guard)
        self._refused_guard = DeadLetterGuard(guard)
        self._give_up = give_up
        self._hold_back = hold_back
        self._waiting: list[PendingUpdate] = []
        self._tracker = OffsetTracker()
        self._queues: dict[tuple[str, str], SubscriptionQueue] = {}
        self._records = 0
        self._bytes = 0
        budget.partitions += 1

    @property
    def committable(self) -> int | None:
        """The offset that may be committed now; None before the first record."""
        return self._tracker.committable

    @property
    def oldest_accepted_ms(self) -> int | None:
        """When the oldest update in its queues was accepted; looks at every queue."""
        return min(
            (queue.updates[0].accepted_ms for queue in self._queues.values() if queue.updates),
            default=None,
        )

    @property
    def done_before_ms(self) -> int | None:
        """When the oldest update that is still to be applied was accepted, or a later one is.

        None where that is not known: nothing was received yet, or older ones are held back.
        """
        if self.is_over or self.diversion.is_active or not self.received_to:
            return None
        oldest = self.oldest_accepted_ms
        return self._received_at_ms if oldest is None else oldest

    @property
    def records_in_flight(self) -> int:
        """Records received and not yet below the committable offset."""
        return len(self._tracker)

    def receive(self, records: Sequence[Record]) -> int:
        """Append each record to its subscription's queue, in offset order.

        Returns how many of them were taken; the rest is to be read again when there is room.
        """
        assert not self.lost
        if self.stopped:
            return 0  # by the writer, since the client was asked for these
        if self.budget.is_scarce:
            records = self._fair_part_of(records)
        diverts = self.diversion.is_active
        offsets: list[int] = []
        ready: list[SubscriptionQueue] = []
        held: list[Record] = []
        size = good = 0
        for record in records:
            record_size = size_of(record)
            try:
                pending, queue = self._read(record, record_size, is_held=diverts)
            except Rejected as rejected:
                if not self._unreadable_guard.let_go(1, good=good):
                    break
                good = 0
                self._give_up(self, record, rejected.to_keep())
            else:
                good += 1
                if diverts:
                    self._divert(pending, ready, held)
                else:
                    self._append(pending, queue, ready)
            offsets.append(record.offset)
            size += record_size
        self._unreadable_guard.let_go(0, good=good)
        if offsets:
            self._note_received(offsets, size, at_ms=records[len(offsets) - 1].timestamp)
        self._hand_on(ready, held)
        if len(offsets) < len(records):
            self._stop()
        return len(offsets)

    def _read(
        self, record: Record, size: int, *, is_held: bool
    ) -> tuple[PendingUpdate, SubscriptionQueue | None]:
        """Return the update that a record holds, and its queue if it has one.

        `is_held` says that it may be held back.

        Raises:
            Rejected: it holds none, or one that is of another partition.
        """
        update = read_sealed(record.value)
        if is_held or update.once is not None:
            read(record.value)  # what is judged by a key, or held back, has to be one in whole
        key = (update.app_id, update.subscription_id)
        queue = self._queues.get(key)
        if queue is None:  # else the IDs were looked at when it was begun
            check_ids(update, self.partition)
        else:
            key = queue.key
        return PendingUpdate.of(record, update, key, size), queue

    def _note_received(self, offsets: Sequence[int], size: int, *, at_ms: int) -> None:
        self._tracker.receive(offsets)
        self.received_to = offsets[-1] + 1
        self._received_at_ms = at_ms
        self._account(len(offsets), size)
        self.idle.clear()

    def _fair_part_of(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return the first of `records`, as many as may be taken while the share is scarce."""
        records_max, bytes_max = self.budget.fair_part
        size, count = self._bytes, len(self._tracker)
        for taken, record in enumerate(records):
            if count + taken >= records_max or size >= bytes_max:
                return records[:taken]
            size += _cost(1, size_of(record))
        return records

    def _append(
        self,
        pending: PendingUpdate,
        queue: SubscriptionQueue | None,
        ready: list[SubscriptionQueue],
    ) -> None:
        if queue is None:
            key = pending.key
            queue = self._queues[key] = SubscriptionQueue(key, [pending], QueueState.READY)
            ready.append(queue)
        else:
            queue.updates.append(pending)
        queue.size += pending.size
        if pending.once is not None:
            queue.has_keys = True
        if pending.record.headers:
            queue.has_headers = True
        if holds_nul(pending.record):
            queue.holds_nul = True

    def _divert(
        self, pending: PendingUpdate, ready: list[SubscriptionQueue], held: list[Record]
    ) -> None:
        match self.diversion.route(*pending.key):
            case Route.ON:
                self._append(pending, self._queues.get(pending.key), ready)
            case Route.HOLD:
                held.append(pending.record)
            case Route.WAIT:
                self._waiting.append(pending)

    def _hand_on(self, ready: Sequence[SubscriptionQueue], held: Sequence[Record]) -> None:
        self._shard.add_ready(self, ready)
        if held:
            self._hold_back(self, held)

    def feed(self, released: Iterable[PendingUpdate]) -> None:
        """Put updates that were held back into their queues, in the order they were accepted in.

        What its queue has, or has something newer than, was put there before, and is left out.
        """
        assert not self.is_over
        ready: list[SubscriptionQueue] = []
        count = size = 0
        for pending in released:
            queue = self._queues.get(pending.key)
            if queue and queue.updates and pending.offset <= queue.updates[-1].offset:
                continue
            count += 1
            size += pending.size
            self.feeding.began()
            self._append(pending, queue, ready)
        self._account(count, size)
        self._hand_on(ready, ())

    def finish_release(self, view: HoldView) -> None:
        """Let updates of a hold on that is released: all that it held back is in the queues."""
        self.diversion.finish(view)
        ready: list[SubscriptionQueue] = []
        held: list[Record] = []
        waiting, self._waiting = self._waiting, []
        for pending in waiting:
            self._divert(pending, ready, held)
        self._hand_on(ready, held)

    def let_go(self, refused: int, *, good: int) -> int:
        """Return how many of the refused updates of a flush may be given up on; if not all, stop.

        `good` is how many others of that flush were written.
        """
        let_go = self._refused_guard.let_go(refused, good=good)
        if let_go < refused:
            self._stop()
        return let_go

    def _stop(self) -> None:
        """Do nothing more, and give back what it holds of the budget."""
        self.stopped = True
        self._forget()
        self.feeding.settled.set()

    def _forget(self) -> None:
        self.budget.account(-self._records, -self._bytes)
        self._records = self._bytes = 0
        self._queues.clear()
        self._waiting.clear()

    def complete(self, rows: Iterable["Row"]) -> None:
        """Take those updates out of their queues whose effect is durable."""
        if self.lost:
            return
        done: list[PendingUpdate] = []
        size = 0
        for row in rows:
            done += row.updates
            size += row.size
            row.queue.size -= row.size
            del row.queue.updates[: len(row.updates)]
        if self.feeding.outstanding:
            self._complete_some([each.record for each in done], size)
        else:
            self._complete([each.offset for each in done], len(done), size)

    def complete_records(self, records: Sequence[Record]) -> None:
        """Note that these records need no more work; too late after `lose`, so ignored then."""
        if not self.lost:
            self._complete_some(records, sum(map(size_of, records)))

    def _complete_some(self, records: Sequence[Record], size: int) -> None:
        """Complete records of which some may be released ones, which no tracker knows."""
        received = [each.offset for each in records if each.__class__ is not ReleasedRecord]
        self.feeding.ended(len(records) - len(received))
        self._complete(received, len(records), size)

    def _complete(self, offsets: Sequence[int], count: int, size: int) -> None:
        self._tracker.complete(offsets)
        if not self.stopped:
            self._account(-count, -size)
        if self.paused and self.has_room:
            self.budget.room.set()
        if not self._tracker:
            self.idle.set()

    def release(self, queues: Iterable[SubscriptionQueue]) -> list[SubscriptionQueue]:
        """Take back queues after a write; return those that are ready for another."""
        if self.budget.is_scarce and self._shard.is_idle:
            self.budget.room.set()
        again: list[SubscriptionQueue] = []
        if self.is_over:
            return again
        for queue in queues:
            if queue.state is not QueueState.WRITING:
                continue
            if queue.updates:
                queue.state = QueueState.READY
                again.append(queue)
            else:
                queue.state = QueueState.IDLE
                del self._queues[queue.key]
        if not self._queues:
            self._queues.clear()  # only this gives the memory of an emptied dictionary back
        return again

    def lose(self) -> None:
        """Forget everything: the partition is another's now, or its assignment is over."""
        self.lost = True
        self._forget()
        self.budget.partitions -= 1
        self.idle.set()
        self.feeding.settled.set()

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is to be written any more."""
        return self.lost or self.stopped

    @property
    def is_full(self) -> bool:
        """Whether no more should be fetched of this partition for now."""
        if self.stopped or len(self._tracker) >= self.budget.bounds.partition_records:
            return True
        if not self.budget.is_scarce:
            return False
        records_max, bytes_max = self.budget.fair_part
        return len(self._tracker) >= records_max or self._bytes >= bytes_max

    @property
    def has_room(self) -> bool:
        """Whether fetching may go on: half of what it was full by is free again (hysteresis).

        While the share is scarce, only if its writer has no more to do: then what uses the share
        up waits for Kafka, perhaps for long, and the others go on with their fair parts.
        """
        if self.stopped:
            return False
        if not self.budget.is_scarce:
            return len(self._tracker) * 2 < self.budget.bounds.partition_records
        if not self._shard.is_idle:
            return False
        records_max, bytes_max = self.budget.fair_part
        return len(self._tracker) * 2 < records_max and self._bytes * 2 < bytes_max

    def is_behind(self, end: int | None) -> bool:
        """Say whether more waits in Kafka than its fair part, as far as its `end` is known."""
        if end is None or not self.received_to:
            return False
        records_max, _ = self.budget.fair_part
        return end - self.received_to > records_max

    def _account(self, records: int, size: int) -> None:
        cost = _cost(records, size)
        self._records += records
        self._bytes += cost
        self.budget.account(records, cost)


class Row(msgspec.Struct, frozen=True, gc=False):
    """The oldest updates of a queue, to be written as one row change."""

    work: PartitionWork
    queue: SubscriptionQueue
    updates: Sequence[PendingUpdate]
    size: int
    """Of its updates together."""

    @classmethod
    def of(
        cls, work: PartitionWork, queue: SubscriptionQueue, updates: Sequence[PendingUpdate]
    ) -> "Row":
        """Return a row of some of a queue's updates."""
        return cls(work, queue, updates, sum([each.size for each in updates]))

    def only(self, updates: Sequence[PendingUpdate]) -> "Row":
        """Return a row of the same queue, with these updates."""
        return Row.of(self.work, self.queue, updates)


work_of: Final = attrgetter("work")

_RECORD_OVERHEAD_BYTES: Final = 1_500
"""What a record costs as Python objects beside its bytes, which count as they came and as folded.

Measured when what an update changes was kept as objects, so it is rather too much.
"""


def _cost(records: int, size: int) -> int:
    """Return how many bytes of memory records of this size in all take."""
    return records * _RECORD_OVERHEAD_BYTES + 2 * size
