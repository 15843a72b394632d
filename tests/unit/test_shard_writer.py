import asyncio
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.breaker import Backoff, Breaker, BreakerState
from consumer.budget import BudgetBounds, ShardBudget
from consumer.dead_letter_guard import GuardBounds
from consumer.folding import RowChange
from consumer.observer import FlushObserver
from consumer.once import REUSED, KeyUse
from consumer.pace import Pace, PaceBounds
from consumer.partition_work import PartitionWork
from consumer.shard_writer import FlushBounds, ShardWriter
from consumer.store import Applied
from consumer.subscription_queue import Record
from shared.errors import Rejected, Transient
from shared.updates import Update
from tests.fake_store import NUL, FakeStore
from tests.records import APP, body_of, once_of, record_of, subscription, update_of
from tests.unit.strategies import updates
from verification.model import model_of

NO_PAUSE = Backoff(base_s=0.0, cap_s=0.0)
BOUNDS = FlushBounds(bytes=10**6, updates_per_row=100, saturation=NO_PAUSE)
GUARD = GuardBounds(share_max=0.1, window=100)

Tags = dict[str, Any]
ODD: Tags = {"odd": 1}
"""What an `OddStore` refuses."""
BAD: Tags = {"bad": NUL}
"""What each store refuses, and a writer suspects."""
NESTED: Tags = {"n": {"nested": 1}}
"""What no update may hold, so that it cannot be folded."""
FULL: Tags = {f"{n}": n for n in range(201)}
"""More tags than a row may have."""


class Graveyard:
    """Keeps dead letters where the topic would."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.reasons: dict[int, str] = {}

    async def send(self, record: Record, rejected: Rejected) -> None:
        self.offsets.append(record.offset)
        self.reasons[record.offset] = rejected.reason


class OddStore(FakeStore):
    """Also refuses what no other Postgres is known to refuse, so that nobody suspects it."""

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        if any("odd" in change.tags for change in changes):
            self.statements.append(list(changes))
            raise Rejected("Odd.", reason="refused", sqlstate="22000")
        return await super().apply(changes, first_uses)

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        odd = Rejected("Odd.", reason="refused", sqlstate="22000")
        judged = await super().find_unreadable(changes)
        return [
            odd if "odd" in change.tags else each
            for change, each in zip(changes, judged, strict=True)
        ]


either = pytest.mark.parametrize("bad", [ODD, BAD], ids=["not suspected", "suspected"])


class Shard:
    """A writer over a store in memory, with one partition's work."""

    def __init__(
        self,
        store: FakeStore | None = None,
        bounds: FlushBounds = BOUNDS,
        rows: int = 100,
        target_s: float | None = None,
    ) -> None:
        self.store = store or FakeStore()
        self.graveyard = Graveyard()
        loop = asyncio.get_running_loop()
        self.writer = ShardWriter(
            "shard-0",
            store=self.store,
            dead_letters=self.graveyard,
            breaker=Breaker(Backoff(base_s=0.001, cap_s=0.001), clock=loop.time),
            pace=Pace(PaceBounds(flushes_max=4, rows_min=1, rows_max=rows, target_s=target_s)),
            bounds=bounds,
            observer=FlushObserver(["shard-0"]),
        )
        self.work = self.assign()

    def assign(self) -> PartitionWork:
        return PartitionWork(
            0,
            shard=self.writer,
            budget=ShardBudget(BudgetBounds(10**6, 10**9, 10**6), asyncio.Event()),
            guard=GUARD,
            give_up=lambda *_: None,
            hold_back=lambda *_: None,
        )

    def receive(self, *sequence: Update, first: int = 0) -> None:
        self.work.receive([record_of(first + i, update) for i, update in enumerate(sequence)])

    @asynccontextmanager
    async def running(self, writers: int = 2) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.writer.run()) for _ in range(writers)]
        tasks.append(asyncio.create_task(self.writer.give_up_for_ever()))
        tasks.append(asyncio.create_task(self.writer.retry_locked_for_ever()))
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self) -> None:
        async with asyncio.timeout(10), self.running():
            await self.work.idle.wait()


async def test_what_waits_for_one_row_is_written_once() -> None:
    shard = Shard()
    shard.receive(*[update_of(0, tags={"n": n}, increment={"session_count": 1}) for n in range(9)])

    await shard.settle()

    assert shard.writer.counts.rows_written == 1
    assert shard.writer.counts.updates_applied == 9
    row = shard.store.rows[APP, subscription(0)]
    assert (row.tags, row.properties) == ({"n": 8}, {"session_count": 9})
    assert shard.work.committable == 9


async def test_a_flush_takes_at_most_its_bound_of_rows_and_a_fold_of_updates() -> None:
    shard = Shard(bounds=FlushBounds(10**6, 2, NO_PAUSE), rows=3)
    shard.receive(*[update_of(n % 5, tags={"n": n}) for n in range(20)])

    await shard.settle()

    assert max(len(statement) for statement in shard.store.statements) == 3
    assert all(
        change.last_offset - change.first_offset <= 5
        for statement in shard.store.statements
        for change in statement
    )
    assert shard.writer.counts.updates_applied == 20


async def test_a_flush_stops_growing_at_its_bytes() -> None:
    shard = Shard(bounds=FlushBounds(1_000, 100, NO_PAUSE))
    shard.receive(*[update_of(n, tags={"text": "x" * 600}) for n in range(6)])

    await shard.settle()

    assert max(len(statement) for statement in shard.store.statements) == 2


