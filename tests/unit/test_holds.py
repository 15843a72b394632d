import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.holds import Diversion, ReleasedRecord, Route
from consumer.releasing import Held, Merge, Run
from consumer.subscription_queue import PendingUpdate
from operator_cli.holds import _OffsetSet
from shared.holds import (
    HeldAt,
    Hold,
    HoldKey,
    Holds,
    HoldState,
    HoldView,
    Released,
    control_record,
    held_at,
    held_headers,
)
from shared.topology import partition_of
from tests.records import (
    APP,
    StubRecord,
    pending_in,
    pending_of,
    record_of,
    subscription,
    update_of,
)
from tests.unit.test_partition_work import Setup, complete

SUB = subscription(1)
OTHER = subscription(2)


def hold(identity: str = "a", state: Any = "holding", held_from: int = 10) -> Hold:
    return Hold(id=identity, state=state, reason="r", since_ms=1, held_from=held_from)


def view_of(
    key: HoldKey, state: HoldState = HoldState.HOLDING, identity: str = "a", read_from: int = 0
) -> HoldView:
    return HoldView(key, identity, state, "r", 1, "me", read_from)


def holds_of(*records: tuple[HoldKey, Hold | Released]) -> Holds:
    holds = Holds()
    for key, value in records:
        holds.apply(*control_record(key, value))
    return holds


def state_of(holds: Holds, key: HoldKey) -> tuple[HoldState, int]:
    view = holds.view(key)
    assert view is not None
    return view.state, view.read_from


def test_a_hold_goes_from_holding_over_releasing_to_released() -> None:
    key = HoldKey(APP, SUB)
    records: list[tuple[HoldKey, Hold | Released]] = [
        (key, hold()),
        (key, hold(state="releasing")),
        (key, Released(id="a", released_end=70, at_ms=2)),
    ]

    states = [state_of(holds_of(*records[:count]), key) for count in (1, 2, 3)]

    assert states == [
        (HoldState.HOLDING, 10),
        (HoldState.RELEASING, 10),
        (HoldState.RELEASED, 70),
    ]


def test_that_a_former_hold_was_released_says_nothing_about_the_next() -> None:
    key = HoldKey(APP)

    holds = holds_of(
        (key, hold("b", "releasing")), (key, Released(id="a", released_end=70, at_ms=2))
    )

    assert state_of(holds, key) == (HoldState.RELEASING, 10)


def test_what_compaction_leaves_means_the_same() -> None:
    key = HoldKey(APP)
    released = Released(id="a", released_end=70, at_ms=2)

    in_order = holds_of((key, hold()), (key, hold(state="releasing")), (key, released))
    compacted = holds_of((key, released), (key, hold(state="releasing")))

    assert list(in_order.views()) == list(compacted.views())
    assert in_order.of_partition(partition_of(APP)) == compacted.of_partition(partition_of(APP))
    assert in_order.of_partition(partition_of(APP) + 1) == ()


def test_a_new_hold_takes_over_what_an_overlapping_one_may_leave() -> None:
    holds = holds_of(
        (HoldKey(APP, SUB), hold("a", held_from=30)),
        (HoldKey(APP, OTHER), hold("b", "releasing", held_from=20)),
        (HoldKey(APP, OTHER), Released(id="b", released_end=50, at_ms=2)),
    )

    assert holds.held_from(HoldKey(APP), 100) == 30
    assert holds.held_from(HoldKey(APP, OTHER), 100) == 50
    assert holds.held_from(HoldKey(APP, subscription(3)), 100) == 100


@pytest.mark.parametrize("key", [b"", b"zz", b"zz#released", None])
def test_a_control_record_of_somebody_else_changes_nothing(key: bytes | None) -> None:
    holds = Holds()

    with pytest.raises(ValueError, match=r".*"):
        holds.apply(key, b"{}")

    assert list(holds.views()) == []


def test_a_held_record_says_where_it_came_from_and_keeps_its_headers() -> None:
    record = record_of(5, update_of(1))
    record.headers = [("trace", b"t"), *held_headers(HeldAt(7, "run"))]

    assert held_at(record) == (HeldAt(7, "run"), [("trace", b"t")])
    record.headers = [("trace", b"t")]
    assert held_at(record) is None


def routes(diversion: Diversion) -> list[Route]:
    return [diversion.route(APP, SUB), diversion.route(APP, OTHER), diversion.route("x", SUB)]


def test_a_hold_diverts_what_it_covers_and_nothing_else() -> None:
    app, one = Diversion(), Diversion()

    app.follow([view_of(HoldKey(APP))])
    one.follow([view_of(HoldKey(APP, SUB))])

    assert routes(app) == [Route.HOLD, Route.HOLD, Route.ON]
    assert routes(one) == [Route.HOLD, Route.ON, Route.ON]


