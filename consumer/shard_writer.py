"""Ready subscriptions of one shard, flushed for as long as it is in order."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Final, Protocol

import structlog

from consumer.breaker import Backoff, Breaker, BreakerState
from consumer.flush import Flush, FlushTarget, RefusedUpdate, Store
from consumer.observer import FlushObserver
from consumer.pace import Pace
from consumer.partition_work import STOPPED, PartitionWork, Row, work_of
from consumer.subscription_queue import PendingUpdate, QueueState, Record, SubscriptionQueue
from shared.errors import Rejected, Transient

log = structlog.get_logger()

_FORGET_ROWS_MAX: Final = 10_000
"""First uses of keys that one statement forgets."""


class DeadLetters(Protocol):
    """Where records go that can never succeed."""

    async def send(self, record: Record, rejected: Rejected) -> None:
        """Return when the broker has the dead letter."""


@dataclass(frozen=True, slots=True)
class FlushBounds:
    """Bounds of one statement, and the pauses after some that found their shard busy."""

    bytes: int
    updates_per_row: int
    saturation: Backoff


@dataclass(frozen=True, slots=True)
class Failing:
    """Since when a shard does not do its work, in Unix time, and what it said first."""

    since_s: float
    reason: str


_Waiting = deque[tuple[PartitionWork, SubscriptionQueue]]


class ShardWriter:
    """Write what is ready at one shard, as much at once as has gathered meanwhile.

    No timer holds a flush back: while one is under way the next gathers, so batches grow exactly
    when load does. A subscription is in at most one flush at a time.
    """

    def __init__(
        self,
        name: str,
        *,
        store: Store,
        dead_letters: DeadLetters,
        breaker: Breaker,
        pace: Pace,
        bounds: FlushBounds,
        observer: FlushObserver,
    ) -> None:
        self.name = name
        self.breaker = breaker
        self.pace = pace
        self._target = FlushTarget(
            name, store=store, pace=pace, observer=observer, more_waits=lambda: bool(self._ready)
        )
        self.counts = self._target.counts
        self.failing: Failing | None = None
        """Since when nothing could be written, and why; None where it can."""
        self._store = store
        self._observer = observer
        self._dead_letters = dead_letters
        self._bounds = bounds
        self._ready: _Waiting = deque()
        self._has_ready = asyncio.Event()
        self._locked: _Waiting = deque()
        self._has_locked = asyncio.Event()
        self._being_retried = 0
        self._refused: asyncio.Queue[RefusedUpdate] = asyncio.Queue()
        self._saturated = 0
        self._under_way: set[asyncio.Timeout] = set()
        self._flush_ended = asyncio.Event()

    @property
    def flushes_in_flight(self) -> int:
        """How many statements are under way."""
        return len(self._under_way)

    @property
    def ready(self) -> int:
        """How many subscriptions wait for a place in a statement."""
        return len(self._ready)

    @property
    def locked(self) -> int:
        """How many subscriptions wait because somebody else's transaction holds their row."""
        return len(self._locked) + self._being_retried

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to write, and nothing being written."""
        return not self._ready and not self._under_way

    def add_ready(self, work: PartitionWork, queues: Sequence[SubscriptionQueue]) -> None:
        """Write the head of each of `queues` when its turn comes."""
        if queues:
            self._ready.extend([(work, queue) for queue in queues])
            self._has_ready.set()

    async def run(self) -> None:
        """Flush for ever; as many run side by side as statements may be under way."""
        while True:
            await self._has_ready.wait()
            if len(self._under_way) >= self.pace.flushes:
                await self._flush_ended.wait()
                continue
            if not self.breaker.admits():
                await asyncio.sleep(self.breaker.retry_in_s())
                continue
            rows = self._take(self._ready)
            if not self._ready:
                self._has_ready.clear()
            if rows:
                await self._flush(rows)
            else:
                self.breaker.gave_up()
                self._forget_if_none_waits()
            del rows  # what is written is accounted for no more, and need not wait for the next

    async def retry_locked_for_ever(self) -> None:
        """Try rows again that others held, apart from the ready ones, which need not wait for them.

        All of them at once, after pauses that grow for as long as each of them is still held.
        """
        tries = 0
        while True:
            await self._has_locked.wait()
            tries += 1
            await asyncio.sleep(self._pause_s(tries))
            if not self.breaker.admits():
                continue
            rows = self._take(self._locked)
            if rows:
                self._being_retried = len(rows)
                await self._flush(rows)
                self._being_retried = 0
                if any(row.queue.state is not QueueState.LOCKED for row in rows):
                    tries = 0
            else:
                self.breaker.gave_up()
                self._forget_if_none_waits()
            del rows
            if not self._locked:
                self._has_locked.clear()
                log.info("shard.rows_unlocked", shard=self.name)
                tries = 0

    def abort(self) -> None:
        """End the statements under way, of which the outcome no longer matters."""
        now = asyncio.get_running_loop().time()
        for deadline in self._under_way:
            deadline.reschedule(now)

    def _take(self, waiting: _Waiting) -> list[Row]:
        rows: list[Row] = []
        left = self._bounds.bytes
        while waiting and len(rows) < self.pace.rows and left > 0:
            work, queue = waiting.popleft()
            if work.is_over:
                continue
            queue.state = QueueState.WRITING
            if queue.size <= left and len(queue.updates) <= self._bounds.updates_per_row:
                row = Row(work, queue, queue.updates[:], queue.size)
            else:
                row = Row.of(work, queue, self._as_many_of(queue.updates, left))
            rows.append(row)
            left -= row.size
        return rows

    def _as_many_of(self, updates: Sequence[PendingUpdate], left: int) -> Sequence[PendingUpdate]:
        """Return the first updates, the last of which may be too large for what is left."""
        updates = updates[: self._bounds.updates_per_row]
        for count, pending in enumerate(updates, 1):
            left -= pending.size
            if left <= 0:
                return updates[:count]
        return updates

    async def _flush(self, rows: Sequence[Row]) -> None:
        flush, first_again = Flush(self._target), False
        is_probe = self.breaker.state is BreakerState.HALF_OPEN
        with suppress(TimeoutError):  # only `abort` sets the deadline
            async with asyncio.timeout(None) as deadline:
                self._under_way.add(deadline)
                try:
                    first_again = await self._attempt(flush, rows)
                finally:
                    self._under_way.discard(deadline)
                    self._flush_ended.set()
                    self._flush_ended.clear()
        if is_probe:
            self.breaker.gave_up()  # unless it has found out how the shard is
        self._give_up(flush)
        if flush.locked:
            self._set_aside(flush.locked)
        again = [
            (work, queue)
            for work, its in groupby(rows, work_of)
            for queue in work.release([row.queue for row in its])
        ]
        if first_again:
            self._ready.extendleft(reversed(again))
        else:
            self._ready.extend(again)
        if self._ready:
            self._has_ready.set()
        else:
            self._forget_if_none_waits()

    def _give_up(self, flush: Flush) -> None:
        """Give up on what is refused and the oldest of its queue; stop a partition of too much."""
        refused: dict[PartitionWork, list[RefusedUpdate]] = {work: [] for work in flush.written}
        for each in (*flush.refused, *flush.unreadable):
            if each.is_oldest:
                refused.setdefault(each.work, []).append(each)
        let_go = [each for each in flush.reused if not each.work.is_over]
        for work, its in refused.items():
            count = work.let_go(len(its), good=flush.written.get(work, 0))
            let_go += its[:count]
            if count < len(its):
                log.error("partition.stopped", partition=work.partition, reason=STOPPED)
        for each in let_go:
            each.queue.state = QueueState.GIVING_UP
            self._refused.put_nowait(each)

    def _set_aside(self, locked: Sequence[Row]) -> None:
        if not self._has_locked.is_set():
            log.warning("shard.rows_locked", shard=self.name, count=len(locked))
        for row in locked:
            row.queue.state = QueueState.LOCKED
            self._locked.append((row.work, row.queue))
        self._has_locked.set()

    async def _attempt(self, flush: Flush, rows: Sequence[Row]) -> bool:
        """Write rows; say whether what was not written is to be the first that is tried again.

        It is where anything else would have failed as well, so that after an outage the oldest are
        the first to be written. Otherwise one of the rows may be what it failed for, and they are
        the last, so that others have their turn.
        """
        try:
            await flush.write(rows)
        except Transient as error:
            if error.saturation:
                await self._slow_down(error)
            else:
                self._observer.failed(self.name, rows, error)
                self._note_failure(error)
            return error.any_input or error.locked  # which gets this far for the table only
        # Otherwise it has answered at most, as one does that takes no writes. That it waits for
        # a lock says little more, and counts where there is nothing to write that would tell.
        if flush.written or (flush.locked and not self._ready):
            self._note_success()
        return False

    async def give_up_for_ever(self) -> None:
        """Complete each refused update once the broker has its dead letter; hold up nobody else.

        Several may run side by side: each subscription has one refused update at most.
        """
        while True:
            await self._give_up_one(await self._refused.get())

    async def _give_up_one(self, refused: RefusedUpdate) -> None:
        work, queue, update, rejected = refused
        if work.lost:
            return
        await self._dead_letters.send(update.record, rejected)
        self.counts.updates_dead_lettered += 1
        work.complete([Row.of(work, queue, [update])])
        queue.state = QueueState.WRITING
        self._ready.extend([(work, each) for each in work.release([queue])])
        if self._ready and not self._under_way:  # or the end of a flush has more written with it
            self._has_ready.set()

    async def forget_uses(self, before_ms: Mapping[int, int]) -> None:
        """Forget first uses of keys that were accepted before a time given by partition."""
        if self.breaker.state is not BreakerState.CLOSED:
            return
        try:
            forgotten = _FORGET_ROWS_MAX
            while forgotten == _FORGET_ROWS_MAX:
                forgotten = await self._store.forget_uses(before_ms, rows_max=_FORGET_ROWS_MAX)
        except Transient as error:  # to be done the next time; writes say whether it is in order
            log.debug("keys.not_forgotten", shard=self.name, reason=str(error))

    def _note_success(self) -> None:
        self._saturated = 0
        self.failing = None
        if self.breaker.state is not BreakerState.CLOSED:
            log.info("shard.recovered", shard=self.name)
        self.breaker.succeeded()

    def _forget_if_none_waits(self) -> None:
        """Forget a failure once nothing is left here that could find out that it is over.

        So it is when the partitions that waited for the shard went to another consumer, or when
        all that waited is refused.
        """
        if self.is_idle and not self._locked and self.failing is not None:
            log.info("shard.not_waited_for", shard=self.name)
            self.failing = None
            self.breaker.forget()

    async def _slow_down(self, error: Transient) -> None:
        """Let a busy shard breathe; it answers, so this is no failure."""
        self.counts.flushes_slowed += 1
        self.pace.note_failure()
        self.breaker.succeeded()
        self._saturated += 1
        pause_s = self._pause_s(self._saturated)
        log.debug("shard.saturated", shard=self.name, reason=str(error), pause_s=pause_s)
        await asyncio.sleep(pause_s)

    def _pause_s(self, tries: int) -> float:
        return self._bounds.saturation.wait_s(tries, random.random())  # noqa: S311

    def _note_failure(self, error: Transient) -> None:
        self.counts.flushes_failed += 1
        self.pace.note_failure()
        was_closed = self.breaker.state is BreakerState.CLOSED
        self.breaker.failed()
        if self.failing is None:
            self.failing = Failing(time.time(), str(error))
        if was_closed:
            log.warning("shard.failed", shard=self.name, reason=str(error))
