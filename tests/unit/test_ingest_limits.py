from ingest_api.own_counts import Rate


def passed(rate: Rate, at: list[float], key: str = "a", cost: int = 1) -> list[bool]:
    found = []
    for now in at:
        found.append(not rate.wait_s(key, now))
        if found[-1]:
            rate.count(key, cost, now)
    return found


def test_a_burst_passes_at_once_and_then_as_much_as_the_rate_says() -> None:
    rate = Rate(2, burst_s=2)

    assert passed(rate, [10.0] * 5) == [True] * 4 + [False]
    assert rate.wait_s("a", 10.0) == 0.5
    assert passed(rate, [10.4, 10.5, 10.5, 11.0]) == [False, True, False, True]


def test_over_a_long_time_the_rate_holds() -> None:
    rate = Rate(10, burst_s=1)

    through = passed(rate, [number / 100 for number in range(10_000)])

    assert 1_000 <= sum(through) <= 1_011


def test_a_batch_over_the_burst_passes_once_and_is_paid_back() -> None:
    rate = Rate(10, burst_s=1)

    assert passed(rate, [0.0, 1.0, 9.0, 9.2], cost=100) == [True, False, False, True]


def test_keys_do_not_know_of_each_other() -> None:
    rate = Rate(1, burst_s=1)

    assert passed(rate, [0.0, 0.0], "a") == [True, False]
    assert passed(rate, [0.0, 0.0], "b") == [True, False]


def test_what_owes_nothing_is_forgotten() -> None:
    rate = Rate(1, burst_s=1)

    for number in range(1_000_000):
        rate.count(str(number), 1, number / 1_000)

    assert len(rate._paid_until) <= 20_000
    assert rate.wait_s("999999", 999.999) > 0
