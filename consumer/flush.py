"""One flush: rows of a shard folded and written, and split where one of them prevents it."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress, groupby
from operator import not_
from typing import Final, NamedTuple, Protocol

import msgspec

from consumer.folding import RowChange, first_unreadable, fold
from consumer.observer import FlushObserver
from consumer.once import KeyUse, KnownUses, judge, reused
from consumer.pace import Pace
from consumer.partition_work import PartitionWork, Row, work_of
from consumer.refusals import Question, Refusal, first_refused, refused_for_nul, up_to_nuls
from consumer.store import TOO_MANY_TAGS, Applied
from consumer.subscription_queue import PendingUpdate, SubscriptionQueue
from shared.errors import Rejected, Transient

_STATEMENTS_TO_ASK_ABOUT: Final = 2
"""How many full ones are preceded by the question what of them will be refused, once some was."""

_SMALL_SHARE: Final = 8
"""Of a full statement: what the smallest counts for in that."""


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


@dataclass(slots=True)
class WriterCounts:
    """What a shard's writer did since it started; `flushes` are the statements written."""

    updates_applied: int = 0
    updates_replayed: int = 0
    updates_ignored: int = 0
    updates_dead_lettered: int = 0
    rows_written: int = 0
    rows_skipped: int = 0
    flushes: int = 0
    flushes_failed: int = 0
    flushes_slowed: int = 0


class RefusedUpdate(NamedTuple):
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


class _Folded(msgspec.Struct, frozen=True, gc=False):
    """A row with what its updates amount to, and the keys that they are the first to use."""

    row: Row
    change: RowChange
    first_uses: Sequence[KeyUse] = ()


def _refused(row: Row, place: int, rejected: Rejected) -> RefusedUpdate:
    return RefusedUpdate(row.work, row.queue, row.updates[place], rejected.to_keep())


def _cut(row: Row, refusal: Refusal) -> tuple[Sequence[Row], RefusedUpdate]:
    """Return what of a row comes before its first refused update, if anything does, and that."""
    before = row.updates[: refusal.accepted]
    refused = _refused(row, refusal.accepted, refusal.rejected)
    return [row.only(before)] if before else [], refused


class FlushTarget:
    """One shard, as its flushes see it, and what they found out about it for the next ones."""

    def __init__(
        self,
        shard: str,
        *,
        store: Store,
        pace: Pace,
        observer: FlushObserver,
        more_waits: Callable[[], bool],
    ) -> None:
        self.shard = shard
        self.store = store
        self.pace = pace
        self.observer = observer
        self.more_waits = more_waits
        self.counts = WriterCounts()
        self.asks_unreadable = Question(store.find_unreadable)
        self.asks_overfull = Question(store.find_overfull, with_older=True)


