import asyncio
import tracemalloc
import weakref
from collections.abc import Sequence

import pytest
from msgspec.structs import replace

from consumer.budget import BudgetBounds, ShardBudget
from consumer.dead_letter_guard import GuardBounds
from consumer.partition_work import PartitionWork, Row
from consumer.subscription_queue import QueueState, Record, SubscriptionQueue
from shared.errors import Rejected
from shared.holds import HoldKey, HoldState, HoldView
from tests.records import APP, StubRecord, once_of, pending_of, record_of, subscription, update_of


class Ready:
    """Stands where a shard's writer would."""

    def __init__(self) -> None:
        self.queues: list[SubscriptionQueue] = []
        self.is_idle = False

    def add_ready(self, work: PartitionWork, queues: Sequence[SubscriptionQueue]) -> None:
        self.queues.extend(queues)


class Setup:
    def __init__(self, **bounds: int) -> None:
        defaults = {"share_records": 1_000, "share_bytes": 10**9, "partition_records": 100}
        self.ready = Ready()
        self.given_up: list[tuple[Record, Rejected]] = []
        self.held: list[Record] = []
        self.budget = ShardBudget(BudgetBounds(**{**defaults, **bounds}), asyncio.Event())

    def work(self) -> PartitionWork:
        return PartitionWork(
            0,
            shard=self.ready,
            budget=self.budget,
            guard=GuardBounds(share_max=0.5, window=10),
            give_up=lambda _, record, rejected: self.given_up.append((record, rejected)),
            hold_back=lambda _, records: self.held.extend(records),
        )


def records(first: int, count: int, numbers: int = 1_000_000) -> list[StubRecord]:
    return [record_of(first + i, update_of((first + i) % numbers)) for i in range(count)]


def row_of(number: int, *offsets: int) -> Row:
    """Return a row of these updates, which its queue holds and its partition knows nothing of."""
    updates = [pending_of(offset, update_of(number)) for offset in offsets]
    return Row.of(Setup().work(), SubscriptionQueue((APP, subscription(number)), updates), updates)


def complete(work: PartitionWork, queue: SubscriptionQueue, count: int) -> None:
    work.complete([Row.of(work, queue, queue.updates[:count])])


def test_updates_of_one_subscription_share_a_queue_in_offset_order() -> None:
    setup = Setup()

    setup.work().receive(records(0, 6, numbers=2))

    assert [[each.record.offset for each in q.updates] for q in setup.ready.queues] == [
        [0, 2, 4],
        [1, 3, 5],
    ]


def test_a_queue_that_is_being_written_is_not_announced_again() -> None:
    setup = Setup()
    work = setup.work()
    work.receive(records(0, 1, numbers=1))
    setup.ready.queues[0].state = QueueState.WRITING

    work.receive(records(1, 3, numbers=1))

    assert len(setup.ready.queues) == 1
    assert len(setup.ready.queues[0].updates) == 4


def test_what_is_given_up_keeps_nothing_else_in_memory() -> None:
    """Not even by the frames of its traceback; it may wait for Kafka for long."""
    setup = Setup()
    work = setup.work()
    good = record_of(0, update_of(0))
    alive = weakref.ref(good)

    work.receive([good, StubRecord(1, b"not json")])
    del good
    complete(work, setup.ready.queues[0], 1)

    assert alive() is None
    assert len(setup.given_up) == 1


def test_a_partition_that_was_busy_takes_no_more_memory_than_one_that_was_not() -> None:
    """A consumer has hundreds of them, which are busy in turns while it catches up."""
    setup = Setup(partition_records=10_000, share_records=10_000)
    works = [setup.work() for _ in range(4)]
    used = []
    tracemalloc.start()

    for work in works:
        work.receive(records(0, 2_000))
        queues, setup.ready.queues = setup.ready.queues, []
        for queue in reversed(queues):
            queue.state = QueueState.WRITING
            complete(work, queue, 1)
        work.release(queues)
        del queue, queues
        used.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()

    assert works[-1].committable == 2_000
    # Since the first, which also fills what the interpreter keeps for use again.
    assert used[-1] - used[0] < 3 * 10_000


def test_an_unreadable_record_is_given_up_and_holds_up_nobody() -> None:
    setup = Setup()
    work = setup.work()
    headers = [("traceparent", b"00-0af7651916cd43dd8448eb211c80319c")]
    broken = StubRecord(1, b"not json", headers=headers)
    traced = record_of(2, update_of(0))
    traced.headers = headers

    work.receive([record_of(0, update_of(0)), broken, traced])
    complete(work, setup.ready.queues[0], 2)

    assert [record for record, _ in setup.given_up] == [broken]
    assert work.committable == 1
    work.complete_records([broken])
    assert work.committable == 3
    assert (setup.budget.records, setup.budget.bytes) == (0, 0)


