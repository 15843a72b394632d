"""What the dead-letter topic and the holding topics say of updates, as far as they were read."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ingest_api.receipts import APPLIED, HELD, PENDING, Place, Standing
from shared.errors import Rejected
from shared.holds import Holds, HoldState, held_at
from shared.origins import Origin, facts
from shared.topology import partition_of
from shared.updates import decode


class UnknownReceiptError(LookupError):
    """There is no such update, or it is another app's."""


class ExpiredReceiptError(LookupError):
    """The update is too old for anything to be known of it."""


class _GivenUp(NamedTuple):
    app: str
    standing: Standing


@dataclass(frozen=True, slots=True)
class _HeldBack:
    app: str
    subscription: str
    offset: int
    """In the holding topic."""


class Outcomes:
    """Keeps what became of updates that were not simply applied, the newest `entries_max` of each.

    `known_from` has by partition the offset from which on everything is known; what is dropped to
    stay within the bound moves it up.
    """

    def __init__(self, topic: str, known_from: Mapping[int, int], *, entries_max: int) -> None:
        self.holds = Holds()
        self._topic = topic
        self._known_from = defaultdict(int, known_from)
        self._entries_max = entries_max
        self._given_up: dict[Place, _GivenUp] = {}
        self._held_back: dict[Place, _HeldBack] = {}

    def dead_letter(self, record: Any) -> None:
        """Take in a record of the dead-letter topic."""
        origin = Origin.of_headers(record.headers)
        if origin is None or origin.topic != self._topic:
            return
        said = facts(record.headers)
        standing = Standing("dead-lettered", said.get("reason"), said.get("message"))
        app = (record.key or b"").decode(errors="replace")
        self._given_up[Place(origin.partition, origin.offset)] = _GivenUp(app, standing)
        self._keep_within_bound(self._given_up)

    def held(self, record: Any) -> None:
        """Take in a record of the holding topic."""
        try:
            partition = partition_of((record.key or b"").decode())
            update = decode(record.value, partition)
        except (ValueError, Rejected):
            return  # none of ours
        if (came_from := held_at(record)) is not None:
            at, _ = came_from
            held = _HeldBack(update.app_id, update.subscription_id, record.offset)
            self._held_back[Place(partition, at.offset)] = held
            self._keep_within_bound(self._held_back)

    def _keep_within_bound(self, entries: dict[Place, Any]) -> None:
        if len(entries) > self._entries_max:
            oldest = next(iter(entries))
            del entries[oldest]
            known_from = self._known_from[oldest.partition]
            self._known_from[oldest.partition] = max(known_from, oldest.offset + 1)

    def standing(self, place: Place, app: str | None, committed: int) -> Standing:
        """Say where an update stands.

        Args:
            place: where it was accepted.
            app: whose it must be; None for anybody's.
            committed: the next offset that consumers will read of its partition, which was read
                before what this has taken in: then an update that was given up or held back
                counts as that, and never as applied.

        Raises:
            ExpiredReceiptError: too much has happened since, or too long ago.
            UnknownReceiptError: it is another app's.
        """
        given_up, held_back = self._given_up.get(place), self._held_back.get(place)
        for known in (given_up, held_back):
            if known is not None and app not in {None, known.app}:
                raise UnknownReceiptError
        if given_up is not None:
            return given_up.standing
        if held_back is not None and self._is_waiting(place, held_back):
            return HELD
        if place.offset < self._known_from[place.partition]:
            raise ExpiredReceiptError
        return APPLIED if place.offset < committed else PENDING

    def _is_waiting(self, place: Place, held: _HeldBack) -> bool:
        """Say whether a hold that is not yet released still has it."""
        return any(
            view.state is not HoldState.RELEASED
            and view.key.covers(held.app, held.subscription)
            and held.offset >= view.read_from
            for view in self.holds.of_partition(place.partition)
        )