@pytest.mark.parametrize("locked", [False, True])
async def test_what_is_written_is_not_kept_until_the_next(locked: bool) -> None:
    shard = Shard()
    if locked:
        shard.store.locked.add((APP, subscription(0)))
    record = record_of(0, update_of(0))
    alive = weakref.ref(record)
    shard.work.receive([record])
    del record

    async with asyncio.timeout(10), shard.running():
        while locked and not shard.writer.locked:
            await asyncio.sleep(0)
        shard.store.locked.clear()
        await shard.work.idle.wait()
        for _ in range(10):
            await asyncio.sleep(0)
        kept = alive()

    assert kept is None


class GatedStore(FakeStore):
    """Holds every statement until it is let through, and notes rows written side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Semaphore(0)
        self.started = asyncio.Semaphore(0)
        self.being_written: set[str] = set()

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        rows = {change.subscription_id for change in changes}
        assert not rows & self.being_written
        self.being_written |= rows
        self.started.release()
        await self.gate.acquire()
        self.being_written -= rows
        return await super().apply(changes, first_uses)


async def test_two_writes_to_one_subscription_never_run_at_once() -> None:
    store = GatedStore()
    shard = Shard(store)
    async with asyncio.timeout(10), shard.running(writers=4):
        shard.receive(update_of(0, tags={"n": 0}))
        await store.started.acquire()

        shard.receive(update_of(0, tags={"n": 1}), update_of(1), first=1)
        await store.started.acquire()
        writing_meanwhile = set(store.being_written)
        for _ in range(3):
            store.gate.release()
        await shard.work.idle.wait()

    assert writing_meanwhile == {subscription(0), subscription(1)}
    assert store.rows[APP, subscription(0)].tags == {"n": 1}


async def test_nothing_is_completed_before_the_statement_has_succeeded() -> None:
    store = GatedStore()
    shard = Shard(store)
    async with asyncio.timeout(10), shard.running():
        shard.receive(update_of(0))
        await store.started.acquire()
        during = shard.work.committable
        store.gate.release()
        await shard.work.idle.wait()

    assert (during, shard.work.committable) == (0, 1)


async def test_a_shard_that_fails_is_retried_and_loses_nothing() -> None:
    store = FakeStore(outage=Transient("down"))
    shard = Shard(store)
    shard.receive(*[update_of(n, increment={"session_count": 1}) for n in range(10)])
    async with asyncio.timeout(10), shard.running():
        while len(store.statements) < 3:
            await asyncio.sleep(0)
        state, committable = shard.writer.breaker.state, shard.work.committable
        store.outage = None
        await shard.work.idle.wait()

    assert state is not BreakerState.CLOSED
    assert committable == 0
    assert all(row.properties == {"session_count": 1} for row in store.rows.values())
    assert len(store.rows) == 10


def rows_of(statement: Sequence[RowChange]) -> list[str]:
    return [change.subscription_id for change in statement]


async def test_after_an_outage_the_oldest_are_written_first() -> None:
    store = FakeStore(outage=Transient("connection refused", any_input=True))
    shard = Shard(store, rows=2)
    shard.receive(*[update_of(n) for n in range(6)])
    async with asyncio.timeout(10), shard.running(writers=1):
        while len(store.statements) < 3:
            await asyncio.sleep(0)
        store.statements.clear()
        store.outage = None
        await shard.work.idle.wait()

    written = [row for statement in store.statements for row in rows_of(statement)]
    assert written == [subscription(n) for n in range(6)]


class TimeOutStore(FakeStore):
    """Runs into its time-out with every statement that has the first row."""

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        if subscription(0) in rows_of(changes):
            raise Transient("57014")
        return await super().apply(changes, first_uses)


async def test_a_flush_that_may_fail_for_its_rows_leaves_the_others_their_turn() -> None:
    shard = Shard(TimeOutStore(), rows=2)
    shard.receive(*[update_of(n) for n in range(6)])
    async with asyncio.timeout(10), shard.running(writers=1):
        while len(shard.store.rows) < 4:
            await asyncio.sleep(0)

    assert (APP, subscription(0)) not in shard.store.rows


@pytest.mark.parametrize("holds", ["locked", "inserting"])
async def test_a_row_that_others_hold_waits_alone(holds: str) -> None:
    store = FakeStore()
    held = getattr(store, holds)
    held.add((APP, subscription(3)))
    shard = Shard(store, rows=8)
    shard.receive(*[update_of(n, tags={"n": 1}) for n in range(8)])
    async with asyncio.timeout(10), shard.running():
        while len(store.rows) < 7 or len(store.statements) < 12:
            await asyncio.sleep(0)
        shard.receive(update_of(3, tags={"n": 2}), first=8)
        tried_again = [rows_of(statement) for statement in store.statements[-3:]]
        state, committable = shard.writer.breaker.state, shard.work.committable
        held.clear()
        await shard.work.idle.wait()

    assert tried_again == [[subscription(3)]] * 3
    assert (state, committable) == (BreakerState.CLOSED, 3)
    assert store.rows[APP, subscription(3)].tags == {"n": 2}
    assert shard.writer.counts.flushes_failed == 0
    assert shard.graveyard.offsets == []


async def test_the_pause_grows_only_while_every_row_is_held() -> None:
    pauses: list[int] = []

    class Noted(Backoff):
        def wait_s(self, failures: int, jitter: float) -> float:
            pauses.append(failures)
            return 0

    store = FakeStore(locked={(APP, subscription(n)) for n in range(2)})
    shard = Shard(store, FlushBounds(10**6, 100, saturation=Noted(base_s=0, cap_s=0)))
    shard.receive(*[update_of(n) for n in range(2)])
    async with asyncio.timeout(10), shard.running():
        while len(pauses) < 3:
            await asyncio.sleep(0)
        store.locked.remove((APP, subscription(1)))
        while not store.rows:
            await asyncio.sleep(0)
        held_for = max(pauses)
        while len(pauses) < held_for + 2:
            await asyncio.sleep(0)

    assert pauses[: held_for + 2] == [*range(1, held_for + 1), 1, 2]


async def test_a_table_that_others_hold_opens_the_breaker() -> None:
    store = FakeStore(outage=Transient("Somebody else holds a lock.", locked=True))
    shard = Shard(store)
    shard.receive(*[update_of(n) for n in range(4)])
    async with asyncio.timeout(10), shard.running():
        while len(store.statements) < 3:
            await asyncio.sleep(0)
        state, locked = shard.writer.breaker.state, shard.writer.locked
        tried = len(store.statements)
        store.outage = None
        await shard.work.idle.wait()

    assert state is not BreakerState.CLOSED
    assert locked == 0
    assert len(store.statements) == tried + 1


@either
async def test_poison_in_a_row_that_others_hold_is_given_up_in_its_turn(bad: Tags) -> None:
    store = OddStore(locked={(APP, subscription(0))})
    shard = Shard(store)
    shard.receive(*[update_of(0, tags=tags) for tags in ({"n": 1}, {}, bad, {"n": 3})])
    async with asyncio.timeout(10), shard.running():
        while len(store.statements) < 20:
            await asyncio.sleep(0)
        store.locked.clear()
        await shard.work.idle.wait()

    assert all(rows_of(statement) == [subscription(0)] for statement in store.statements)
    assert shard.graveyard.offsets == [2]
    assert store.rows[APP, subscription(0)].tags == {"n": 3}


async def test_saturation_is_no_failure() -> None:
    store = FakeStore(outage=Transient("busy", saturation=True))
    shard = Shard(store)
    shard.receive(update_of(0))
    async with asyncio.timeout(10), shard.running():
        while len(store.statements) < 5:
            await asyncio.sleep(0)
        state = shard.writer.breaker.state
        store.outage = None
        await shard.work.idle.wait()

    assert state is BreakerState.CLOSED
    assert shard.writer.counts.flushes_failed == 0


@either
async def test_the_one_poisoned_update_is_found_and_holds_up_nobody(bad: Tags) -> None:
    shard = Shard(OddStore())
    good = [update_of(n % 10, increment_tags={"n": 1}) for n in range(64)]
    poisoned = [*good[:23], update_of(3, tags=bad), *good[23:]]
    shard.receive(*poisoned)

    await shard.settle()

    assert shard.graveyard.offsets == [23]
    assert shard.work.committable == 65
    for number in range(10):
        expected = model_of(
            body_of(update) for update in good if update.subscription_id == subscription(number)
        )
        assert shard.store.rows[APP, subscription(number)].tags == expected.tags


class HalfBusyStore(OddStore):
    """Is busy for every statement that has the last row and not the first."""

    busy: int = 0

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        rows = {change.subscription_id for change in changes}
        if self.busy and subscription(3) in rows and subscription(0) not in rows:
            self.busy -= 1
            raise Transient("busy", saturation=True)
        return await super().apply(changes, first_uses)


async def test_a_poisoned_update_counts_once_however_often_its_flush_fails() -> None:
    """A good partition must not be stopped for one of its updates."""
    store = HalfBusyStore()
    store.busy = 20
    shard = Shard(store, rows=4)
    shard.receive(update_of(0, tags=ODD), *[update_of(n) for n in (1, 2, 3)])

    await shard.settle()

    assert not shard.work.stopped
    assert shard.graveyard.offsets == [0]
    assert shard.work.committable == 4


@pytest.mark.parametrize(
    ("bad", "judged", "written"),
    [(ODD, [64, 3 * 7, 2], [64, 63, 2]), (BAD, [3], [63, 2])],
    ids=["not suspected", "suspected"],
)
async def test_many_poisoned_updates_of_a_flush_take_no_more_statements_than_one(
    bad: Tags, judged: list[int], written: list[int]
) -> None:
    shard = Shard(OddStore(), rows=64)
    poisoned = {8 * 41 + 5, 8 * 50, 8 * 63 + 7}
    shard.receive(
        *[
            update_of(n // 8, increment={"n": 1}, tags=bad if n in poisoned else {})
            for n in range(8 * 64)
        ]
    )

    await shard.settle()

    assert set(shard.graveyard.offsets) == poisoned
    assert [len(changes) for changes in shard.store.judged] == judged
    assert [len(changes) for changes in shard.store.statements] == written
    counted = [shard.store.rows[APP, subscription(n)].properties["n"] for n in range(64)]
    assert counted == [7 if n in {41, 50, 63} else 8 for n in range(64)]


@pytest.mark.parametrize(
    ("bad", "in_vain", "judged"),
    [(ODD, 1, [4] * 10 + [100] * 2), (BAD, 0, [1] * 5)],
    ids=["not suspected", "suspected"],
)
async def test_where_updates_are_refused_lately_no_statement_is_tried_in_vain(
    bad: Tags, in_vain: int, judged: list[int]
) -> None:
    shard = Shard(OddStore(), rows=100)
    for first in range(0, 40, 4):
        one = update_of(1, tags=bad if first % 8 == 0 else {})
        shard.receive(update_of(0), one, update_of(2), update_of(3), first=first)
        await shard.settle()
    refused = len(shard.store.statements)
    for first in range(40, 1040, 100):
        shard.receive(*[update_of(n) for n in range(100)], first=first)
        await shard.settle()

    assert refused == in_vain + 10
    assert [len(changes) for changes in shard.store.judged] == judged
    assert len(shard.store.statements) == refused + 10


async def test_what_is_suspected_and_what_is_not_are_found_side_by_side() -> None:
    shard = Shard(OddStore())
    for first in range(0, 40, 10):
        bad = [update_of(1, tags=BAD), update_of(2, tags=ODD)]
        shard.receive(update_of(0), *bad, *[update_of(n) for n in range(3, 10)], first=first)
        await shard.settle()

    assert sorted(shard.graveyard.offsets) == [1, 2, 11, 12, 21, 22, 31, 32]
    assert [len(changes) for changes in shard.store.judged] == [1, 9] * 4
    assert [len(changes) for changes in shard.store.statements] == [9, *[8] * 4]


async def test_what_only_looks_like_a_nul_is_not_asked_about() -> None:
    shard = Shard()
    lookalike = {"path": "\\u0000"}
    shard.receive(
        *[update_of(0, tags=lookalike | {"n": n}) for n in range(20)],
        update_of(0, tags={"path": "\\\0"}),
        update_of(1, tags=NESTED),
        update_of(1, tags=BAD),
        update_of(2, tags=lookalike),
    )

    await shard.settle()

    assert shard.graveyard.reasons == {20: "refused", 21: "undecodable", 22: "refused"}
    assert [len(changes) for changes in shard.store.judged] == [2, 1]
    assert shard.store.rows[APP, subscription(0)].tags == lookalike | {"n": 19}
    assert shard.store.rows[APP, subscription(2)].tags == lookalike


@pytest.mark.parametrize("together", [False, True])
async def test_a_nul_is_refused_whatever_it_is_folded_with(*, together: bool) -> None:
    """Else a replay, which folds otherwise, would give up on what has been applied."""
    shard = Shard()
    sequence = [
        update_of(0, tags=BAD, increment={"session_count": 1}),
        update_of(0, tags={"n": 1}),
        update_of(0, tags={"bad": 1}),
    ]
    for first, each in enumerate(sequence):
        shard.receive(each, first=first)
        if not together:
            await shard.settle()
    await shard.settle()

    assert shard.graveyard.offsets == [0]
    row = shard.store.rows[APP, subscription(0)]
    assert (row.tags, row.properties) == ({"n": 1, "bad": 1}, {})


async def test_a_key_decides_before_a_nul_does() -> None:
    shard = Shard()
    shard.receive(
        update_of(0, increment={"session_count": 1}, once=once_of(1)),
        update_of(0, tags=BAD, once=once_of(1)),  # the same again, as its caller says
        update_of(0, tags=BAD, once=once_of(1, body=2)),
        update_of(0, tags={"n": 1}),
        update_of(0, tags=BAD, once=once_of(2)),
    )

    await shard.settle()

    assert shard.graveyard.reasons == {2: REUSED, 4: "refused"}
    row = shard.store.rows[APP, subscription(0)]
    assert (row.tags, row.properties) == ({"n": 1}, {"session_count": 1})


class LateFailureStore(FakeStore):
    """Fails once, when most of a flush has been written."""

    has_failed: bool = False

    async def find_locked(self, changes: Sequence[RowChange]) -> Sequence[bool]:
        if not self.has_failed:
            self.has_failed = True
            raise Transient("It is gone.")
        return await super().find_locked(changes)


async def test_what_a_nul_is_found_in_counts_with_what_was_written_before_a_failure() -> None:
    store = LateFailureStore()
    shard = Shard(store, rows=1_000)
    shard.receive(
        *[update_of(n, tags=BAD if n % 20 == 7 else FULL if n == 0 else {}) for n in range(1_000)]
    )

    await shard.settle()

    assert store.has_failed
    assert not shard.work.stopped
    assert sorted(shard.graveyard.offsets) == [0, *range(7, 1_000, 20)]


async def test_a_row_full_of_nuls_is_asked_about_a_few_updates_at_a_time() -> None:
    """Else each of them would be asked about again for each one before it."""
    shard = Shard(rows=1_000)
    shard.receive(*[update_of(0, tags=BAD)] * 10, update_of(0, tags={"n": 0}))

    await shard.settle()

    assert shard.graveyard.offsets == list(range(10))
    assert [len(changes) for changes in shard.store.judged] == [8, 8, 8, 7, 6, 5, 4, 3, 2, 1]
    assert shard.store.rows[APP, subscription(0)].tags == {"n": 0}


class AskedForFewStore(FakeStore):
    """Refuses a question about more than two changes."""

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        if len(changes) > 2:
            raise Rejected("It is too long.", reason="refused")
        return await super().find_unreadable(changes)


async def test_what_a_question_finds_while_others_are_refused_is_given_up_once() -> None:
    shard = Shard(AskedForFewStore())
    shard.receive(*[update_of(0, tags=tags) for tags in (BAD, {"n": 1}, BAD, BAD)])

    await shard.settle()

    assert shard.graveyard.offsets == [0, 2, 3]
    assert shard.store.rows[APP, subscription(0)].tags == {"n": 1}
    assert shard.work.committable == 4


class GatedQuestionsStore(FakeStore):
    """Holds questions until they are let through."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.written_before: list[int] = []
        """How many statements before each question."""

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        self.written_before.append(len(self.statements))
        await self.gate.wait()
        return await super().find_unreadable(changes)


