from hypothesis import given
from hypothesis import strategies as st

from consumer.breaker import Backoff, Breaker, BreakerState


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def breaker_at(clock: Clock) -> Breaker:
    return Breaker(Backoff(base_s=1.0, cap_s=8.0), clock=clock, jitter=lambda: 0.0)


def test_a_failure_stops_every_write_until_its_wait_is_over() -> None:
    clock = Clock()
    breaker = breaker_at(clock)

    breaker.failed()

    assert not breaker.admits()
    assert breaker.retry_in_s() == 1.0
    clock.now += 1.0
    assert breaker.admits()


def test_only_one_probe_is_under_way() -> None:
    clock = Clock()
    breaker = breaker_at(clock)
    breaker.failed()
    clock.now += 1.0

    assert breaker.admits()
    assert not breaker.admits()


def test_waits_double_up_to_the_cap() -> None:
    clock = Clock()
    breaker = breaker_at(clock)
    waits = []

    for _ in range(6):
        breaker.failed()
        waits.append(breaker.retry_in_s())
        clock.now += breaker.retry_in_s()
        assert breaker.admits()

    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_writes_that_were_under_way_when_it_opened_count_once() -> None:
    breaker = breaker_at(Clock())

    breaker.failed()
    breaker.failed()

    assert breaker.retry_in_s() == 1.0


def test_a_success_closes_it_and_forgets_the_failures() -> None:
    clock = Clock()
    breaker = breaker_at(clock)
    breaker.failed()
    clock.now += 1.0
    assert breaker.admits()

    breaker.succeeded()
    breaker.failed()

    assert breaker.retry_in_s() == 1.0


def test_a_probe_that_tells_nothing_leaves_the_next_one_free() -> None:
    clock = Clock()
    breaker = breaker_at(clock)
    breaker.failed()
    clock.now += 1.0
    assert breaker.admits()

    breaker.gave_up()

    assert breaker.state is BreakerState.OPEN
    assert breaker.admits()


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_jitter_takes_at_most_half_of_a_wait(failures: int, jitter: float) -> None:
    backoff = Backoff(base_s=0.1, cap_s=5.0)

    full = backoff.wait_s(failures, 0.0)

    assert full / 2 <= backoff.wait_s(failures, jitter) <= full <= 5.0