def test_what_has_an_idempotency_key_is_read_as_a_whole() -> None:
    setup = Setup()
    tags = {"a": {"nested": 1}}

    setup.work().receive(
        [
            record_of(0, update_of(tags=tags)),
            record_of(1, update_of(tags=tags, once=once_of(1))),
        ]
    )

    assert [(record.offset, why.reason) for record, why in setup.given_up] == [(1, "undecodable")]


def test_ids_are_looked_at_where_a_subscription_has_no_queue_yet() -> None:
    setup = Setup()
    work = setup.work()
    good = update_of(0xAB)
    upper = replace(good, subscription_id=good.subscription_id.upper())
    elsewhere = replace(good, app_id="ffffffff-0000-4000-8000-000000000000")
    sent = [record_of(at, each) for at, each in enumerate([good, upper, elsewhere, good])]

    work.receive(sent)

    assert [(record.offset, why.reason) for record, why in setup.given_up] == [
        (1, "undecodable"),
        (2, "wrong_partition"),
    ]
    assert [[each.record.offset for each in queue.updates] for queue in setup.ready.queues] == [
        [0, 3]
    ]


def test_a_partition_over_its_bound_is_full_until_half_is_free() -> None:
    setup = Setup(partition_records=10)
    work = setup.work()

    work.receive(records(0, 10))
    was_full = work.is_full
    for queue in setup.ready.queues[:5]:
        complete(work, queue, 1)
    still_no_room = not work.has_room
    complete(work, setup.ready.queues[5], 1)

    assert was_full
    assert still_no_room
    assert work.has_room


def test_records_behind_an_open_one_count_although_they_are_completed() -> None:
    setup = Setup(partition_records=10)
    work = setup.work()
    work.receive(records(0, 10))

    for queue in setup.ready.queues[1:]:
        complete(work, queue, 1)

    assert work.is_full


def test_a_spent_share_stops_the_greedy_partition_and_not_the_modest_one() -> None:
    setup = Setup(share_records=100, partition_records=1_000)
    greedy, modest = setup.work(), setup.work()

    modest.receive(records(0, 10))
    greedy.receive(records(0, 90))

    assert setup.budget.is_scarce
    assert greedy.is_full
    assert not modest.is_full


def test_of_a_scarce_share_a_partition_takes_its_fair_part_and_no_more() -> None:
    setup = Setup(share_records=100, partition_records=1_000)
    greedy, modest = setup.work(), setup.work()
    greedy.receive(records(0, 100))

    taken = modest.receive(records(0, 2_000))

    assert taken == 50
    assert modest.received_to == 50
    assert modest.is_full


def test_a_scarce_share_is_open_again_when_half_of_it_is_free() -> None:
    setup = Setup(share_records=100, partition_records=1_000)
    work = setup.work()
    work.receive(records(0, 100))

    for queue in setup.ready.queues[:50]:
        complete(work, queue, 1)
    still_scarce = setup.budget.is_scarce and not work.has_room
    complete(work, setup.ready.queues[50], 1)

    assert still_scarce
    assert not setup.budget.is_scarce
    assert not setup.budget.turned_scarce  # who were paused now would not be told to go on
    assert work.has_room
    assert setup.budget.room.is_set()


def test_a_share_that_is_used_up_by_what_waits_for_kafka_stops_nobody_else() -> None:
    """Such as a hot subscription of which the oldest update is not taken as a dead letter."""
    setup = Setup(share_records=100, partition_records=80)
    stuck, paused, modest = setup.work(), setup.work(), setup.work()
    stuck.receive(records(0, 80, numbers=1))
    paused.receive(records(0, 20))
    paused.paused = paused.is_full
    modest.receive(records(0, 1))
    for queue in setup.ready.queues[1:]:
        complete(modest if queue is setup.ready.queues[-1] else paused, queue, 1)
    busy = paused.has_room or setup.budget.room.is_set()

    setup.ready.is_idle = True
    modest.release([setup.ready.queues[-1]])

    assert setup.budget.is_scarce
    assert not busy
    assert not stuck.has_room
    assert setup.budget.room.is_set()
    assert paused.has_room


@pytest.mark.parametrize(("end", "behind"), [(None, False), (50, False), (150, False), (151, True)])
def test_behind_is_who_has_more_to_come_than_its_fair_part(end: int | None, behind: bool) -> None:
    work = Setup(share_records=100, partition_records=1_000).work()

    work.receive(records(0, 50))

    assert work.is_behind(end) is behind