async def test_a_row_that_a_nul_comes_for_while_others_are_asked_about_is_written() -> None:
    store = GatedQuestionsStore()
    shard = Shard(store)
    async with asyncio.timeout(10), shard.running(1):
        shard.receive(update_of(0, tags=BAD), update_of(1, tags={"n": 1}))
        while not store.written_before:
            await asyncio.sleep(0)
        shard.receive(update_of(1, tags=BAD), first=2)
        store.gate.set()
        await shard.work.idle.wait()

    assert store.written_before == [0, 1]
    assert store.rows[APP, subscription(1)].tags == {"n": 1}
    assert sorted(shard.graveyard.offsets) == [0, 2]


async def test_a_row_is_filled_up_to_its_last_tag() -> None:
    shard = Shard()
    shard.receive(*[update_of(0, tags={f"{n}": n}) for n in range(204)], update_of(1))

    await shard.settle()

    assert shard.graveyard.offsets == [200, 201, 202, 203]
    assert len(shard.store.rows[APP, subscription(0)].tags) == 200
    assert shard.work.committable == 205


class TellingNothingStore(FakeStore):
    """Refuses for reasons that only show when it is tried."""

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[None]:
        return [None for _ in changes]


async def test_what_no_update_may_hold_is_given_up_in_its_turn() -> None:
    shard = Shard()
    good = [update_of(n % 3, tags={"n": n}) for n in range(30)]
    nested = msgspec.structs.replace(good[13], tags=NESTED)
    shard.receive(*good[:13], nested, *good[14:])

    await shard.settle()

    assert shard.graveyard.reasons == {13: "undecodable"}
    assert [shard.store.rows[APP, subscription(n)].tags["n"] for n in range(3)] == [27, 28, 29]
    assert shard.writer.counts.updates_applied == 29
    assert shard.work.committable == 30


