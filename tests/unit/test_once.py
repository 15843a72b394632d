from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from consumer.folding import fold
from consumer.once import Judged, KeyUse, judge
from consumer.subscription_queue import PendingUpdate
from shared.updates import ABSENT, KEY_KNOWN_FOR_MS, encode
from tests.records import APP, StubRecord, once_of, pending_in, subscription, update_of

DAY = KEY_KNOWN_FOR_MS


def sent(offset: int, key: int | None, body: int = 0, at_ms: int = 0) -> PendingUpdate:
    """An update that counts one."""
    once = None if key is None else once_of(key, body)
    update = update_of(0, increment={"session_count": 1}, once=once)
    return pending_in(StubRecord(offset, encode(update), timestamp=at_ms))


def use_of(pending: PendingUpdate) -> KeyUse:
    assert pending.once is not None
    return KeyUse(APP, subscription(0), pending.once, pending.offset, pending.accepted_ms)


def judged(pending: Sequence[PendingUpdate], *known: PendingUpdate) -> Judged:
    return judge(pending, {(APP, subscription(0), use.once.key): use for use in map(use_of, known)})


def count(found: Judged) -> int:
    return fold(found.updates).increment.get("session_count", 0) if found.updates else 0


def test_what_has_no_key_counts_each_time() -> None:
    assert count(judged([sent(0, None), sent(1, None)])) == 2


def test_a_repetition_counts_once_and_moves_the_row_on() -> None:
    found = judged([sent(0, 1), sent(1, None), sent(2, 1), sent(3, 2)])

    assert count(found) == 3
    assert fold(found.updates).last_offset == 3
    assert found.first_uses == [use_of(sent(0, 1)), use_of(sent(3, 2))]


def test_a_repetition_of_what_was_written_before_changes_nothing() -> None:
    found = judged([sent(5, 1)], sent(0, 1))

    assert count(found) == 0
    assert fold(found.updates).last_offset == 5
    assert found.first_uses == []


def test_a_first_use_that_is_read_again_is_left_to_its_rows_position() -> None:
    assert count(judged([sent(5, 1)], sent(5, 1))) == 1
    assert count(judged([sent(5, 1, body=1)], sent(900, 1, body=2))) == 1


def test_a_key_with_another_body_ends_the_fold_before_it() -> None:
    found = judged([sent(0, 1), sent(1, None), sent(2, 1, body=9), sent(3, None)])

    assert [each.offset for each in found.updates] == [0, 1]
    assert judged([sent(2, 1, body=9)], sent(0, 1)).updates == []


def test_a_key_is_known_for_a_day_and_then_new() -> None:
    first = sent(0, 1, at_ms=7)

    assert count(judged([sent(1, 1, at_ms=7 + DAY - 1)], first)) == 0
    late = judged([sent(1, 1, body=5, at_ms=7 + DAY)], first)
    assert count(late) == 1
    assert [use.offset for use in late.first_uses] == [1]


HOURS = 3_600_000
keyed = st.tuples(
    st.none() | st.integers(0, 2), st.integers(0, 1), st.integers(0, 12).map(lambda n: n * HOURS)
)


@given(st.lists(keyed, max_size=12), st.data())
def test_it_does_not_matter_how_much_is_judged_at_once(
    sequence: list[tuple[int | None, int, int]], data: st.DataObject
) -> None:
    pending, now = [], 0
    for offset, (key, body, later_ms) in enumerate(sequence):
        now += later_ms
        pending.append(sent(offset, key, body, now))
    known: dict[tuple[str, str, str], KeyUse] = {}
    effective, refused, rest = [], [], list(pending)
    while rest:
        found = judge(rest[: data.draw(st.integers(1, 4))], known)
        if not found.updates:
            refused.append(rest.pop(0).offset)
            continue
        effective += [each.offset for each in found.updates if each.increment is not ABSENT]
        del rest[: len(found.updates)]
        known |= {(APP, subscription(0), use.once.key): use for use in found.first_uses}

    assert (effective, refused) == one_by_one(pending)


def one_by_one(pending: Sequence[PendingUpdate]) -> tuple[list[int], list[int]]:
    """What is promised, in the plainest words."""
    first: dict[str, PendingUpdate] = {}
    effective, refused = [], []
    for each in pending:
        once = each.once
        before = once and first.get(once.key)
        if before and each.accepted_ms < before.accepted_ms + DAY:
            assert once is not None
            assert before.once is not None
            if once.body != before.once.body:
                refused.append(each.offset)
            continue
        effective.append(each.offset)
        if once:
            first[once.key] = each
    return effective, refused
