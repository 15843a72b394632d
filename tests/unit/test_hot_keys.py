"""What is said of the most frequent keys is true, however many keys there are."""

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from consumer.hot_keys import FrequentKeys, HotKey, HotKeys

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
        keys.add(batch)

    total = sum(true.values())
    assert len(keys.most(1_000)) <= 10
    assert keys.missed <= 2 * total / 10
    for key, count in true.items():
        assert keys.count(key) <= count <= keys.count(key) + keys.missed


def test_counts_of_few_keys_are_exact() -> None:
    keys: HotKeys[str] = HotKeys(60, Clock())

    keys.filling().add(["a", "b", "a"])
    keys.filling().add_many("b", 5)

    assert keys.top(2) == [HotKey("b", 6, 6), HotKey("a", 2, 2)]


def test_what_was_hot_two_windows_ago_is_forgotten() -> None:
    clock = Clock()
    keys: HotKeys[str] = HotKeys(60, clock)
    keys.filling().add_many("old", 100)

    clock.now = 61
    keys.filling().add_many("new", 3)
    both = keys.top(2)
    clock.now = 122
    keys.filling()

    assert [each.key for each in both] == ["old", "new"]
    assert [each.key for each in keys.top(2)] == ["new"]
    assert keys.seconds == 61
