from collections import defaultdict
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.schedule import KINDS, SCALE, PlannedFault, plan_faults

seeds = st.integers(0, 2**32)


@given(seeds, st.integers(30, 1_800))
def test_the_same_seed_gives_the_same_faults(seed: int, seconds: int) -> None:
    assert plan_faults(seed, seconds) == plan_faults(seed, seconds)


@given(seeds)
def test_a_target_has_one_fault_at_a_time_and_all_are_over_by_the_end(seed: int) -> None:
    faults = [fault for fault in plan_faults(seed, 300) if fault.kind != SCALE]
    by_target: dict[str, list[PlannedFault]] = defaultdict(list)
    for fault in faults:
        by_target[fault.target].append(fault)

    assert all(fault.at_s + fault.duration_s < 300 for fault in faults)
    for sequence in by_target.values():
        for earlier, later in pairwise(sequence):
            assert earlier.at_s + earlier.duration_s < later.at_s


@given(seeds)
def test_five_minutes_have_room_for_every_kind(seed: int) -> None:
    assert {fault.kind for fault in plan_faults(seed, 300)} == {*KINDS, SCALE}


@given(seeds)
def test_a_consumer_is_only_disturbed_while_it_is_there(seed: int) -> None:
    faults = plan_faults(seed, 300)
    more, fewer = (fault.at_s for fault in faults if fault.kind == SCALE)

    for fault in faults:
        if fault.target in {"consumer-2", "consumer-3"}:
            assert fault.at_s > more
        if fault.target == "consumer-3":
            assert fault.at_s + fault.duration_s < fewer