@pytest.mark.parametrize("saturation", [False, True])
async def test_what_no_update_may_hold_counts_with_what_is_written_beside_it(
    saturation: bool,
) -> None:
    shard = Shard()
    shard.store.outage = Transient("It does not.", saturation=saturation)
    shard.receive(*[update_of(n, tags={"n": n} if n % 50 else NESTED) for n in range(1_000)])

    async with asyncio.timeout(10), shard.running():
        while len(shard.store.statements) < 30:
            await asyncio.sleep(0)
        assert shard.graveyard.offsets == []
        shard.store.outage = None
        await shard.work.idle.wait()

    assert not shard.work.stopped
    assert sorted(shard.graveyard.offsets) == list(range(0, 1_000, 50))
    assert len(shard.store.rows) == 980


class FullDiskStore(FakeStore):
    """Answers questions, and takes no write while its disk is full."""

    disk_is_full: bool = False

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        rows = {(each.app_id, each.subscription_id) for each in changes}
        if self.disk_is_full and not rows & self.locked:
            raise Transient("Its disk is full.")
        return await super().apply(changes, first_uses)


@pytest.mark.parametrize("bad", [NESTED, BAD, FULL])
async def test_a_flush_that_writes_nothing_says_nothing_about_its_shard(
    monkeypatch: pytest.MonkeyPatch, bad: Tags
) -> None:
    store = FullDiskStore()
    shard = Shard(store, rows=2)
    full_at_success: list[bool] = []
    succeeded = shard.writer.breaker.succeeded

    def note() -> None:
        full_at_success.append(store.disk_is_full)
        succeeded()

    monkeypatch.setattr(shard.writer.breaker, "succeeded", note)
    shard.receive(update_of(0), update_of(1, tags=bad))  # so that it is asked for from now on
    await shard.settle()
    store.disk_is_full = True
    store.locked.add((APP, subscription(6)))
    refused = [update_of(n, tags=bad) for n in (3, 4, 5)]
    shard.receive(update_of(2, tags={"n": 2}), *refused, update_of(6), first=2)

    async with asyncio.timeout(10), shard.running(1):
        while not {4, 5} <= set(shard.graveyard.offsets) or not shard.writer.locked:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)  # several tries of the row that is held
        store.disk_is_full = False
        store.locked.clear()
        await shard.work.idle.wait()

    assert set(full_at_success) == {False}
    assert shard.graveyard.offsets == [1, 4, 5, 3]
    assert store.rows[APP, subscription(2)].tags == {"n": 2}


