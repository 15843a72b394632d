"""Which subscriptions are held back: the control records, and the table they add up to.

The control topic is compacted. Under the key `app` or `app/subscription` operators say what they
want; under the same key with `#released` the consumer says how far a release has come. Each side
writes keys of its own, so neither overwrites the other's word, whatever compaction leaves.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, NamedTuple, Protocol

import msgspec

from shared.origins import PREFIX, Header
from shared.topology import PARTITIONS, partition_of

HELD_PARTITIONS: Final = 60
"""Partitions of the holding topic: each takes what twelve neighbours hold back."""

_RELEASED: Final = "#released"
_HELD_OFFSET: Final = f"{PREFIX}held_offset"
_HELD_RUN: Final = f"{PREFIX}held_run"


def held_partition_of(partition: int) -> int:
    """Return where in the holding topic a partition's updates wait."""
    return partition * HELD_PARTITIONS // PARTITIONS


class HoldKey(NamedTuple):
    """What is held: an app, or one subscription of it."""

    app: str
    subscription: str | None = None

    def __str__(self) -> str:
        return self.app if self.subscription is None else f"{self.app}/{self.subscription}"

    def covers(self, app: str, subscription: str) -> bool:
        """Say whether updates of this subscription are meant."""
        return self.app == app and self.subscription in {None, subscription}

    def overlaps(self, other: "HoldKey") -> bool:
        """Say whether there may be a subscription that both cover."""
        return self.app == other.app and (
            self.subscription is None
            or other.subscription is None
            or self.subscription == other.subscription
        )


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator wants; `id` is new whenever a hold is added."""

    schema: Literal[1] = 1
    id: str
    state: Literal["holding", "releasing"]
    reason: str
    since_ms: int
    held_from: int
    """In the holding topic, an offset at or below the first update of this hold."""
    by: str = ""


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """How far the owner of the partition has come with the release of the hold `id`."""

    schema: Literal[1] = 1
    id: str
    released_end: int
    """In the holding topic, the offset below which nothing of it waits any more."""
    at_ms: int


class HoldState(Enum):
    """HOLDING back, RELEASING what was held back before anything newer, or RELEASED."""

    HOLDING = "holding"
    RELEASING = "releasing"
    RELEASED = "released"


@dataclass(frozen=True, slots=True)
class HoldView:
    """A hold as it stands."""

    key: HoldKey
    id: str
    state: HoldState
    reason: str
    since_ms: int
    by: str
    read_from: int
    """In the holding topic, the offset from which updates of it may wait."""


class Holds:
    """All holds, as the control records say that were read so far."""

    def __init__(self) -> None:
        self._holds: dict[HoldKey, Hold] = {}
        self._released: dict[HoldKey, Released] = {}
        self._keys: defaultdict[int, set[HoldKey]] = defaultdict(set)

    def apply(self, key: bytes | None, value: bytes | None) -> None:
        """Take in the next control record.

        Raises:
            ValueError: it is none of ours, and nothing has changed.
        """
        text = (key or b"").decode()
        hold_key = _parsed(text.removesuffix(_RELEASED))
        try:
            if text.endswith(_RELEASED):
                self._released[hold_key] = msgspec.json.decode(value or b"", type=Released)
            else:
                self._holds[hold_key] = msgspec.json.decode(value or b"", type=Hold)
        except msgspec.DecodeError as error:
            raise ValueError(str(error)) from error
        self._keys[partition_of(hold_key.app)].add(hold_key)

    def view(self, key: HoldKey) -> HoldView | None:
        """Return how a hold stands; None where there never was one."""
        hold = self._holds.get(key)
        if hold is None:
            return None
        released = self._released.get(key)
        state, read_from = HoldState(hold.state), hold.held_from
        # Of another hold of the same key, it says nothing about this one.
        if released is not None and released.id == hold.id and state is HoldState.RELEASING:
            state, read_from = HoldState.RELEASED, released.released_end
        return HoldView(key, hold.id, state, hold.reason, hold.since_ms, hold.by, read_from)

    def views(self) -> Iterator[HoldView]:
        """Yield every hold, released ones too."""
        for key in self._holds:
            view = self.view(key)
            assert view is not None
            yield view

    def of_partition(self, partition: int) -> Sequence[HoldView]:
        """Return the holds of a partition's apps, released ones too."""
        if partition not in self._keys:
            return ()
        views = (self.view(key) for key in sorted(self._keys[partition], key=str))
        return [view for view in views if view is not None]

    def held_from(self, key: HoldKey, end: int) -> int:
        """Return from where a new hold's release must read.

        `end` is the end of the holding topic's partition, read before these control records were:
        so a hold that is missing here has held nothing back below it. What another hold has held
        back of the same subscriptions may be left to this one to apply.
        """
        return min([end, *(each.read_from for each in self.views() if each.key.overlaps(key))])


def _parsed(text: str) -> HoldKey:
    app, slash, subscription = text.partition("/")
    key = HoldKey(app, subscription if slash else None)
    partition_of(app)  # raises ValueError where it is no ID
    return key


def control_record(key: HoldKey, value: Hold | Released) -> tuple[bytes, bytes]:
    """Return key and value of a control record."""
    suffix = _RELEASED if isinstance(value, Released) else ""
    return f"{key}{suffix}".encode(), msgspec.json.encode(value)


class _HasHeaders(Protocol):
    headers: Any


@dataclass(frozen=True, slots=True)
class HeldAt:
    """Where a held update was accepted, and in which run of appends it was moved away."""

    offset: int
    run: str


def held_headers(at: HeldAt) -> Iterable[Header]:
    """Return what is added to the headers of an update that is held back."""
    return (_HELD_OFFSET, str(at.offset).encode()), (_HELD_RUN, at.run.encode())


def held_at(record: _HasHeaders) -> tuple[HeldAt, Sequence[Header]] | None:
    """Read where a held update came from, and its own headers; None where it is none of ours."""
    match list(record.headers):
        case [*own, (name, offset), (other, run)] if (name, other) == (_HELD_OFFSET, _HELD_RUN):
            return HeldAt(int(offset), run.decode()), own
    return None