def test_bytes_count_as_records_do() -> None:
    setup = Setup(share_bytes=100_000)
    work = setup.work()

    work.receive([record_of(0, update_of(0, tags={"a": "x" * 100_000}))])

    assert work.is_full


def test_room_is_announced_only_by_a_paused_partition() -> None:
    setup = Setup(partition_records=10)
    work = setup.work()
    work.receive(records(0, 10))

    complete(work, setup.ready.queues[0], 1)
    quiet = not setup.budget.room.is_set()
    work.paused = True
    for queue in setup.ready.queues[1:]:
        complete(work, queue, 1)

    assert quiet
    assert setup.budget.room.is_set()


def test_a_lost_partition_ignores_late_completions_and_frees_its_budget() -> None:
    setup = Setup()
    work = setup.work()
    work.receive(records(0, 3))
    queue = setup.ready.queues[0]
    before = work.committable

    work.lose()
    complete(work, queue, 1)

    assert work.committable == before == 0
    assert not work.release([queue])
    assert (setup.budget.records, setup.budget.bytes, setup.budget.partitions) == (0, 0, 0)
    assert work.idle.is_set()


def test_it_is_idle_exactly_while_nothing_is_in_flight() -> None:
    setup = Setup()
    work = setup.work()
    before = work.idle.is_set()

    work.receive(records(0, 1))
    during = work.idle.is_set()
    complete(work, setup.ready.queues[0], 1)

    assert (before, during, work.idle.is_set()) == (True, False, True)


@pytest.mark.parametrize("more", [True, False])
def test_a_released_queue_is_ready_again_only_with_more_work(more: bool) -> None:
    setup = Setup()
    work = setup.work()
    work.receive(records(0, 2 if more else 1, numbers=1))
    queue = setup.ready.queues[0]
    queue.state = QueueState.WRITING

    complete(work, queue, 1)

    assert work.release([queue]) == [queue] * more
    assert queue.state is (QueueState.READY if more else QueueState.IDLE)


def test_a_partition_of_nothing_but_poison_is_stopped_and_not_drained() -> None:
    setup = Setup()
    work = setup.work()

    work.receive([StubRecord(offset, b"not json") for offset in range(20)])
    for record, _ in setup.given_up:
        work.complete_records([record])

    assert work.stopped
    assert work.is_full
    assert len(setup.given_up) == 5
    assert work.committable == 5
    assert (setup.budget.records, setup.budget.bytes) == (0, 0)


def test_a_stopped_partition_takes_nothing_and_holds_nothing_of_the_share() -> None:
    """Its next poll may be here already when the writer stops it."""
    setup = Setup(partition_records=1_000)
    work = setup.work()
    work.receive(records(0, 10))
    work.let_go(100, good=0)

    taken = work.receive([StubRecord(10, b"not json"), *records(11, 99)])

    assert taken == 0
    assert work.is_full
    assert not setup.given_up
    assert (setup.budget.records, setup.budget.bytes) == (0, 0)


def test_a_poll_with_some_poison_does_not_stop_its_partition() -> None:
    """Records are decoded in one go, long before the first of them is written."""
    setup = Setup(partition_records=10_000)
    work = setup.work()

    work.receive(
        [
            StubRecord(offset, b"not json")
            if offset % 20 == 0
            else record_of(offset, update_of(offset))
            for offset in range(2_000)
        ]
    )

    assert not work.stopped
    assert len(setup.given_up) == 100


def test_it_knows_since_when_everything_older_is_done() -> None:
    setup = Setup()
    work = setup.work()
    before = work.done_before_ms
    work.receive(records(0, 6, numbers=2))
    while_waiting = work.done_before_ms

    complete(work, setup.ready.queues[0], 3)
    setup.ready.queues[0].state = QueueState.WRITING
    work.release([setup.ready.queues[0]])
    half = work.done_before_ms
    complete(work, setup.ready.queues[1], 3)
    work.release([setup.ready.queues[1]])

    first_ms = record_of(0, update_of(0)).timestamp
    assert (before, while_waiting, half) == (None, first_ms, first_ms + 1)
    assert work.done_before_ms == first_ms + 5


def test_what_is_held_back_may_be_of_any_age() -> None:
    work = Setup().work()
    work.receive(records(0, 1))
    work.diversion.follow(
        [HoldView(HoldKey(APP), "1", HoldState.HOLDING, "", since_ms=0, by="", read_from=0)]
    )

    assert work.done_before_ms is None