class SlowProbeStore(GatedQuestionsStore):
    """Fails once; what is written next waits, as questions do."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = 0
        self.probe = asyncio.Event()

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        self.writes += 1
        if self.writes == 1:
            raise Transient("It is down.")
        await self.probe.wait()
        return await super().apply(changes, first_uses)


async def test_a_flush_from_before_a_failure_does_not_end_a_probe() -> None:
    store = SlowProbeStore()
    shard = Shard(store)
    async with asyncio.timeout(10), shard.running():
        shard.receive(update_of(0, tags=BAD))
        while not store.written_before:
            await asyncio.sleep(0)
        shard.receive(update_of(1), first=1)
        while store.writes < 2:
            await asyncio.sleep(0)
        store.gate.set()
        while shard.graveyard.offsets != [0]:
            await asyncio.sleep(0)
        state = shard.writer.breaker.state
        store.probe.set()
        await shard.work.idle.wait()

    assert state is BreakerState.HALF_OPEN


async def test_what_cannot_be_told_beforehand_is_found_by_halves() -> None:
    shard = Shard(TellingNothingStore(), rows=64)
    updates = [update_of(n, tags=BAD if n == 41 else {}) for n in range(64)]
    shard.receive(*updates, *[update_of(41)] * 3)

    await shard.settle()

    assert shard.graveyard.offsets == [41]
    assert len(shard.store.statements) == 1 + 2 * 6 + 2 + 1
    assert shard.store.rows[APP, subscription(41)].offset == 66


class UnaskableStore(FakeStore):
    """Refuses the question as well, as a server does that cannot encode what it is asked about."""

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[None]:
        raise Rejected("Postgres refuses the data.", reason="refused", sqlstate="22P05")


async def test_where_the_question_is_refused_it_is_found_by_halves() -> None:
    shard = Shard(UnaskableStore())
    shard.receive(*[update_of(n % 4, tags=BAD if n == 5 else {}) for n in range(12)])

    await shard.settle()

    assert shard.graveyard.offsets == [5]
    assert shard.work.committable == 12


class BusyWhenAskedStore(OddStore):
    """Is too busy for each question at first."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[int] = Counter()

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        self.asked[len(changes)] += 1
        if self.asked[len(changes)] == 1:
            raise Transient("busy", saturation=True)
        return await super().find_unreadable(changes)


