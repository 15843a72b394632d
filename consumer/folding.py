"""Consecutive updates of one subscription, reduced to one change of its row."""

from collections.abc import Mapping, Sequence

import msgspec

from consumer.subscription_queue import PendingUpdate
from shared.errors import Rejected
from shared.updates import ABSENT, NOTHING, Scalar, read, read_all_sets, read_amounts, read_sets


class RowChange(msgspec.Struct, frozen=True, gc=False):
    """What one write does to one row: set and unset first, then add the increments on top.

    It holds the effect of the updates from `first_offset` to `last_offset`, and is right only
    for a row that has none of them. `accepted_ms` is the acceptance of the last, in Unix time.
    """

    app_id: str
    subscription_id: str
    tags: Mapping[str, Scalar | None]
    properties: Mapping[str, Scalar | None]
    increment: Mapping[str, int]
    increment_tags: Mapping[str, int]
    first_offset: int
    last_offset: int
    accepted_ms: int


def fold(pending: Sequence[PendingUpdate]) -> RowChange:
    """Reduce updates of one subscription, left to right, to one equivalent change.

    A later set wins over earlier sets and increments of its key. Increments after it are summed,
    not evaluated: only the database knows what they add to, and it counts in exact decimals.

    Raises:
        Rejected: one of them holds what no update may hold.
    """
    first, last = pending[0], pending[-1]
    if len(pending) == 1:
        tags, increment_tags = _open(first.tags, first.increment_tags)
        properties, increment = _open(first.properties, first.increment)
    else:
        tags, increment_tags = _fold([p.tags for p in pending], [p.increment_tags for p in pending])
        properties, increment = _fold(
            [p.properties for p in pending], [p.increment for p in pending]
        )
    return RowChange(
        *first.key,
        tags,
        properties,
        increment,
        increment_tags,
        first.offset,
        last.offset,
        last.accepted_ms,
    )


def first_unreadable(pending: Sequence[PendingUpdate]) -> tuple[int, Rejected]:
    """Return the place of the first update that holds what none may hold, and what that is.

    To be asked of updates that cannot be folded, so that there is one.
    """
    for place, each in enumerate(pending):
        try:
            fold([each])
        except Rejected as rejected:
            return place, _in_whole(each, rejected)
    raise AssertionError("Each of them can be folded, so all of them can.")


def _in_whole(unreadable: PendingUpdate, rejected: Rejected) -> Rejected:
    """Say where in the whole record it is."""
    try:
        read(unreadable.record.value)
    except Rejected as of_record:
        return of_record
    return rejected


_Sets = Mapping[str, Scalar | None]
_Adds = Mapping[str, int]


def _open(sets: msgspec.Raw, adds: msgspec.Raw) -> tuple[_Sets, _Adds]:
    return (
        NOTHING if sets is ABSENT else read_sets(sets),
        NOTHING if adds is ABSENT else read_amounts(adds),
    )


def _fold(sets: Sequence[msgspec.Raw], adds: Sequence[msgspec.Raw]) -> tuple[_Sets, _Adds]:
    """Reduce sets, each followed by its increments, to one of both."""
    if adds.count(ABSENT) == len(adds):
        return _merge([each for each in sets if each is not ABSENT]), NOTHING
    merged: dict[str, Scalar | None] = {}
    sums: dict[str, int] = {}
    for later_sets, later_adds in map(_open, sets, adds):
        merged.update(later_sets)
        for name in later_sets:
            sums.pop(name, None)
        for name, amount in later_adds.items():
            sums[name] = sums.get(name, 0) + amount
    return merged, sums


def _merge(sets: Sequence[msgspec.Raw]) -> _Sets:
    if not sets:
        return NOTHING
    merged, *later = read_all_sets(sets)
    for each in later:
        merged.update(each)
    return merged
