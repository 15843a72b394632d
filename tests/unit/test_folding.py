import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.folding import RowChange, first_unreadable, fold
from shared.errors import Rejected
from shared.updates import Update, check_ids, read_sealed
from tests.records import StubRecord, body_of, pending_in, pending_of, subscription, update_of
from tests.unit.strategies import updates
from tests.unit.test_updates import UNDECODABLE
from verification.model import ModelRow
from verification.model import model_of as model_of_bodies


def as_update(change: RowChange) -> Update:
    return update_of(
        tags=change.tags,
        properties=change.properties,
        increment=change.increment,
        increment_tags=change.increment_tags,
    )


def model_of(sequence: list[Update]) -> ModelRow:
    return model_of_bodies(body_of(update) for update in sequence)


def fold_of(sequence: list[Update]) -> RowChange:
    return fold([pending_of(offset, update) for offset, update in enumerate(sequence, 7)])


@given(before=st.lists(updates, max_size=3), folded=st.lists(updates, min_size=1, max_size=8))
def test_fold_then_apply_is_apply_one_by_one(before: list[Update], folded: list[Update]) -> None:
    row = model_of(before)
    row.apply(body_of(as_update(fold_of(folded))))

    assert row == model_of([*before, *folded])


@given(st.lists(updates, min_size=2, max_size=8), st.data())
def test_folding_in_two_parts_is_folding_at_once(
    sequence: list[Update], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(sequence) - 1))
    parts = ModelRow()
    parts.apply(body_of(as_update(fold_of(sequence[:cut]))))
    parts.apply(body_of(as_update(fold_of(sequence[cut:]))))

    whole = ModelRow()
    whole.apply(body_of(as_update(fold_of(sequence))))

    assert parts == whole


def test_a_fold_knows_its_row_and_its_offsets() -> None:
    change = fold([pending_of(5, update_of(3)), pending_of(9, update_of(3))])

    assert change.subscription_id == subscription(3)
    assert (change.first_offset, change.last_offset) == (5, 9)
    assert change.accepted_ms == 1_700_000_000_009


def test_a_set_forgets_the_increments_before_it() -> None:
    change = fold_of([update_of(increment_tags={"level": 5}), update_of(tags={"level": 1})])

    assert change.tags == {"level": 1}
    assert change.increment_tags == {}


@pytest.mark.parametrize("value", UNDECODABLE)
def test_what_cannot_be_read_is_found_when_it_is_folded_at_the_latest(value: bytes | None) -> None:
    def take_and_fold() -> None:
        check_ids(read_sealed(value), 0)
        fold([pending_in(StubRecord(0, value))])

    with pytest.raises(Rejected) as caught:
        take_and_fold()

    assert caught.value.reason == "undecodable"


def test_an_update_that_holds_what_none_may_hold_is_found() -> None:
    good, nested = update_of(tags={"a": 1}), update_of(tags={"a": {"b": 1}})
    pending = [pending_of(7, good), pending_of(8, nested), pending_of(9, good)]

    with pytest.raises(Rejected, match="Expected"):
        fold(pending)

    place, rejected = first_unreadable(pending)
    assert (place, rejected.reason) == (1, "undecodable")
    assert "$.tags" in str(rejected)
    assert fold(pending[:1]).tags == {"a": 1}
