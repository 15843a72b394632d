from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from shared.updates import COUNTERS, NOTHING
from tests.records import update_of

names = st.sampled_from(["plan", "level", "score", "city", "ab"])
amounts = st.integers(-1000, 1000)
scalars = (
    st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=5
    )
)


def _members(
    names: st.SearchStrategy[str], values: st.SearchStrategy[Any], *, max_size: int
) -> st.SearchStrategy[Mapping[str, Any]]:
    return st.dictionaries(names, values, max_size=max_size).map(lambda found: found or NOTHING)


updates = st.builds(
    update_of,
    tags=_members(names, scalars | st.none(), max_size=3),
    properties=_members(st.sampled_from(["language", "country"]), scalars, max_size=2),
    increment=_members(st.sampled_from(COUNTERS), amounts, max_size=2),
    increment_tags=_members(names, amounts, max_size=3),
)