def test_only_its_own_release_ends_a_diversion() -> None:
    diversion = Diversion()
    key = HoldKey(APP)
    diversion.follow([view_of(key)])

    diversion.follow([view_of(key, HoldState.RELEASED)])
    still = routes(diversion)[0]
    view = diversion.release_next()
    assert view is not None
    diversion.finish(view)
    diversion.follow([view_of(key, HoldState.RELEASING)])

    assert still is Route.HOLD
    assert routes(diversion)[0] is Route.ON


def test_what_was_released_before_is_looked_at_again_by_a_new_owner_only() -> None:
    new, running = Diversion(), Diversion()
    released = [view_of(HoldKey(APP), HoldState.RELEASED, read_from=40)]

    new.follow(released, first=True)
    running.follow(released)

    assert new.release_next() == released[0]
    assert running.release_next() is None
    assert not running.is_active


def test_a_hold_that_comes_while_updates_wait_begins_after_them() -> None:
    diversion = Diversion()
    view = view_of(HoldKey(APP), HoldState.RELEASING)
    diversion.follow([view])
    diversion.close(view.key, 0)

    diversion.follow([view, view_of(HoldKey(APP, SUB), identity="b")])
    during = routes(diversion)[:2]
    diversion.finish(view)

    assert during == [Route.WAIT, Route.WAIT]
    assert routes(diversion)[:2] == [Route.HOLD, Route.ON]


def test_a_release_for_which_updates_wait_comes_before_any_other() -> None:
    diversion = Diversion()
    first, closing = view_of(HoldKey(APP, OTHER)), view_of(HoldKey(APP, SUB), HoldState.RELEASING)
    diversion.follow([first, closing])
    diversion.follow([view_of(first.key, HoldState.RELEASING)])

    diversion.close(closing.key, 0)

    assert diversion.release_next() == closing
    assert routes(diversion)[:2] == [Route.WAIT, Route.HOLD]


def test_an_app_s_release_leaves_out_what_a_subscription_s_own_hold_covers() -> None:
    diversion = Diversion()
    diversion.follow(
        [view_of(HoldKey(APP), HoldState.RELEASING), view_of(HoldKey(APP, SUB), identity="b")]
    )

    assert diversion.releases(HoldKey(APP), APP, OTHER)
    assert not diversion.releases(HoldKey(APP), APP, SUB)
    assert diversion.is_left_to_the_app(HoldKey(APP, SUB))
    diversion.close(HoldKey(APP), 0)
    assert routes(diversion)[:2] == [Route.HOLD, Route.WAIT]


def test_a_hold_that_is_added_again_ends_its_release() -> None:
    diversion = Diversion()
    view = view_of(HoldKey(APP), HoldState.RELEASING)
    diversion.follow([view])
    before = diversion.is_wanted(view)

    diversion.follow([view_of(HoldKey(APP), identity="b")])

    assert (before, diversion.is_wanted(view)) == (True, False)


def diverting(setup: Setup, state: HoldState = HoldState.HOLDING) -> tuple[Any, HoldView]:
    work = setup.work()
    view = view_of(HoldKey(APP, SUB), state)
    work.diversion.follow([view])
    return work, view


def test_what_no_update_may_hold_is_not_held_back() -> None:
    setup = Setup()
    work, _ = diverting(setup)

    work.receive(
        [record_of(0, update_of(1, tags={"a": {"nested": 1}})), record_of(1, update_of(1))]
    )

    assert [record.offset for record, _ in setup.given_up] == [0]
    assert [record.offset for record in setup.held] == [1]


def released(offset: int) -> PendingUpdate:
    pending = pending_of(offset, update_of(1, tags={"n": offset}))
    record = ReleasedRecord(pending.record, topic="t", partition=0, offset=offset, headers=())
    return pending_in(record)


def offsets(setup: Setup) -> list[list[int]]:
    return [[each.record.offset for each in queue.updates] for queue in setup.ready.queues]


def test_a_held_update_is_in_flight_until_the_holding_topic_has_it() -> None:
    setup = Setup()
    work, _ = diverting(setup)

    work.receive([record_of(0, update_of(1)), record_of(1, update_of(2))])
    complete(work, setup.ready.queues[0], 1)
    before = work.committable
    work.complete_records(setup.held)

    assert (before, work.committable) == (0, 2)
    assert offsets(setup) == [[]]


