"""One update of one subscription, and its only wire format.

The value of a record is JSON, readable with kcat:

    {"schema":1,"app_id":"…","subscription_id":"…","tags":{"plan":"pro","old":null},
     "properties":{"language":"en"},"increment":{"session_count":1},"increment_tags":{"level":2}}

`null` unsets. Within one update sets come first and increments are added on top. One that was sent
with an idempotency key also has `"once":{"key":"…","body":"…"}`.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

import msgspec

from shared.errors import Rejected
from shared.topology import partition_of

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

Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
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


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Update).decode


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


def read(value: bytes | None) -> Update:
    """Read a record value, whatever its IDs are.

    Raises:
        Rejected: it is not JSON, not of `schema` 1, or has unknown or mistyped fields.
    """
    if value is None:
        raise Rejected("The record has no value.", reason="undecodable")
    try:
        return _decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # The library's text may quote a field name, never a value.
        raise Rejected(f"The value cannot be decoded: {error}", reason="undecodable") from error


def check_ids(update: Update, partition: int) -> None:
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
