from consumer.dead_letter_guard import DeadLetterGuard, GuardBounds


def give_up(guard: DeadLetterGuard, count: int) -> int:
    """Try to give up on `count` records in a row; return how many were let go."""
    let_go = 0
    for _ in range(count):
        if guard.may_give_up():
            guard.completed(1)
            let_go += 1
    return let_go


def test_a_few_poisoned_records_are_let_go() -> None:
    guard = DeadLetterGuard(GuardBounds(share_max=0.5, window=100))

    for _ in range(100):
        guard.completed(9)
        assert guard.may_give_up()
        guard.completed(1)


def test_a_stream_of_nothing_but_poison_is_stopped_at_its_share_of_the_window() -> None:
    guard = DeadLetterGuard(GuardBounds(share_max=0.5, window=100))

    assert give_up(guard, 1_000) == 50


def test_old_dead_letters_are_forgotten() -> None:
    guard = DeadLetterGuard(GuardBounds(share_max=0.5, window=100))
    give_up(guard, 50)

    guard.completed(100)

    assert give_up(guard, 1_000) == 50


def test_a_share_of_one_lets_everything_go() -> None:
    guard = DeadLetterGuard(GuardBounds(share_max=1.0, window=100))

    assert give_up(guard, 1_000) == 1_000
