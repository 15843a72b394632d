from consumer.dead_letter_guard import DeadLetterGuard, GuardBounds


def give_up(guard: DeadLetterGuard, count: int, judged: int = 0) -> int:
    """Try to give up on `count` records in a row; return how many were let go."""
    return sum(guard.may_give_up(judged + n) for n in range(count))


def test_a_few_poisoned_records_are_let_go() -> None:
    guard = DeadLetterGuard(GuardBounds(share_max=0.5, window=100))

    assert all(guard.may_give_up(judged) for judged in range(0, 1_000, 10))


def test_a_stream_of_nothing_but_poison_is_stopped_at_its_share_of_the_window() -> None:
    guard = DeadLetterGuard(GuardBounds(share_max=0.5, window=100))

    assert give_up(guard, 100) == 50


def test_old_dead_letters_are_forgotten() -> None:
    guard = DeadLetterGuard(GuardBounds(share_max=0.5, window=100))
    give_up(guard, 50)

    assert give_up(guard, 50, judged=150) == 50


def test_a_share_of_one_lets_everything_go() -> None:
    guard = DeadLetterGuard(GuardBounds(share_max=1.0, window=100))

    assert give_up(guard, 1_000) == 1_000
