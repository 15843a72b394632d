"""Where the updates of one assigned partition go: on, into the holding topic, or to wait."""

import asyncio
from collections.abc import Sequence
from enum import Enum

from consumer.subscription_queue import Record
from shared.holds import HoldKey, HoldState, HoldView


class Route(Enum):
    """ON to its subscription's queue, HOLD back, or WAIT until the last held ones are ahead."""

    ON = "on"
    HOLD = "hold"
    WAIT = "wait"


class Diversion:
    """What one assignment of a partition holds back.

    It decides for itself when it stops: a release is over here only when this assignment has put
    all that was held back ahead of what comes next. That another consumer, perhaps a former
    owner, says that it is over changes nothing.
    """

    __slots__ = ("_active", "_closing", "_deferred", "_finished", "waits_from")

    def __init__(self) -> None:
        self.waits_from: int | None = None
        """The offset from which updates wait here until `finish`; None while none do."""
        self._active: dict[HoldKey, HoldView] = {}
        self._closing: HoldKey | None = None
        self._deferred: Sequence[HoldView] | None = None
        self._finished: set[str] = set()

    @property
    def is_active(self) -> bool:
        """Whether anything may be held back."""
        return bool(self._active)

    def follow(self, views: Sequence[HoldView], *, first: bool = False) -> None:
        """Take in how the holds of this partition stand now; `first` is at its assignment.

        A hold that was released before is looked at once more then: a former owner may have said
        so too early, and what it left is at the end of the holding topic.
        """
        if self._closing is not None:
            # Otherwise what waits now would be held back after what comes later.
            self._deferred = views
            return
        for view in views:
            known = view.key in self._active
            if view.id not in self._finished and (
                known or first or view.state is not HoldState.RELEASED
            ):
                self._active[view.key] = view

    def route(self, app: str, subscription: str) -> Route:
        """Say where an update goes."""
        found = [key for key in (HoldKey(app), HoldKey(app, subscription)) if key in self._active]
        if not found:
            return Route.ON
        return Route.WAIT if found == [self._closing] else Route.HOLD

    def release_next(self) -> HoldView | None:
        """Return a hold that is to be released: the one for which updates wait, if they do."""
        if self._closing is not None:
            return self._active[self._closing]
        for view in self._active.values():
            if view.state is not HoldState.HOLDING:
                return view
        return None

    def is_wanted(self, view: HoldView) -> bool:
        """Say whether the release that was begun is still what operators want."""
        now = self._active.get(view.key)
        return now is not None and now.id == view.id and now.state is not HoldState.HOLDING

    def is_left_to_the_app(self, key: HoldKey) -> bool:
        """Say whether all of it is held back by its app as well, and will be released with it."""
        return key.subscription is not None and HoldKey(key.app) in self._active

    def releases(self, key: HoldKey, app: str, subscription: str) -> bool:
        """Say whether the release of `key` is to apply an update of this subscription."""
        return key.covers(app, subscription) and not any(
            other != key and other.covers(app, subscription) for other in self._active
        )

    def close(self, key: HoldKey, received_to: int) -> None:
        """Hold nothing back for `key` any more; its updates from here on wait until `finish`.

        A release that is begun anew closes it once more, and changes nothing.
        """
        if self._closing is None:
            self._closing = key
            self.waits_from = received_to

    def finish(self, view: HoldView) -> None:
        """Let updates on: all that was held back for this hold is ahead of them."""
        self._finished.add(view.id)
        self._active.pop(view.key, None)
        self._closing = self.waits_from = None
        if self._deferred is not None:
            views, self._deferred = self._deferred, None
            self.follow(views)


class Feeding:
    """How many updates that were held back are in queues now and not yet durable."""

    __slots__ = ("outstanding", "settled")

    def __init__(self) -> None:
        self.outstanding = 0
        self.settled = asyncio.Event()
        self.settled.set()

    def began(self) -> None:
        """Note that one more is in its queue."""
        self.outstanding += 1
        self.settled.clear()

    def ended(self, count: int) -> None:
        """Note that as many are durable."""
        self.outstanding -= count
        if not self.outstanding:
            self.settled.set()


class ReleasedRecord:
    """A record that comes back from the holding topic, with the position it was accepted at.

    Its offset was completed when it was held back, so no tracker knows it.
    """

    __slots__ = ("headers", "key", "offset", "partition", "timestamp", "topic", "value")

    def __init__(
        self,
        held: Record,
        *,
        topic: str,
        partition: int,
        offset: int,
        headers: Sequence[tuple[str, bytes]],
    ) -> None:
        self.topic = topic
        self.partition = partition
        self.offset = offset
        self.timestamp = held.timestamp
        self.key = held.key
        self.value = held.value
        self.headers = headers
