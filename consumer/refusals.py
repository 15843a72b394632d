"""Which update of each fold is the first that Postgres refuses, looked for in all side by side."""

import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from consumer.folding import RowChange, fold
from consumer.subscription_queue import PendingUpdate, Record
from shared.errors import Rejected

_PARTS: Final = 8
"""Into how many a fold is cut at once: most have no more updates, and are asked about once."""

_NULS_ASKED_MAX: Final = 8
"""Updates with a NUL that are asked about for one row: the first that is refused ends its fold."""

_NUL: Final = b"\\u0000"
_AN_ESCAPED_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""Not the same after an escaped backslash."""

Ask = Callable[[Sequence[RowChange]], Awaitable[Sequence[Rejected | None]]]
"""Asks a store of changes: for one reason, whether a write of each would be refused."""


def holds_nul(record: Record) -> bool:
    """Say whether a record's JSON has a NUL, of which Postgres keeps none.

    Nothing else is known that it refuses of JSON that was read as an update, so this is where to
    look first. It is no judgement: Postgres says what it refuses, and may find more.
    """
    value = record.value or b""
    return _NUL in value and _AN_ESCAPED_NUL.search(value) is not None


@dataclass(slots=True, eq=False)
class Question:
    """What a store can be asked of changes: for one reason, whether a write would be refused.

    `with_older` says that it depends on what older updates leave, so that an update can only be
    asked about together with them.
    """

    ask: Ask
    with_older: bool = False
    rows_left: int = 0
    """About how many more rows to ask before they are written, since some were refused lately."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an update is refused, and how many older ones of its fold are accepted."""

    accepted: int
    rejected: Rejected


def up_to_nuls(updates: Sequence[PendingUpdate]) -> Sequence[PendingUpdate]:
    """Return the first updates, among them no more with a NUL than are asked about at once."""
    places = (place for place, each in enumerate(updates) if holds_nul(each.record))
    one_too_many = next(islice(places, _NULS_ASKED_MAX, None), None)
    return updates[:one_too_many]


async def refused_for_nul(
    folds: Sequence[Sequence[PendingUpdate]], ask: Ask
) -> Sequence[Refusal | None]:
    """Return of each fold the first update that is refused, of those that hold a NUL.

    Asks once, and about each for itself: so whether one is refused does not depend on what it is
    folded with, which is another when it is read again.

    Raises:
        Rejected: the question itself is refused.
        Transient: the shard cannot tell now.
    """
    suspected = [
        (number, place, change)
        for number, updates in enumerate(folds)
        for place, change in _with_nul(updates)
    ]
    judged = await ask([change for _, _, change in suspected]) if suspected else []
    found: dict[int, Refusal] = {}
    for (number, place, _), rejected in zip(suspected, judged, strict=True):
        if rejected is not None:
            found.setdefault(number, Refusal(place, rejected))
    return [found.get(number) for number in range(len(folds))]


def _with_nul(updates: Sequence[PendingUpdate]) -> Iterator[tuple[int, RowChange]]:
    for place, each in enumerate(updates):
        if not holds_nul(each.record):
            continue
        try:
            yield place, fold([each])
        except Rejected:  # it holds what no update may hold, which is found without asking
            return


async def first_refused(
    folds: Sequence[Sequence[PendingUpdate]], changes: Sequence[RowChange], question: Question
) -> Sequence[Refusal | None]:
    """Return of each fold the first update that makes it refused, None where all is accepted.

    `changes` has what each amounts to. Asks once for all of them, and once more for each time
    that the longest refused one can be cut into parts; never about more updates than at first.

    Raises:
        Rejected: the question itself is refused.
        Transient: the shard cannot tell now.
    """
    judged = await question.ask(changes)
    searches = [
        _Search(updates, question.with_older, 0, len(updates), rejected) if rejected else None
        for updates, rejected in zip(folds, judged, strict=True)
    ]
    while wide := [each for each in searches if each and not each.is_over]:
        parts = [(search, part) for search in wide for part in search.parts]
        judged = await question.ask([fold(search.updates[part]) for search, part in parts])
        for (search, part), rejected in zip(parts, judged, strict=True):
            search.note(part, rejected)
    return [Refusal(each.accepted, each.rejected) if each else None for each in searches]


@dataclass(slots=True)
class _Search:
    """The oldest `accepted` updates are accepted, and one up to the oldest `refused` is not."""

    updates: Sequence[PendingUpdate]
    with_older: bool
    accepted: int
    refused: int
    rejected: Rejected

    @property
    def is_over(self) -> bool:
        return self.accepted + 1 == self.refused

    @property
    def parts(self) -> Sequence[slice]:
        """What to ask about, the oldest first: if all of it is accepted, it is in the rest."""
        if self.with_older:
            return [slice((self.accepted + self.refused) // 2)]
        step = -(-(self.refused - self.accepted) // _PARTS)
        starts = range(self.accepted, self.refused - step, step)
        return [slice(start, start + step) for start in starts]

    def note(self, part: slice, rejected: Rejected | None) -> None:
        """Note what was said of a part; once an older one is refused, nothing else counts."""
        if part.stop > self.refused:
            return
        if rejected is None:
            self.accepted = part.stop
        else:
            self.refused, self.rejected = part.stop, rejected