class Flush:
    """Rows on their way to one shard, and what of them is left unwritten.

    What it leaves, it leaves for what that is, not because the shard fails. One statement is all
    it takes, but where some rows are locked, some updates are refused, or it is asked beforehand
    which are.
    """

    def __init__(self, target: FlushTarget) -> None:
        self.refused: list[RefusedUpdate] = []
        self.unreadable: list[RefusedUpdate] = []
        """Refused for what they hold, before their row was tried."""
        self.reused: list[RefusedUpdate] = []
        """Their key was used for another one."""
        self.locked: list[Row] = []
        """Somebody else's transaction holds them."""
        self.written: dict[PartitionWork, int] = {}
        """How many updates of each partition are not left."""
        self._target = target
        self._store, self._counts = target.store, target.counts

    async def write(self, rows: Sequence[Row]) -> None:
        """Write rows in one statement; where one of them prevents it, write the others.

        Raises:
            Transient: the shard cannot do it now; some may be written.
        """
        try:
            await self._write(rows)
        except Transient:
            # The others are found again. Given up on without those that are written beside them
            # they would look like most of their partition.
            self.unreadable = [each for each in self.unreadable if each.work in self.written]
            raise

    async def _write(self, rows: Sequence[Row]) -> None:
        """Write rows, in parts if need be: each has fewer rows or fewer updates, so it ends."""
        questions = (self._target.asks_unreadable, self._target.asks_overfull)
        await self._write_folded(await self._fold(rows), questions)

    async def _fold(self, rows: Sequence[Row]) -> Sequence[_Folded]:
        """Fold each row, up to an update that cannot be, and refuse that.

        It may hold a NUL, or what no update may hold. It may reuse a key: that is its caller's
        fault for sure, does not count against the partition, and is found once it is the oldest.
        """
        rows = [
            row.only(up_to_nuls(row.updates)) if row.queue.holds_nul else row
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
        for row in await self._cut_at_nul(rows, known):
            try:
                one = self._fold_row(row, known)
            except Rejected:
                one = self._fold_readable(row, known)
            if one is not None:
                folded.append(one)
        return folded

    async def _cut_at_nul(self, rows: Sequence[Row], known: KnownUses) -> Sequence[Row]:
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
            self.unreadable.append(refused)
        return readable

    def _fold_row(self, row: Row, known: KnownUses) -> _Folded | None:
        """Fold a row up to an update that reuses a key; None where that is its oldest.

        Raises:
            Rejected: one of its updates holds what no update may hold.
        """
        if not row.queue.has_keys:
            return _Folded(row, fold(row.updates))
        judged = judge(row.updates, known)
        if not judged.updates:
            self.reused.append(_refused(row, 0, reused()))
            return None
        return _Folded(row.only(judged.updates), fold(judged.updates), judged.first_uses)

    def _fold_readable(self, row: Row, known: KnownUses) -> _Folded | None:
        """Fold a row up to an update that holds what none may hold, and refuse that."""
        before, refused = _cut(row, Refusal(*first_unreadable(row.updates)))
        self.unreadable.append(refused)
        return self._fold_row(before[0], known) if before else None

    async def _write_folded(self, folded: Sequence[_Folded], questions: Sequence[Question]) -> None:
        """Write rows, but ask beforehand those questions that found something lately.

        That costs less than a statement that is refused, and then the question.
        """
        for place, question in enumerate(questions, 1):
            if folded and question.rows_left > 0:
                refusals = await self._find_refused(folded, question)
                if any(refusals):
                    await self._write_accepted(folded, refusals, question, questions[place:])
                    return
        await self._apply(folded)

    async def _apply(self, folded: Sequence[_Folded], *, is_again: bool = False) -> None:
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
            rejected.to_keep()  # or all of the statement stays in memory until the rest is written
            if len(folded) == len(folded[0].row.updates) == 1:
                await self._refuse(folded[0], rejected, is_again=is_again)
            else:
                await self._write_others(folded, rejected)
            return
        except Transient as error:
            if not error.locked:
                raise
            await self._write_unlocked(folded)
            return
        self._note_written(folded, applied, asyncio.get_running_loop().time() - started)
        for work, its in groupby(self._done(folded, applied), work_of):
            done = list(its)
            work.complete(done)
            count = sum([len(row.updates) for row in done])
            self.written[work] = self.written.get(work, 0) + count

    def _note_written(self, folded: Sequence[_Folded], applied: Applied, took_s: float) -> None:
        target = self._target
        target.pace.note(took_s, more_waits=target.more_waits())
        target.observer.written(
            target.shard,
            [each.row for each in folded],
            took_s=took_s,
            pool_wait_s=applied.pool_wait_s,
        )
        rows_written = sum(applied.written)
        self._counts.flushes += 1
        self._counts.rows_written += rows_written
        self._counts.rows_skipped += len(folded) - rows_written

    def _done(self, folded: Sequence[_Folded], applied: Applied) -> Sequence[Row]:
        """Return what of the rows is done with, and count it."""
        last_offsets = [each.change.last_offset for each in folded]
        if all(applied.written) and applied.positions == last_offsets:
            self._counts.updates_applied += sum([len(each.row.updates) for each in folded])
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
            self._counts.updates_ignored += count
            return row
        if written and position >= change.last_offset:
            self._counts.updates_applied += count
            return row
        # An earlier write had taken the head, or all of it: what is above the row's position stays
        # in the queue and is folded anew from there.
        done = [pending for pending in row.updates if pending.offset <= position]
        self._counts.updates_replayed += len(done)
        return row.only(done)

    async def _write_unlocked(self, folded: Sequence[_Folded]) -> None:
        locked = await self._store.find_locked([each.change for each in folded])
        if len(folded) == 1:
            self.locked.append(folded[0].row)
        elif any(locked):
            self.locked += [each.row for each in compress(folded, locked)]
            await self._apply(list(compress(folded, map(not_, locked))))
        else:
            # Free meanwhile, or just being inserted by somebody, which only shows when it is tried.
            await self._write_halves(folded)

    async def _write_halves(self, folded: Sequence[_Folded]) -> None:
        rows, middle = [each.row for each in folded], len(folded) // 2
        await self._write(rows[:middle])
        await self._write(rows[middle:])

    async def _refuse(self, one: _Folded, rejected: Rejected, *, is_again: bool) -> None:
        """Refuse the only update of the only row of a statement.

        A full row may be one that a transaction under way makes room in: it is tried once more
        when nobody holds it, and set aside while somebody does.
        """
        if is_again or rejected.reason != TOO_MANY_TAGS:
            self.refused.append(_refused(one.row, 0, rejected))
        elif any(await self._store.find_locked([one.change])):
            self.locked.append(one.row)
        else:
            await self._apply([one], is_again=True)

    async def _write_others(self, folded: Sequence[_Folded], rejected: Rejected) -> None:
        """Write what can be of several updates of which at least one is refused."""
        full = rejected.reason == TOO_MANY_TAGS
        question = self._target.asks_overfull if full else self._target.asks_unreadable
        refusals = await self._find_refused(folded, question)
        if any(refusals):
            await self._write_accepted(folded, refusals, question, ())
        # Otherwise it is of a kind that only shows when it is tried.
        elif len(folded) > 1:
            await self._write_halves(folded)
        else:
            # In order: the older half is completed, so taken out, before the younger is read.
            row = folded[0].row
            middle, left = len(row.updates) // 2, self._left_count
            await self._write([row.only(row.updates[:middle])])
            if self._left_count == left:
                younger = row.queue.updates[: len(row.updates) - middle]
                await self._write([row.only(younger)])

    @property
    def _left_count(self) -> int:
        return len(self.refused) + len(self.unreadable) + len(self.reused) + len(self.locked)

    async def _find_refused(
        self, folded: Sequence[_Folded], question: Question
    ) -> Sequence[Refusal | None]:
        """Say of each row which of its updates is the first that is refused, if it can be asked."""
        rows = self._target.pace.rows
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
        questions: Sequence[Question],
    ) -> None:
        """Write each row up to its first refused update; `questions` are still to be asked."""
        accepted: list[_Folded] = []
        before: list[Row] = []
        refused: list[RefusedUpdate] = []
        for each, refusal in zip(folded, refusals, strict=True):
            if refusal is None:
                accepted.append(each)
                continue
            its_before, its_refused = _cut(each.row, refusal)
            before += its_before
            refused.append(its_refused)
        await self._write_folded([*accepted, *await self._fold(before)], questions)
        if question.with_older:
            refused = await self._confirmed(refused, question)
        self.refused += refused

    async def _confirmed(
        self, refused: Sequence[RefusedUpdate], question: Question
    ) -> list[RefusedUpdate]:
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
        self.locked += [
            Row.of(each.work, each.queue, [each.update]) for each in compress(oldest, locked)
        ]
        return [
            each
            for each, is_locked, rejected in zip(oldest, locked, again, strict=True)
            if rejected is not None and not is_locked
        ]
