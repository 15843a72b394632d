import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from consumer.folding import RowChange, fold
from consumer.refusals import first_refused
from shared.errors import Rejected
from tests.records import pending_of, update_of

REJECTED = Rejected("No.", reason="refused")


@given(
    st.lists(
        st.tuples(st.integers(1, 700), st.floats(0, 1, exclude_max=True) | st.none()), min_size=1
    )
)
def test_the_first_refused_update_of_each_fold_is_found_in_few_questions(
    cases: list[tuple[int, float | None]],
) -> None:
    bad = [None if share is None else int(share * count) for count, share in cases]
    folds = [
        [pending_of(n, update_of(row)) for n in range(count)]
        for row, (count, _) in enumerate(cases)
    ]
    asked: list[int] = []

    async def judge(changes: Sequence[RowChange]) -> Sequence[Rejected | None]:
        asked.append(len(changes))
        firsts = [bad[int(each.subscription_id[-12:], 16)] for each in changes]
        return [
            REJECTED if first is not None and first <= each.last_offset else None
            for each, first in zip(changes, firsts, strict=True)
        ]

    found = asyncio.run(first_refused(folds, [fold(each) for each in folds], judge))

    assert [refusal and refusal.accepted for refusal in found] == bad
    assert len(asked) <= 1 + 4  # 8**4 > 700
    assert all(count <= 7 * len(cases) for count in asked[1:])
