from hypothesis import strategies as st

from shared.updates import COUNTERS
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

updates = st.builds(
    update_of,
    tags=st.dictionaries(names, scalars | st.none(), max_size=3),
    properties=st.dictionaries(st.sampled_from(["language", "country"]), scalars, max_size=2),
    increment=st.dictionaries(st.sampled_from(COUNTERS), amounts, max_size=2),
    increment_tags=st.dictionaries(names, amounts, max_size=3),
)
