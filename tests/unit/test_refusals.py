import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumer.folding import RowChange, fold
from consumer.refusals import Question, first_refused
from shared.errors import Rejected
from tests.records import pending_of, update_of

REJECTED = Rejected("No.", reason="refused")

counts_and_bad_ones = st.lists(
    st.tuples(st.integers(1, 700), st.sets(st.floats(0, 1, exclude_max=True), max_size=3)),
    min_size=1,
    max_size=10,
)


@pytest.mark.parametrize(("with_older", "questions_max"), [(False, 1 + 4), (True, 1 + 10)])
@given(counts_and_bad_ones)
def test_the_first_refused_update_of_each_fold_is_found_in_few_questions(
    with_older: bool,
    questions_max: int,
    cases: list[tuple[int, set[float]]],
) -> None:
    bad = [{int(share * count) for share in shares} for count, shares in cases]
    folds = [
        [pending_of(n, update_of(row)) for n in range(count)]
        for row, (count, _) in enumerate(cases)
    ]
    asked: list[int] = []

    async def ask(changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        asked.append(sum(each.last_offset - each.first_offset + 1 for each in changes))
        return [
            REJECTED
            if any(
                each.first_offset <= offset <= each.last_offset
                for offset in bad[int(each.subscription_id[-12:], 16)]
            )
            else None
            for each in changes
        ]

    question = Question(ask, with_older)
    found = asyncio.run(first_refused(folds, [fold(each) for each in folds], question))

    assert [refusal.accepted if refusal else None for refusal in found] == [
        min(offsets, default=None) for offsets in bad
    ]
    assert len(asked) <= questions_max
    assert max(asked) == asked[0]
