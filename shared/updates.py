"""One update of one subscription, and its only wire format.

The value of a record is JSON, readable with kcat:

    {"schema":1,"app_id":"…","subscription_id":"…","tags":{"plan":"pro","old":null},
     "properties":{"language":"en"},"increment":{"session_count":1},"increment_tags":{"level":2}}

`null` unsets. Within one update sets come first and increments are added on top. One that was sent
with an idempotency key also has `"once":{"key":"…","body":"…"}`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from shared.errors import Rejected
from shared.topology import partition_of

T = TypeVar("T")

NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
"""No tags, properties or increments: one object for all, where `{}` would be a new one for each."""

Scalar = str | int | float | bool
"""What a tag or a property may hold."""

COUNTERS: Final = ("session_count", "session_time_s")
"""Properties that are only ever added to."""

Amount = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What one increment may add."""

KEY_KNOWN_FOR_MS: Final = 24 * 3_600_000
"""How long after its first use an idempotency key is known, by acceptance."""

Digest = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
"""128 bits in hexadecimal."""

_is_canonical = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}").fullmatch


class Once(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What tells an update that comes again from one that only has the same idempotency key.

    Digests, of the key and of what the update does. A key counts for one subscription.
    """

    key: Digest
    body: Digest


class Update(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    gc=False,  # holds no references back to itself; spares the collector millions of objects
):
    """One request to change one subscription.

    IDs are canonical UUID text (lower case, hyphenated): two spellings of one ID would be two
    queues for one row. `increment` adds to `COUNTERS`, `increment_tags` to numeric tags; a tag
    or counter that is missing or not a number starts from 0. What is `NOTHING` is left out when
    it is encoded.
    """

    schema: Literal[1]
    app_id: str
    subscription_id: str
    tags: Mapping[str, Scalar | None] = NOTHING
    properties: Mapping[str, Scalar | None] = NOTHING
    increment: Mapping[str, Amount] = NOTHING
    increment_tags: Mapping[str, Amount] = NOTHING
    once: Once | None = None


ABSENT: Final = msgspec.Raw()
"""What a sealed update does not have."""


class SealedUpdate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """An update of which only that was read which decides on its way.

    What it changes is JSON still, a part of the record's value, which costs neither the time to
    make objects of it nor the memory to keep them until it is folded. `read_sets` and
    `read_amounts` open it, and are the first to see what no update may hold.
    """

    schema: Literal[1]
    app_id: str
    subscription_id: str
    tags: msgspec.Raw = ABSENT
    properties: msgspec.Raw = ABSENT
    increment: msgspec.Raw = ABSENT
    increment_tags: msgspec.Raw = ABSENT
    once: Once | None = None


_encode = msgspec.json.Encoder().encode


def encode(update: Update) -> bytes:
    """Return the record value of `update`."""
    return _encode(update)


def decode(value: bytes | None, partition: int) -> Update:
    """Read a record value that was found in `partition`.

    Raises:
        Rejected: it is not JSON, not of `schema` 1, has unknown or mistyped fields, its IDs are
            not canonical, or its app lives in another partition.
    """
    update = read(value)
    check_ids(update, partition)
    return update


def _reader(kind: type[T]) -> Callable[[bytes | msgspec.Raw | None], T]:
    """Return what reads JSON, or raises `Rejected`."""
    decode = msgspec.json.Decoder(kind).decode

    def read(value: bytes | msgspec.Raw | None) -> T:
        if value is None:
            raise Rejected("The record has no value.", reason="undecodable")
        try:
            return decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            # The library's text may quote a field name, never a value.
            raise Rejected(f"The value cannot be decoded: {error}", reason="undecodable") from error

    return read


read = _reader(Update)
"""Read a record value, whatever its IDs are; `Rejected` where it is no JSON, not of `schema` 1, or
has unknown or mistyped fields."""

read_sealed = _reader(SealedUpdate)
"""Read what decides on an update's way; `Rejected` as with `read`, but for what is sealed."""

read_sets = _reader(dict[str, Scalar | None])
"""Open tags or properties; `Rejected` where they are none."""

read_amounts = _reader(dict[str, Amount])
"""Open increments; `Rejected` where they are none."""

_read_list_of_sets = _reader(list[dict[str, Scalar | None]])


def read_all_sets(sealed: Sequence[msgspec.Raw]) -> list[dict[str, Scalar | None]]:
    """Open tags or properties of several updates, in little more time than those of one.

    Raises:
        Rejected: some are none.
    """
    return _read_list_of_sets(b"[%b]" % b",".join(sealed))


def check_ids(update: Update | SealedUpdate, partition: int) -> None:
    """Look at the IDs of an update that was found in `partition`.

    Raises:
        Rejected: they are not canonical, or its app lives in another partition.
    """
    home = _home_of(update.app_id)
    if home is None or _is_canonical(update.subscription_id) is None:
        raise Rejected("The IDs are not canonical UUIDs.", reason="undecodable")
    if home != partition:
        raise Rejected(f"The app lives in partition {home}.", reason="wrong_partition")


@lru_cache(maxsize=65_536)
def _home_of(app_id: str) -> int | None:
    """Return the partition of an app, of which there are few; None where its ID is none."""
    return partition_of(app_id) if _is_canonical(app_id) else None
