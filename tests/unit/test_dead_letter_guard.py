import pytest

from consumer.dead_letter_guard import DeadLetterGuard, GuardBounds

HALF = GuardBounds(share_max=0.5, window=100)
TENTH = GuardBounds(share_max=0.1, window=100)


@pytest.mark.parametrize(("bounds", "good"), [(HALF, 10), (TENTH, 90)])
def test_a_share_below_the_bound_is_let_go_for_ever(bounds: GuardBounds, good: int) -> None:
    guard = DeadLetterGuard(bounds)

    assert all(guard.let_go(9, good=good) == 9 for _ in range(1_000))
    assert guard.let_go(900, good=100 * good) == 900


@pytest.mark.parametrize(("bounds", "good"), [(HALF, 9), (TENTH, 80)])
def test_a_share_above_the_bound_is_stopped(bounds: GuardBounds, good: int) -> None:
    guard = DeadLetterGuard(bounds)

    assert sum(guard.let_go(11, good=good) for _ in range(1_000)) < 11_000
    assert guard.let_go(11, good=good) < 11


def test_a_stream_of_nothing_but_poison_is_stopped_at_its_share_of_the_window() -> None:
    guard = DeadLetterGuard(HALF)

    assert [guard.let_go(20, good=0) for _ in range(4)] == [20, 20, 10, 0]


def test_old_dead_letters_are_forgotten_and_good_records_are_not_saved_up() -> None:
    guard = DeadLetterGuard(HALF)
    guard.let_go(50, good=0)
    guard.let_go(0, good=1_000)

    assert guard.let_go(100, good=0) == 50


def test_a_share_of_one_lets_everything_go() -> None:
    guard = DeadLetterGuard(GuardBounds(share_max=1.0, window=100))

    assert guard.let_go(1_000, good=0) == guard.let_go(1_000, good=1) == 1_000