@pytest.mark.parametrize(
    ("bad", "questions"), [(ODD, 3), (BAD, 1)], ids=["not suspected", "suspected"]
)
async def test_a_shard_that_is_too_busy_for_a_question_is_asked_again(
    bad: Tags, questions: int
) -> None:
    store = BusyWhenAskedStore()
    shard = Shard(store)
    shard.receive(
        *[update_of(n % 4, increment={"n": 1}, tags=bad if n == 5 else {}) for n in range(12)]
    )

    await shard.settle()

    assert len(store.asked) == questions
    assert min(store.asked.values()) >= 2
    assert shard.graveyard.offsets == [5]
    assert [row.properties["n"] for row in shard.store.rows.values()] == [3, 3, 3, 2]


@either
async def test_two_reasons_at_once_are_told_apart(bad: Tags) -> None:
    shard = Shard(OddStore())
    full = {f"{n}": n for n in range(200)}
    shard.receive(*[update_of(n, tags=full) for n in range(4)])
    await shard.settle()
    more = {"one_more": 1}
    for first in (4, 14):
        shard.receive(
            update_of(0, tags={"0": 1}),
            update_of(0, tags=bad),
            update_of(0, tags=more),
            update_of(0, tags={"0": 2}),
            update_of(1, tags=more),
            update_of(2, tags=bad),
            update_of(2, tags={"0": 3}),
            update_of(3, tags=more | bad),
            update_of(3, tags={"0": 4}),
            update_of(4, tags={"0": 5}),
            first=first,
        )
        await shard.settle()

    reasons = {1: "refused", 2: "too_many_tags", 4: "too_many_tags", 5: "refused", 7: "refused"}
    assert shard.graveyard.reasons == {
        first + n: reason for first in (4, 14) for n, reason in reasons.items()
    }
    assert len(shard.graveyard.offsets) == 10
    found = [shard.store.rows[APP, subscription(n)].tags for n in range(5)]
    assert [tags["0"] for tags in found] == [2, 0, 3, 4, 5]
    assert shard.work.committable == 24


async def test_what_waited_behind_a_dead_letter_is_written_when_a_flush_has_ended() -> None:
    store = GatedStore()
    shard = Shard(store)
    async with asyncio.timeout(10), shard.running():
        shard.receive(update_of(0, tags=BAD), update_of(0, tags={"n": 1}), update_of(1))
        await store.started.acquire()
        shard.receive(update_of(2), first=3)
        await store.started.acquire()
        store.gate.release()  # without what is refused
        while shard.graveyard.offsets != [0]:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        written_meanwhile = set(store.being_written)
        for _ in range(2):
            store.gate.release()
        await shard.work.idle.wait()

    assert written_meanwhile == {subscription(2)}
    assert store.rows[APP, subscription(0)].tags == {"n": 1}


@either
async def test_a_fold_that_is_cut_keeps_the_keys_of_what_is_written(bad: Tags) -> None:
    shard = Shard(OddStore())
    one = update_of(0, increment={"session_count": 1}, once=once_of(1))
    last = update_of(0, increment={"session_count": 10}, once=once_of(2))
    shard.receive(one, update_of(0, tags=bad, once=once_of(2)), one, last, one)

    await shard.settle()

    assert shard.graveyard.offsets == [1]
    assert shard.store.rows[APP, subscription(0)].properties == {"session_count": 11}
    assert {use.offset for _, use in shard.store.uses.values()} == {0, 3}


