"""Lag, rates and the time to catch up, from looks at Kafka."""

from math import inf

from shared.lag import LagHistory, Look
from shared.topology import Shard


def look(at_s: float, end: int, position: int, oldest_ms: int | None = None) -> Look:
    oldest = {} if oldest_ms is None else {0: oldest_ms}
    return Look(at_s, {0: end, 1: 0}, {0: position, 1: 0}, oldest)


def test_rates_are_those_of_the_window_and_say_when_nothing_will_wait() -> None:
    history = LagHistory(keep_s=60)
    for second in range(0, 101, 5):
        history.add(look(1_000 + second, 100 * second + 10_000, 150 * second, 1_000_000))

    lag = history.lag("all", [0, 1])

    assert (lag.accepted_per_s, lag.done_per_s) == (100, 150)
    assert lag.message_lag == 5_000
    assert lag.time_lag_s == 100
    assert lag.catch_up_s == 100


def test_rates_of_partitions_that_are_new_here_are_counted_from_when_they_came() -> None:
    history = LagHistory()
    history.add(Look(0, {}, {}, {}))
    history.add(Look(5, {0: 1_000}, {0: 0}, {}))
    history.add(Look(10, {0: 1_500}, {0: 1_000}, {}))

    lag = history.lag("all", [0])

    assert (lag.accepted_per_s, lag.done_per_s) == (100, 200)


def test_a_backlog_that_does_not_shrink_is_never_caught_up_with() -> None:
    history = LagHistory()
    history.add(look(0, 10, 0))
    history.add(look(5, 20, 0))

    assert history.lag("all", [0]).catch_up_s == inf


def test_all_is_caught_up_with_when_the_last_shard_is() -> None:
    history = LagHistory()
    history.add(Look(0, {0: 20_000, 1: 1_000}, {0: 0, 1: 1_000}, {}))
    history.add(Look(10, {0: 20_000, 1: 2_000}, {0: 10_000, 1: 1_000}, {}))

    fast, dead, both = history.by_shard([Shard("fast", 0, 0), Shard("dead", 1, 1)])

    assert (fast.catch_up_s, dead.catch_up_s, both.catch_up_s) == (10, inf, inf)


def test_nothing_that_waits_is_no_lag_whatever_was_read_before() -> None:
    history = LagHistory()
    history.add(look(100, 10, 10, oldest_ms=1))

    lag = history.lag("all", [0])

    assert (lag.message_lag, lag.time_lag_s, lag.catch_up_s) == (0, 0, 0)


def test_what_retention_has_removed_does_not_wait() -> None:
    look = Look(10, {0: 10, 1: 10}, {0: 2, 1: 2}, {}, begins={0: 6, 1: 10})

    assert [look.lag(0), look.lag(1)] == [4, 0]


def test_shards_add_up_to_all() -> None:
    history = LagHistory()
    history.add(Look(10, {0: 5, 1: 9}, {0: 1, 1: 2}, {0: 4_000, 1: 8_000}))

    first, second, both = history.by_shard([Shard("a", 0, 0), Shard("b", 1, 1)])

    assert (first.message_lag, second.message_lag, both.message_lag) == (4, 7, 11)
    assert (first.time_lag_s, second.time_lag_s, both.time_lag_s) == (6, 2, 6)
    assert both.partition_max == 7
