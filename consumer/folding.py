"""Consecutive updates of one subscription, reduced to one change of its row."""

from collections.abc import Mapping, Sequence

import msgspec

from consumer.subscription_queue import PendingUpdate
from shared.updates import Scalar


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
    """
    first, last = pending[0], pending[-1]
    update = first.update
    tags, properties = update.tags, update.properties
    increment, increment_tags = update.increment, update.increment_tags
    if len(pending) > 1:
        tags, increment_tags = _fold([(p.update.tags, p.update.increment_tags) for p in pending])
        properties, increment = _fold([(p.update.properties, p.update.increment) for p in pending])
    return RowChange(
        update.app_id,
        update.subscription_id,
        tags,
        properties,
        increment,
        increment_tags,
        first.record.offset,
        last.record.offset,
        last.record.timestamp,
    )


def _fold(
    changes: Sequence[tuple[Mapping[str, Scalar | None], Mapping[str, int]]],
) -> tuple[dict[str, Scalar | None], dict[str, int]]:
    """Reduce sets, each followed by its increments, to one of both."""
    sets: dict[str, Scalar | None] = {}
    adds: dict[str, int] = {}
    for later_sets, later_adds in changes:
        sets.update(later_sets)
        if adds:
            for name in later_sets:
                adds.pop(name, None)
        for name, amount in later_adds.items():
            adds[name] = adds.get(name, 0) + amount
    return sets, adds