def test_released_updates_go_ahead_of_those_that_wait() -> None:
    setup = Setup()
    work, view = diverting(setup, HoldState.RELEASING)
    work.receive([record_of(n, update_of(1)) for n in range(3)])
    work.complete_records(setup.held)
    work.diversion.close(view.key, work.received_to)
    work.receive([record_of(3, update_of(1)), record_of(4, update_of(1))])
    waiting = offsets(setup)

    work.feed([released(n) for n in range(3)])
    work.finish_release(view)
    work.receive([record_of(5, update_of(1))])

    assert waiting == []
    assert offsets(setup) == [[0, 1, 2, 3, 4, 5]]
    assert work.feeding.outstanding == 3
    complete(work, setup.ready.queues[0], 6)
    assert work.feeding.settled.is_set()
    assert work.committable == 6
    assert (setup.budget.records, setup.budget.bytes) == (0, 0)


def test_what_a_queue_has_already_is_not_put_there_again() -> None:
    setup = Setup()
    work = setup.work()
    work.receive([record_of(n, update_of(1)) for n in (3, 4)])

    work.feed([released(n) for n in (2, 3, 4, 5)])

    assert offsets(setup) == [[3, 4, 5]]
    assert work.feeding.outstanding == 1


def test_losing_the_partition_ends_the_wait_for_released_updates() -> None:
    setup = Setup()
    work = setup.work()
    work.feed([released(1)])

    work.lose()

    assert work.feeding.settled.is_set()
    assert (setup.budget.records, setup.budget.bytes) == (0, 0)


def test_stopping_the_partition_ends_the_wait_for_released_updates() -> None:
    setup = Setup()
    work = setup.work()
    work.feed([released(1)])

    work.let_go(100, good=0)

    assert work.feeding.settled.is_set()
    assert (setup.budget.records, setup.budget.bytes) == (0, 0)


class Reader:
    """Reads a run out of a holding topic in memory."""

    def __init__(self, run: Run, topic: Sequence[StubRecord]) -> None:
        self.run = run
        self._rest = [record for record in topic if run.start <= record.offset < run.end]

    async def take(self) -> Held | None:
        return self._rest.pop(0) if self._rest else None


def held_record(place: int, offset: int, run: str) -> StubRecord:
    return StubRecord(place, b"", headers=tuple(held_headers(HeldAt(offset, run))))


def pending(record: Held) -> PendingUpdate:
    found = held_at(record)
    assert found is not None
    return pending_of(found[0].offset, update_of(1))


@given(
    runs=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 20)), min_size=1, max_size=4),
    data=st.data(),
    portion=st.integers(1, 7),
)
def test_runs_are_merged_to_each_offset_once_in_order(
    runs: list[tuple[int, int]], data: st.DataObject, portion: int
) -> None:
    """However the appends of former owners lie between each other."""
    waiting = {str(n): list(range(first, first + count)) for n, (first, count) in enumerate(runs)}
    expected = sorted({offset for run in waiting.values() for offset in run})
    topic: list[StubRecord] = []
    while waiting:
        name = data.draw(st.sampled_from(sorted(waiting)))
        topic.append(held_record(len(topic), waiting[name].pop(0), name))
        if not waiting[name]:
            del waiting[name]
    readers = [Reader(Run(str(n), 0, len(topic)), topic) for n in range(len(runs))]

    async def merge() -> list[int]:
        merged = Merge(readers, pending)
        taken: list[int] = []
        while updates := await merged.take(portion, 10**6):
            assert len(updates) <= portion
            taken += [each.record.offset for each in updates]
        return taken

    assert asyncio.run(merge()) == expected


def test_a_batch_that_was_appended_twice_is_merged_once() -> None:
    topic = [held_record(n, offset, "a") for n, offset in enumerate([1, 4, 1, 4, 6])]
    topic += [held_record(5 + n, offset, "b") for n, offset in enumerate([3, 5])]
    readers = [Reader(Run(name, 0, len(topic)), topic) for name in "ab"]

    taken = asyncio.run(Merge(readers, pending).take(10, 10**6))

    assert [each.record.offset for each in taken] == [1, 3, 4, 5, 6]


def test_a_portion_ends_with_its_bytes() -> None:
    topic = [held_record(n, n, "a") for n in range(5)]
    size = len(pending(topic[0]).record.value or b"")

    async def take() -> list[int]:
        merged = Merge([Reader(Run("a", 0, len(topic)), topic)], pending)
        return [len(await merged.take(10, bound)) for bound in (1, 2 * size, 9 * size, 1)]

    assert asyncio.run(take()) == [1, 2, 2, 0]


@given(st.lists(st.integers(0, 200_000)))
def test_an_offset_set_knows_what_is_new(added: list[int]) -> None:
    bits, model = _OffsetSet(), set[int]()

    for offset in added:
        assert bits.add(offset) is (offset not in model)
        model.add(offset)
