import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from ingest_api.in_flight import InFlight
from ingest_api.settings import ProduceSettings
from shared.errors import Transient

SETTINGS = ProduceSettings(
    updates_in_flight_max=1_500,
    bytes_in_flight_max=5 * 2**20,
    partition_updates_in_flight_max=1_000,
    partition_bytes_in_flight_max=2 * 2**20,
    stalled_after_ms=1_500,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def in_flight(clock: Clock) -> InFlight:
    return InFlight(SETTINGS, clock)


def refused(in_flight: InFlight, partition: int, updates: int = 1, size: int = 1) -> Transient:
    with pytest.raises(Transient) as caught:
        in_flight.admit(partition, updates, size)
    return caught.value


def test_a_partition_cannot_take_all_the_room(in_flight: InFlight) -> None:
    in_flight.admit(0, 1_000, 10)

    assert refused(in_flight, 0).saturation
    in_flight.admit(1, 500, 10)


def test_all_partitions_together_are_bounded(in_flight: InFlight) -> None:
    in_flight.admit(0, 1_000, 10)
    in_flight.admit(1, 500, 10)

    assert refused(in_flight, 2).saturation


def test_bytes_are_bounded_like_updates(in_flight: InFlight) -> None:
    in_flight.admit(0, 1, 2 * 2**20)
    in_flight.admit(1, 1, 2 * 2**20)

    assert refused(in_flight, 0, 1, 1).saturation
    assert refused(in_flight, 2, 1, 2 * 2**20).saturation
    in_flight.admit(2, 1, 2**20)


def test_room_comes_back_with_the_answer_or_when_nothing_was_sent(in_flight: InFlight) -> None:
    in_flight.admit(0, 600, 10)
    in_flight.admit(0, 400, 10)

    in_flight.settle(0, 600, 10)
    in_flight.withdraw(0, 400, 10)

    assert (in_flight.updates, in_flight.bytes) == (0, 0)
    in_flight.admit(0, 1_000, 10)


def test_a_partition_that_gets_no_answer_takes_no_more(in_flight: InFlight, clock: Clock) -> None:
    in_flight.admit(0, 1, 10)

    clock.now += 1.6

    assert not refused(in_flight, 0).saturation
    in_flight.admit(1, 1, 10)


def test_an_answer_shows_that_the_partition_moves(in_flight: InFlight, clock: Clock) -> None:
    in_flight.admit(0, 1, 10)
    in_flight.admit(0, 1, 10)
    clock.now += 1.4
    in_flight.settle(0, 1, 10)

    clock.now += 1.4

    in_flight.admit(0, 1, 10)


def test_withdrawing_does_not_show_that_the_partition_moves(
    in_flight: InFlight, clock: Clock
) -> None:
    in_flight.admit(0, 1, 10)
    in_flight.admit(0, 1, 10)
    clock.now += 1.4
    in_flight.withdraw(0, 1, 10)

    clock.now += 1.4

    refused(in_flight, 0)


def test_a_partition_without_work_is_not_stalled(in_flight: InFlight, clock: Clock) -> None:
    in_flight.admit(0, 1, 10)
    in_flight.settle(0, 1, 10)

    clock.now += 3_600

    in_flight.admit(0, 1, 10)


class Accounting(RuleBasedStateMachine):
    """Whatever happens in whatever order, what is in flight is what was admitted and not ended."""

    admitted = Bundle("admitted")

    def __init__(self) -> None:
        super().__init__()
        self.in_flight = InFlight(SETTINGS, lambda: 0.0)
        self.open: list[tuple[int, int, int]] = []

    @rule(
        target=admitted,
        partition=st.integers(0, 2),
        updates=st.integers(1, 700),
        size=st.integers(1, 2**20),
    )
    def admit(self, partition: int, updates: int, size: int) -> tuple[int, int, int] | None:
        work = (partition, updates, size)
        try:
            self.in_flight.admit(*work)
        except Transient:
            return None
        self.open.append(work)
        return work

    @rule(work=consumes(admitted), answered=st.booleans())
    def end(self, work: tuple[int, int, int] | None, *, answered: bool) -> None:
        if work is not None:
            (self.in_flight.settle if answered else self.in_flight.withdraw)(*work)
            self.open.remove(work)

    @invariant()
    def nothing_is_forgotten(self) -> None:
        assert self.in_flight.updates == sum(updates for _, updates, _ in self.open)
        assert self.in_flight.bytes == sum(size for _, _, size in self.open)

    @invariant()
    def bounds_hold(self) -> None:
        assert self.in_flight.updates <= SETTINGS.updates_in_flight_max
        assert self.in_flight.bytes <= SETTINGS.bytes_in_flight_max


TestAccounting = Accounting.TestCase
