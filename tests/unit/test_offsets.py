from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from consumer.offsets import OffsetTracker


class TrackerMachine(RuleBasedStateMachine):
    """Rules 2 and 3: only what is completed, and all below it, is committable."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.received: list[int] = []
        self.completed: set[int] = set()
        self.committed = -1

    @rule(gap=st.integers(1, 5))
    def receive(self, gap: int) -> None:
        offset = (self.received[-1] if self.received else 40) + gap
        self.tracker.receive([offset])
        self.received.append(offset)

    @precondition(lambda self: len(self.completed) < len(self.received))
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        still_open = [offset for offset in self.received if offset not in self.completed]
        offsets = data.draw(st.lists(st.sampled_from(still_open), unique=True))
        self.tracker.complete(offsets)
        self.completed.update(offsets)

    @invariant()
    def committable_covers_all_that_is_completed_up_to_the_lowest_open_one(self) -> None:
        lowest_open = next((o for o in self.received if o not in self.completed), None)
        done = [o for o in self.received if lowest_open is None or o < lowest_open]
        committable = self.tracker.committable
        if not self.received:
            assert committable is None
            return
        assert committable is not None
        assert all(offset < committable for offset in done)
        assert lowest_open is None or committable <= lowest_open

    @invariant()
    def it_never_goes_back(self) -> None:
        assert (self.tracker.committable or 0) >= self.committed
        self.committed = self.tracker.committable or 0

    @invariant()
    def its_window_is_what_it_cannot_commit_yet(self) -> None:
        committable = self.tracker.committable or 0
        assert len(self.tracker) == sum(offset >= committable for offset in self.received)


TestTracker = TrackerMachine.TestCase


def test_commit_stops_below_the_lowest_update_in_flight() -> None:
    tracker = OffsetTracker()
    for offset in (3, 4, 9):
        tracker.receive([offset])

    tracker.complete([4])
    tracker.complete([9])

    assert tracker.committable == 3


def test_a_gap_needs_no_work() -> None:
    tracker = OffsetTracker()
    for offset in (3, 90):
        tracker.receive([offset])

    tracker.complete([3])

    assert tracker.committable == 90
