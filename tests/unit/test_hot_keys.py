"""What is said of the most frequent keys is true, however many keys there are."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from consumer.hot_keys import FrequentKeys, HotKey, HotKeys
from consumer.observer import FlushObserver
from tests.unit.test_partition_work import row_of

batches = st.lists(st.lists(st.integers(0, 60), max_size=40), max_size=40)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(batches)
def test_a_true_count_lies_within_the_bounds_and_memory_too(stream: Sequence[list[int]]) -> None:
    keys: FrequentKeys[int] = FrequentKeys(capacity=10)
    true = Counter(key for batch in stream for key in batch)

    for batch in stream:
        keys.add([(key, 1) for key in batch])

    total = sum(true.values())
    assert len(keys.most(1_000)) <= 10
    assert keys.missed <= 4 * total / 10
    for key, count in true.items():
        assert keys.count(key) <= count <= keys.count(key) + keys.missed


def test_counts_of_few_keys_are_exact() -> None:
    keys: HotKeys[str] = HotKeys(60, Clock())

    keys.filling().add([("a", 1), ("b", 1), ("a", 1)])
    keys.filling().add([("b", 5)])

    assert keys.top(2) == [HotKey("b", 6, 6), HotKey("a", 2, 2)]


def test_what_was_hot_two_windows_ago_is_forgotten() -> None:
    clock = Clock()
    keys: HotKeys[str] = HotKeys(60, clock)
    keys.filling().add([("old", 100)])

    clock.now = 61
    keys.filling().add([("new", 3)])
    both = keys.top(2)
    clock.now = 122
    keys.filling()

    assert [each.key for each in both] == ["old", "new"]
    assert [each.key for each in keys.top(2)] == ["new"]
    assert keys.seconds == 61


flushes = st.lists(
    st.dictionaries(st.integers(0, 99), st.integers(1, 60), min_size=1), min_size=1, max_size=5
)
"""Of each flush how many updates of which subscriptions it wrote."""


@given(flushes)
def test_what_flushes_say_of_a_row_is_true_and_exact_while_few_are_written(
    written: Sequence[dict[int, int]],
) -> None:
    observer = FlushObserver(["shard-0"], clock=Clock())
    true: Counter[tuple[str, str]] = Counter()

    for flush in written:
        rows = [row_of(number, *range(count)) for number, count in flush.items()]
        observer.written("shard-0", rows, took_s=0.1, pool_wait_s=0.0)
        true.update({row.queue.key: len(row.updates) for row in rows})

    said = {each.key: each for each in observer.subscriptions.top(100)}
    for key, each in said.items():
        assert each.low <= true[key] <= each.high
    if max(sum(flush.values()) for flush in written) <= 64:
        assert {key: (each.low, each.high) for key, each in said.items()} == {
            key: (count, count) for key, count in true.items()
        }
    assert observer.subscriptions.total == observer.apps.top(1)[0].low == sum(true.values())
