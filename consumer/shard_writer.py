"""Ready subscriptions of one shard, folded and flushed."""

import asyncio
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import compress, groupby
from operator import attrgetter, not_
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from consumer.breaker import Backoff, Breaker, BreakerState
from consumer.folding import RowChange, first_unreadable, fold
from consumer.observer import FlushObserver
from consumer.once import KeyUse, KnownUses, judge, reused
from consumer.pace import Pace
from consumer.partition_work import STOPPED, PartitionWork, Row
from consumer.refusals import Question, Refusal, first_refused, refused_for_nul, up_to_nuls
from consumer.store import TOO_MANY_TAGS, Applied
from consumer.subscription_queue import PendingUpdate, QueueState, Record, SubscriptionQueue
from shared.errors import Rejected, Transient

log = structlog.get_logger()

_STATEMENTS_TO_ASK_ABOUT: Final = 2
"""How many full ones are preceded by the question what of them will be refused, once some was."""

_SMALL_SHARE: Final = 8
"""Of a full statement: what the smallest counts for in that."""

_FORGET_ROWS_MAX: Final = 10_000
"""First uses of keys that one statement forgets."""


class Store(Protocol):
    """Where changes become durable; a shard's store is one."""

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        """Write the changes in one statement, each only forward, with the keys they used."""

    async def first_uses(self, keys: Sequence[tuple[str, str, str]]) -> KnownUses:
        """Return what is known of keys, which are app ID, subscription ID and key."""

    async def forget_uses(self, before_ms: Mapping[int, int], *, rows_max: int) -> int:
        """Remove first uses accepted before a time given by partition; return how many."""

    async def find_locked(self, changes: Sequence[RowChange]) -> Sequence[bool]:
        """Say of each change whether somebody else's transaction holds its row."""

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        """Say of each change why Postgres does not take its JSON, None where it does."""

    async def find_overfull(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        """Say of each change whether its row as it is now would have too many tags with it."""


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


@dataclass(slots=True)
class WriterCounts:
    """What a writer did since it started."""

    updates_applied: int = 0
    updates_replayed: int = 0
    updates_ignored: int = 0
    updates_dead_lettered: int = 0
    rows_written: int = 0
    rows_skipped: int = 0
    flushes: int = 0
    flushes_failed: int = 0
    flushes_slowed: int = 0


@dataclass(frozen=True, slots=True)
class Failing:
    """Since when a shard does not do its work, in Unix time, and what it said first."""

    since_s: float
    reason: str


class _Folded(msgspec.Struct, frozen=True, gc=False):
    """A row with what its updates amount to, and the keys that they are the first to use."""

    row: Row
    change: RowChange
    first_uses: Sequence[KeyUse] = ()


class _Refused(NamedTuple):
    """An update that will never be in its row.

    Postgres refuses it, it holds what no update may hold, or it reuses a key.
    """

    work: PartitionWork
    queue: SubscriptionQueue
    update: PendingUpdate
    rejected: Rejected

    @property
    def is_oldest(self) -> bool:
        """Whether all before it is done with, so that it may be given up on.

        By its record, which a repetition under its key shares with the update that is written.
        """
        return not self.work.is_over and self.queue.updates[0].record is self.update.record


@dataclass(slots=True)
class _Left:
    """What a flush leaves unwritten, because of what it is and not because the shard fails."""

    refused: list[_Refused] = field(default_factory=list)
    unreadable: list[_Refused] = field(default_factory=list)
    """Refused for what they hold, before their row was tried."""
    reused: list[_Refused] = field(default_factory=list)
    locked: list[Row] = field(default_factory=list)
    written: dict[PartitionWork, int] = field(default_factory=dict)
    """How many updates of each partition are not left."""

    @property
    def count(self) -> int:
        return len(self.refused) + len(self.unreadable) + len(self.reused) + len(self.locked)


_Waiting = deque[tuple[PartitionWork, SubscriptionQueue]]

_work_of = attrgetter("work")


def _fold_row(row: Row, known: KnownUses, left: _Left) -> _Folded | None:
    """Fold a row up to an update that reuses a key; None where that is its oldest.

    Raises:
        Rejected: one of its updates holds what no update may hold.
    """
    if not row.queue.has_keys:
        return _Folded(row, fold(row.updates))
    judged = judge(row.updates, known)
    if not judged.updates:
        left.reused.append(_Refused(row.work, row.queue, row.updates[0], reused()))
        return None
    cut = Row.of(row.work, row.queue, judged.updates)
    return _Folded(cut, fold(judged.updates), judged.first_uses)


def _fold_readable(row: Row, known: KnownUses, left: _Left) -> _Folded | None:
    """Fold a row up to an update that holds what none may hold, and refuse that."""
    before, refused = _cut(row, Refusal(*first_unreadable(row.updates)))
    left.unreadable.append(refused)
    return _fold_row(before[0], known, left) if before else None


def _with_few_nuls(row: Row) -> Row:
    """Return as much of a row as can be asked about."""
    return Row.of(row.work, row.queue, up_to_nuls(row.updates))


def _cut(row: Row, refusal: Refusal) -> tuple[Sequence[Row], _Refused]:
    """Return what of a row comes before its first refused update, if anything does, and that."""
    before = row.updates[: refusal.accepted]
    refused = _Refused(
        row.work, row.queue, row.updates[refusal.accepted], refusal.rejected.to_keep()
    )
    return [Row.of(row.work, row.queue, before)] if before else [], refused


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
        self.counts = WriterCounts()
        self.failing: Failing | None = None
        """Since when nothing could be written, and why; None where it can."""
        self._store = store
        self._dead_letters = dead_letters
        self._bounds = bounds
        self._observer = observer
        self._ready: _Waiting = deque()
        self._has_ready = asyncio.Event()
        self._locked: _Waiting = deque()
        self._has_locked = asyncio.Event()
        self._being_retried = 0
        self._refused: asyncio.Queue[_Refused] = asyncio.Queue()
        self._questions = (
            Question(store.find_unreadable),
            Question(store.find_overfull, with_older=True),
        )
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
        left, first_again = _Left(), False
        is_probe = self.breaker.state is BreakerState.HALF_OPEN
        with suppress(TimeoutError):  # only `abort` sets the deadline
            async with asyncio.timeout(None) as deadline:
                self._under_way.add(deadline)
                try:
                    first_again = await self._attempt(rows, left)
                finally:
                    self._under_way.discard(deadline)
                    self._flush_ended.set()
                    self._flush_ended.clear()
        if is_probe:
            self.breaker.gave_up()  # unless it has found out how the shard is
        self._give_up(left)
        if left.locked:
            self._set_aside(left.locked)
        again = [
            (work, queue)
            for work, its in groupby(rows, _work_of)
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

    def _give_up(self, left: _Left) -> None:
        """Give up on what is refused and the oldest of its queue; stop a partition of too much."""
        refused: dict[PartitionWork, list[_Refused]] = {work: [] for work in left.written}
        for each in (*left.refused, *left.unreadable):
            if each.is_oldest:
                refused.setdefault(each.work, []).append(each)
        let_go = [each for each in left.reused if not each.work.is_over]
        for work, its in refused.items():
            count = work.let_go(len(its), good=left.written.get(work, 0))
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

    async def _attempt(self, rows: Sequence[Row], left: _Left) -> bool:
        """Write rows; say whether what was not written is to be the first that is tried again.

        It is where anything else would have failed as well, so that after an outage the oldest are
        the first to be written. Otherwise one of the rows may be what it failed for, and they are
        the last, so that others have their turn.
        """
        try:
            await self._write(rows, left)
        except Transient as error:
            # The others are found again. Given up on without those that are written beside them
            # they would look like most of their partition.
            left.unreadable = [each for each in left.unreadable if each.work in left.written]
            if error.saturation:
                await self._slow_down(error)
            else:
                self._observer.failed(self.name, rows, error)
                self._note_failure(error)
            return error.any_input or error.locked  # which gets this far for the table only
        # Otherwise it has answered at most, as one does that takes no writes. That it waits for
        # a lock says little more, and counts where there is nothing to write that would tell.
        if left.written or (left.locked and not self._ready):
            self._note_success()
        return False

    async def _write(self, rows: Sequence[Row], left: _Left) -> None:
        """Write rows in one statement; where one of them prevents it, write the others.

        Adds to `left` what was written, what can never be, and the rows that somebody else holds.
        Each call of itself that this comes to has fewer rows or fewer updates, so it ends.
        """
        await self._write_folded(await self._fold(rows, left), left, self._questions)

    async def _write_folded(
        self, folded: Sequence[_Folded], left: _Left, questions: Sequence[Question]
    ) -> None:
        """Write rows, but ask beforehand those questions that found something lately.

        That costs less than a statement that is refused, and then the question.
        """
        for place, question in enumerate(questions, 1):
            if folded and question.rows_left > 0:
                refusals = await self._find_refused(folded, question)
                if any(refusals):
                    rest = questions[place:]
                    await self._write_accepted(folded, refusals, question, left, rest)
                    return
        await self._apply(folded, left)

    async def _fold(self, rows: Sequence[Row], left: _Left) -> Sequence[_Folded]:
        """Fold each row, up to an update that cannot be, and refuse that.

        It may hold a NUL, or what no update may hold. It may reuse a key: that is its caller's
        fault for sure, does not count against the partition, and is found once it is the oldest.
        """
        rows = [
            _with_few_nuls(row) if row.queue.holds_nul else row
            for row in rows
            if not row.work.is_over
        ]
        keys = [
            (*row.queue.key, pending.once.key)
            for row in rows
            if row.queue.has_keys
            for pending in row.updates
            if pending.once is not None
        ]
        known: KnownUses = await self._store.first_uses(keys) if keys else {}
        folded: list[_Folded] = []
        for row in await self._cut_at_nul(rows, known, left):
            try:
                one = _fold_row(row, known, left)
            except Rejected:
                one = _fold_readable(row, known, left)
            if one is not None:
                folded.append(one)
        return folded

    async def _cut_at_nul(
        self, rows: Sequence[Row], known: KnownUses, left: _Left
    ) -> Sequence[Row]:
        """Cut each row before the first update that is refused for a NUL, and refuse that one.

        Which rows have one is known, and to ask about those updates alone costs less than a
        statement that is refused for them, and then the question about all.
        """
        suspected = [row for row in rows if row.queue.holds_nul]
        if not suspected:
            return rows
        readable = [row for row in rows if not row.queue.holds_nul]
        folds = [
            judge(row.updates, known).updates if row.queue.has_keys else row.updates
            for row in suspected
        ]
        try:
            refusals = await refused_for_nul(folds, self._store.find_unreadable)
        except Rejected:
            return rows
        for row, refusal in zip(suspected, refusals, strict=True):
            if refusal is None:
                readable.append(row)
                continue
            before, refused = _cut(row, refusal)
            readable += before
            left.unreadable.append(refused)
        return readable

    async def _apply(
        self, folded: Sequence[_Folded], left: _Left, *, is_again: bool = False
    ) -> None:
        folded = [each for each in folded if not each.row.work.is_over]
        if not folded:
            return
        started = asyncio.get_running_loop().time()
        try:
            applied = await self._store.apply(
                [each.change for each in folded],
                [use for each in folded for use in each.first_uses],
            )
        except Rejected as rejected:
            if len(folded) == len(folded[0].row.updates) == 1:
                await self._refuse(folded[0], rejected.to_keep(), left, is_again=is_again)
            else:
                await self._write_others(folded, rejected.to_keep(), left)
            return
        except Transient as error:
            if not error.locked:
                raise
            await self._write_unlocked(folded, left)
            return
        took_s = asyncio.get_running_loop().time() - started
        self.pace.note(took_s, more_waits=bool(self._ready))
        rows = [each.row for each in folded]
        self._observer.written(self.name, rows, took_s=took_s, pool_wait_s=applied.pool_wait_s)
        self.counts.flushes += 1
        rows_written = sum(applied.written)
        self.counts.rows_written += rows_written
        self.counts.rows_skipped += len(folded) - rows_written
        for work, its in groupby(self._done(folded, applied), _work_of):
            done = list(its)
            work.complete(done)
            count = sum([len(row.updates) for row in done])
            left.written[work] = left.written.get(work, 0) + count

    def _done(self, folded: Sequence[_Folded], applied: Applied) -> Sequence[Row]:
        """Return what of the rows is done with, and count it."""
        last_offsets = [each.change.last_offset for each in folded]
        if all(applied.written) and applied.positions == last_offsets:
            self.counts.updates_applied += sum([len(each.row.updates) for each in folded])
            return [each.row for each in folded]
        return [
            self._done_of(each.row, each.change, position, written=written)
            for each, position, written in zip(
                folded, applied.positions, applied.written, strict=True
            )
        ]

    def _done_of(self, row: Row, change: RowChange, position: int | None, *, written: bool) -> Row:
        count = len(row.updates)
        if position is None:
            self.counts.updates_ignored += count
            return row
        if written and position >= change.last_offset:
            self.counts.updates_applied += count
            return row
        # An earlier write had taken the head, or all of it: what is above the row's position stays
        # in the queue and is folded anew from there.
        done = [pending for pending in row.updates if pending.offset <= position]
        self.counts.updates_replayed += len(done)
        return Row.of(row.work, row.queue, done)

    async def _write_halves(self, rows: Sequence[Row], left: _Left) -> None:
        middle = len(rows) // 2
        await self._write(rows[:middle], left)
        await self._write(rows[middle:], left)

    async def _write_unlocked(self, folded: Sequence[_Folded], left: _Left) -> None:
        locked = await self._store.find_locked([each.change for each in folded])
        if len(folded) == 1:
            left.locked.append(folded[0].row)
        elif any(locked):
            left.locked += [each.row for each in compress(folded, locked)]
            await self._apply(list(compress(folded, map(not_, locked))), left)
        else:
            # Free meanwhile, or just being inserted by somebody, which only shows when it is tried.
            await self._write_halves([each.row for each in folded], left)

    async def _write_others(
        self, folded: Sequence[_Folded], rejected: Rejected, left: _Left
    ) -> None:
        """Write what can be of several updates of which at least one is refused."""
        unreadable, overfull = self._questions
        question = overfull if rejected.reason == TOO_MANY_TAGS else unreadable
        refusals = await self._find_refused(folded, question)
        if any(refusals):
            await self._write_accepted(folded, refusals, question, left, ())
        # Otherwise it is of a kind that only shows when it is tried.
        elif len(folded) > 1:
            await self._write_halves([each.row for each in folded], left)
        else:
            # In order: the older half is completed, so taken out, before the younger is read.
            row = folded[0].row
            middle, found = len(row.updates) // 2, left.count
            await self._write([Row.of(row.work, row.queue, row.updates[:middle])], left)
            if left.count == found:
                younger = row.queue.updates[: len(row.updates) - middle]
                await self._write([Row.of(row.work, row.queue, younger)], left)

    async def _refuse(
        self, one: _Folded, rejected: Rejected, left: _Left, *, is_again: bool
    ) -> None:
        """Refuse the only update of the only row of a statement.

        A full row may be one that a transaction under way makes room in: it is tried once more
        when nobody holds it, and set aside while somebody does.
        """
        row = one.row
        if is_again or rejected.reason != TOO_MANY_TAGS:
            left.refused.append(_Refused(row.work, row.queue, row.updates[0], rejected))
        elif any(await self._store.find_locked([one.change])):
            left.locked.append(row)
        else:
            await self._apply([one], left, is_again=True)

    async def _find_refused(
        self, folded: Sequence[_Folded], question: Question
    ) -> Sequence[Refusal | None]:
        """Say of each row which of its updates is the first that is refused, if it can be asked."""
        rows = self.pace.rows
        refusals: Sequence[Refusal | None]
        try:
            refusals = await first_refused(
                [each.row.updates for each in folded], [each.change for each in folded], question
            )
        except Rejected:
            refusals = [None] * len(folded)
        if any(refusals):
            question.rows_left = _STATEMENTS_TO_ASK_ABOUT * rows
        else:
            # A small statement counts for more than it is, so that a trickle is not asked for ever.
            asked = max(len(folded), rows // _SMALL_SHARE)
            question.rows_left = max(0, question.rows_left - asked)
        return refusals

    async def _write_accepted(
        self,
        folded: Sequence[_Folded],
        refusals: Sequence[Refusal | None],
        question: Question,
        left: _Left,
        questions: Sequence[Question],
    ) -> None:
        """Write each row up to its first refused update; `questions` are still to be asked."""
        accepted: list[_Folded] = []
        before: list[Row] = []
        refused: list[_Refused] = []
        for each, refusal in zip(folded, refusals, strict=True):
            if refusal is None:
                accepted.append(each)
                continue
            its_before, its_refused = _cut(each.row, refusal)
            before += its_before
            refused.append(its_refused)
        await self._write_folded([*accepted, *await self._fold(before, left)], left, questions)
        if question.with_older:
            refused = await self._confirmed(refused, question, left)
        left.refused += refused

    async def _confirmed(
        self, refused: Sequence[_Refused], question: Question, left: _Left
    ) -> list[_Refused]:
        """Ask once more about those that are the oldest now, and set rows that are held aside.

        A transaction that is under way may change what the row holds, or apply the update.
        """
        oldest = [each for each in refused if each.is_oldest]
        if not oldest:
            return []
        changes = [fold([each.update]) for each in oldest]
        locked = await self._store.find_locked(changes)
        try:
            again = await question.ask(changes)
        except Rejected:
            return []
        left.locked += [
            Row.of(each.work, each.queue, [each.update]) for each in compress(oldest, locked)
        ]
        return [
            each
            for each, is_locked, rejected in zip(oldest, locked, again, strict=True)
            if rejected is not None and not is_locked
        ]

    async def give_up_for_ever(self) -> None:
        """Complete each refused update once the broker has its dead letter; hold up nobody else.

        Several may run side by side: each subscription has one refused update at most.
        """
        while True:
            await self._give_up_one(await self._refused.get())

    async def _give_up_one(self, refused: _Refused) -> None:
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
