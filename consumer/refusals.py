"""Which update of each fold is the first that Postgres refuses, looked for in all side by side."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from consumer.folding import RowChange, fold
from consumer.subscription_queue import PendingUpdate
from shared.errors import Rejected

Judge = Callable[[Sequence[RowChange]], Awaitable[Sequence[Rejected | None]]]
"""Says of each change why a write of it would be refused, None where it would not be."""

_PARTS: Final = 8
"""Into how many a fold is cut at once: most have no more updates, and one question is enough."""


@dataclass(slots=True)
class Refusal:
    """Why an update is refused, and how many older ones of its fold are accepted."""

    accepted: int
    rejected: Rejected


async def first_refused(
    folds: Sequence[Sequence[PendingUpdate]], changes: Sequence[RowChange], judge: Judge
) -> Sequence[Refusal | None]:
    """Return of each fold the first update that makes it refused, None where all is accepted.

    `changes` has what each amounts to. Asks once for all of them, and once more for each time
    that the longest refused one can be cut into parts.
    """
    judged = await judge(changes)
    searches = [
        _Search(updates, 0, len(updates), rejected) if rejected else None
        for updates, rejected in zip(folds, judged, strict=True)
    ]
    while wide := [each for each in searches if each and each.accepted + 1 < each.refused]:
        ends = [each.ends for each in wide]
        judged = await judge(
            [
                fold(search.updates[:end])
                for search, search_ends in zip(wide, ends, strict=True)
                for end in search_ends
            ]
        )
        answers = iter(judged)
        for search, search_ends in zip(wide, ends, strict=True):
            search.narrow([(end, next(answers)) for end in search_ends])
    return [Refusal(each.accepted, each.rejected) if each else None for each in searches]


@dataclass(slots=True)
class _Search:
    """The fold of the oldest `refused` updates is refused, that of the oldest `accepted` is not."""

    updates: Sequence[PendingUpdate]
    accepted: int
    refused: int
    rejected: Rejected

    @property
    def ends(self) -> Sequence[int]:
        """How many of the oldest updates to ask about, between the two."""
        step = -(-(self.refused - self.accepted) // _PARTS)
        return range(self.accepted + step, self.refused, step)

    def narrow(self, judged: Sequence[tuple[int, Rejected | None]]) -> None:
        """Note what was said of each, the shortest first."""
        for end, rejected in judged:
            if rejected is not None:
                self.refused, self.rejected = end, rejected
                return
            self.accepted = end