class PausingStore(OddStore):
    """Lets others have their turn, so that flushes run side by side; is too busy for one write."""

    busy: bool = False

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        await asyncio.sleep(0)
        if self.busy and self.judged:
            self.busy = False
            raise Transient("busy", saturation=True)
        return await super().apply(changes, first_uses)

    async def find_unreadable(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        await asyncio.sleep(0)
        return await super().find_unreadable(changes)

    async def find_overfull(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        await asyncio.sleep(0)
        return await super().find_overfull(changes)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize(
    ("bad", "fold", "rows"),
    [
        (ODD, 1, 1_000),
        (ODD, 5, 400),
        (BAD, 1, 950),
        (BAD, 5, 400),
        (NESTED, 1, 950),
        (NESTED, 5, 400),
    ],
)
async def test_a_few_of_a_hundred_refused_in_one_flush_do_not_stop_their_partition(
    *, busy: bool, bad: Tags, fold: int, rows: int
) -> None:
    """They are judged together, and so is their share, also of two reasons and two flushes."""
    store = PausingStore()
    store.busy = busy
    shard = Shard(store, rows=1_000)
    tags = [bad if n % 20 == 7 else FULL if n % 100 == 11 else {} for n in range(2_000)]
    shard.receive(*[update_of(n // fold, tags=each) for n, each in enumerate(tags)])

    await shard.settle()

    assert not shard.work.stopped
    assert len(store.statements[0]) == rows
    assert sorted(shard.graveyard.offsets) == [n for n, each in enumerate(tags) if each]


@dataclass
class ChangingStore(FakeStore):
    """Full rows are changed by others once a statement was refused, or a question answered so."""

    others: Callable[[], None] = lambda: None
    after: str = "statement"

    async def apply(
        self, changes: Sequence[RowChange], first_uses: Sequence[KeyUse] = ()
    ) -> Applied:
        try:
            return await super().apply(changes, first_uses)
        except Rejected:
            if self.after == "statement":
                self.others()
            raise

    async def find_overfull(self, changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        judged = await super().find_overfull(changes)
        if any(judged):
            self.others()
        return judged


@pytest.mark.parametrize(("beside", "after"), [(0, "statement"), (1, "question")])
@pytest.mark.parametrize("hold", [False, True])
async def test_a_full_row_that_others_are_changing_is_not_taken_for_full(
    *, hold: bool, beside: int, after: str
) -> None:
    store = ChangingStore(after=after)
    shard = Shard(store)
    shard.receive(update_of(0, tags={f"{n}": n for n in range(200)}))
    await shard.settle()
    row = store.rows[APP, subscription(0)]
    store.others = partial(store.locked.add, (APP, subscription(0))) if hold else row.tags.clear
    good = [update_of(1, tags={"n": 1})] * beside
    shard.receive(update_of(0, tags={"one_more": 1}), *good, first=1)
    async with asyncio.timeout(10), shard.running():
        while len(store.statements) < 3 or len(store.rows) <= beside:
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
        if hold:
            row.tags.clear()
            store.others = store.locked.clear
            store.locked.clear()
        await shard.work.idle.wait()

    assert shard.graveyard.offsets == []
    assert store.rows[APP, subscription(0)].tags == {"one_more": 1}


@either
async def test_what_is_before_a_poisoned_update_is_written_before_that_is_given_up(
    bad: Tags,
) -> None:
    """While its row is held by others, nothing of it can be."""
    store = OddStore(locked={(APP, subscription(0))})
    shard = Shard(store)
    shard.receive(update_of(0, tags={"n": 1}), update_of(0, tags=bad), update_of(1))
    async with asyncio.timeout(10), shard.running():
        while len(store.statements) < 10:
            await asyncio.sleep(0)
        given_up = list(shard.graveyard.offsets)
        store.locked.clear()
        await shard.work.idle.wait()

    assert given_up == []
    assert shard.graveyard.offsets == [1]
    assert store.rows[APP, subscription(0)].offset == 0


@given(st.lists(updates, min_size=1, max_size=12), st.data())
def test_a_replay_from_any_offset_changes_nothing(
    sequence: list[Update], data: st.DataObject
) -> None:
    """A crash after the write and before the commit: everything above the commit comes again."""
    applied = data.draw(st.integers(0, len(sequence)))
    committed = data.draw(st.integers(0, applied))

    async def scenario() -> FakeStore:
        store = FakeStore()
        if applied:
            first = Shard(store)
            first.receive(*sequence[:applied])
            await first.settle()
        again = Shard(store)
        again.receive(*sequence[committed:], first=committed)
        await again.settle()
        assert again.work.committable == (len(sequence) if committed < len(sequence) else None)
        assert again.writer.counts.updates_replayed == applied - committed
        assert again.writer.counts.updates_applied == len(sequence) - applied
        return store

    row = asyncio.run(scenario()).rows[APP, subscription(0)]

    expected = model_of(body_of(update) for update in sequence)
    assert (row.tags, row.properties) == (expected.tags, expected.properties)


async def test_a_missing_row_is_ignored_where_none_is_to_be_created() -> None:
    shard = Shard(FakeStore(create_missing=False))
    shard.receive(update_of(0), update_of(1))

    await shard.settle()

    assert shard.writer.counts.updates_ignored == 2
    assert shard.work.committable == 2
    assert not shard.store.rows


async def test_rows_of_a_lost_partition_are_not_written() -> None:
    shard = Shard()
    shard.receive(update_of(0))
    shard.work.lose()
    other = shard.assign()
    other.receive([record_of(7, update_of(1))])

    async with asyncio.timeout(10), shard.running():
        await other.idle.wait()

    assert set(shard.store.rows) == {(APP, subscription(1))}


@pytest.mark.parametrize("under_way", [False, True])
async def test_an_outage_is_forgotten_where_its_partitions_went_to_another(
    *, under_way: bool
) -> None:
    store = GatedStore()
    store.outage = Transient("down")
    shard = Shard(store)
    async with asyncio.timeout(10), shard.running(writers=1):
        shard.receive(update_of(0))
        await store.started.acquire()
        store.gate.release()
        await store.started.acquire()
        failed_before = shard.writer.failing is not None
        if not under_way:
            store.gate.release()
            while shard.writer.flushes_in_flight:
                await asyncio.sleep(0)
        shard.work.lose()
        store.gate.release()
        while shard.writer.failing is not None:
            await asyncio.sleep(0)

    assert failed_before
    assert shard.writer.breaker.state is BreakerState.CLOSED


async def test_an_aborted_statement_frees_its_writer() -> None:
    store = GatedStore()
    shard = Shard(store)
    async with asyncio.timeout(10), shard.running(writers=1):
        shard.receive(update_of(0))
        await store.started.acquire()
        shard.work.lose()

        shard.writer.abort()

        store.being_written.clear()
        successor = shard.assign()
        successor.receive([record_of(0, update_of(0))])
        store.gate.release()
        await successor.idle.wait()

    assert store.rows[APP, subscription(0)].offset == 0


@either
async def test_a_partition_of_nothing_but_poison_is_stopped_and_others_go_on(bad: Tags) -> None:
    shard = Shard(OddStore())
    shard.receive(*[update_of(n, tags=bad) for n in range(50)])
    other = shard.assign()
    other.receive([record_of(7, update_of(99))])

    async with asyncio.timeout(10), shard.running():
        await other.idle.wait()
        while not shard.work.stopped:
            await asyncio.sleep(0)

        while len(shard.graveyard.offsets) < 10:
            await asyncio.sleep(0)

    assert len(shard.graveyard.offsets) == 10
    assert shard.work.committable is not None
    assert shard.work.committable <= 10


async def test_a_slow_shard_is_given_one_statement_at_a_time() -> None:
    store = GatedStore()
    shard = Shard(store, rows=1, target_s=0.001)
    for _ in range(10):
        shard.writer.pace.note_failure()
    async with asyncio.timeout(10), shard.running(writers=4):
        shard.receive(*[update_of(n) for n in range(5)])
        await store.started.acquire()
        for _ in range(100):
            await asyncio.sleep(0)
        side_by_side = len(store.being_written)
        for _ in range(5):
            store.gate.release()
        await shard.work.idle.wait()

    assert side_by_side == 1


async def test_a_dead_letter_that_is_not_taken_holds_up_its_own_subscription_only() -> None:
    """A newer update must not be written before it: the row would say that it was applied."""
    shard = Shard()
    taken = asyncio.Event()

    async def send(record: Record, rejected: Rejected) -> None:
        await taken.wait()

    shard.graveyard.send = send  # type: ignore[method-assign]
    shard.receive(update_of(0, tags=BAD), update_of(0, tags={"n": 1}), update_of(1))
    async with asyncio.timeout(10), shard.running(writers=1):
        while (APP, subscription(1)) not in shard.store.rows:
            await asyncio.sleep(0)
        before = dict(shard.store.rows)
        committable = shard.work.committable
        taken.set()
        await shard.work.idle.wait()

    assert (APP, subscription(0)) not in before
    assert committable == 0
    assert shard.store.rows[APP, subscription(0)].tags == {"n": 1}


async def test_an_abort_during_a_pause_ends_the_pause() -> None:
    store = FakeStore(outage=Transient("busy", saturation=True))
    slow = FlushBounds(10**6, 100, saturation=Backoff(base_s=3_600, cap_s=3_600))
    shard = Shard(store, slow)
    shard.receive(update_of(0))
    async with asyncio.timeout(10), shard.running(writers=1):
        while not store.statements:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        store.outage = None

        shard.writer.abort()

        await shard.work.idle.wait()


async def test_what_comes_again_under_its_key_counts_once_in_one_fold_and_in_two() -> None:
    one = update_of(0, increment={"session_count": 1}, once=once_of(1))
    shard = Shard()
    shard.receive(one, update_of(0, increment={"session_count": 10}), one)
    await shard.settle()

    shard.receive(one, update_of(0, increment={"session_count": 100}), first=3)
    await shard.settle()

    assert shard.store.rows[APP, subscription(0)].properties == {"session_count": 111}
    assert len(shard.store.statements) == 2
    assert (shard.work.committable, shard.graveyard.offsets) == (5, [])


async def test_a_reused_key_is_given_up_in_its_turn_and_never_stops_its_partition() -> None:
    count = 300
    shard = Shard()
    shard.receive(
        *[
            update_of(0, increment={"session_count": 1}, once=once_of(1, body))
            for body in range(count)
        ],
        update_of(0, tags={"last": True}),
        update_of(1, tags={"n": 1}),
    )

    await shard.settle()

    row = shard.store.rows[APP, subscription(0)]
    assert (row.tags, row.properties) == ({"last": True}, {"session_count": 1})
    assert shard.graveyard.offsets == list(range(1, count))
    assert not shard.work.stopped


@either
async def test_an_update_that_is_refused_uses_up_no_key(bad: Tags) -> None:
    shard = Shard(OddStore())
    shard.receive(
        update_of(0, tags=bad, once=once_of(1)),
        *[update_of(n, tags={"n": n}, once=once_of(2)) for n in (1, 2, 1)],
    )

    await shard.settle()

    assert shard.graveyard.offsets == [0]
    assert {(use.subscription_id, use.offset) for _, use in shard.store.uses.values()} == {
        (subscription(1), 1),
        (subscription(2), 2),
    }


async def test_a_repetition_is_given_up_on_where_its_row_takes_nothing_any_more() -> None:
    shard = Shard()
    again = update_of(0, tags={"n": 1}, once=once_of(1))
    shard.receive(again)
    await shard.settle()
    shard.store.rows[APP, subscription(0)].tags.update({f"t{n}": n for n in range(201)})

    shard.receive(again, update_of(1, tags={"n": 1}), first=1)
    await shard.settle()

    assert shard.graveyard.offsets == [1]
    assert shard.store.rows[APP, subscription(1)].tags == {"n": 1}
