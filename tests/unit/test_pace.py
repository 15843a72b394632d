from hypothesis import given
from hypothesis import strategies as st

from consumer.pace import Pace, PaceBounds

BOUNDS = PaceBounds(flushes_max=4, rows_min=50, rows_max=1_000, target_s=0.1)


def test_a_fast_shard_is_given_the_most() -> None:
    pace = Pace(BOUNDS)

    pace.note(0.01, more_waits=True)

    assert (pace.flushes, pace.rows) == (4, 1_000)


def test_a_slow_shard_is_given_fewer_statements_first_and_then_smaller_ones() -> None:
    pace = Pace(BOUNDS)

    seen = []
    for _ in range(20):
        seen.append((pace.flushes, pace.rows))
        pace.note(1.0, more_waits=True)

    assert seen[0] == (4, 1_000)
    assert (1, 1_000) in seen
    assert (pace.flushes, pace.rows) == (1, 50)


def test_it_recovers_once_statements_are_fast_again() -> None:
    pace = Pace(BOUNDS)
    for _ in range(20):
        pace.note(1.0, more_waits=True)

    for _ in range(40):
        pace.note(0.01, more_waits=True)

    assert (pace.flushes, pace.rows) == (4, 1_000)


def test_a_shard_that_keeps_up_with_what_it_has_earns_no_more() -> None:
    pace = Pace(BOUNDS)
    for _ in range(20):
        pace.note(1.0, more_waits=True)

    for _ in range(100):
        pace.note(0.01, more_waits=False)

    assert (pace.flushes, pace.rows) == (1, 50)


def test_without_a_target_it_is_fixed() -> None:
    pace = Pace(PaceBounds(flushes_max=4, rows_min=50, rows_max=1_000, target_s=None))

    pace.note(100.0, more_waits=True)
    pace.note_failure()

    assert (pace.flushes, pace.rows) == (4, 1_000)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()) | st.none()))
def test_it_keeps_within_its_bounds(statements: list[tuple[float, bool] | None]) -> None:
    pace = Pace(BOUNDS)
    for statement in statements:
        if statement is None:
            pace.note_failure()
        else:
            pace.note(statement[0], more_waits=statement[1])

        assert 1 <= pace.flushes <= 4
        assert 50 <= pace.rows <= 1_000
