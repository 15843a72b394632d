"""Which updates have an effect where some carry idempotency keys: under one key, only the first."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from consumer.subscription_queue import PendingUpdate
from shared.errors import Rejected
from shared.updates import ABSENT, KEY_KNOWN_FOR_MS, Once

REUSED: Final = "idempotency_key_reused"


class KeyUse(msgspec.Struct, frozen=True, gc=False):
    """The first use of a key: the update at `offset`, which has the effect."""

    app_id: str
    subscription_id: str
    once: Once
    offset: int
    accepted_ms: int


KnownUses = Mapping[tuple[str, str, str], KeyUse]
"""By app ID, subscription ID and key."""


class Judged(NamedTuple):
    """What of a subscription's updates can be folded."""

    updates: Sequence[PendingUpdate]
    """Those before the first that reuses a key; a repetition is one that changes nothing."""
    first_uses: Sequence[KeyUse]
    """What is to be known together with their effect."""


def judge(pending: Sequence[PendingUpdate], known: KnownUses) -> Judged:
    """Look at updates of one subscription, in their order, in the light of what came before them.

    Depends on records alone, not on when they are read: whoever reads them again decides the same.
    """
    updates: list[PendingUpdate] = []
    first_uses: dict[str, KeyUse] = {}
    for each in pending:
        once = each.once
        if once is None:
            updates.append(each)
            continue
        key = (*each.key, once.key)
        use = first_uses.get(once.key) or known.get(key)
        if use is None or each.accepted_ms - use.accepted_ms >= KEY_KNOWN_FOR_MS:
            first_uses[once.key] = KeyUse(*key[:2], once, each.offset, each.accepted_ms)
            updates.append(each)
        elif use.offset >= each.offset:
            updates.append(each)  # itself, or older: come again, so its row's position decides
        elif use.once.body == once.body:
            updates.append(_nothing(each))
        else:
            break
    return Judged(updates, list(first_uses.values()))


def reused() -> Rejected:
    """Return why an update is given up whose key was used for another one."""
    return Rejected("Its idempotency key was used for another update.", reason=REUSED)


def _nothing(repeated: PendingUpdate) -> PendingUpdate:
    return msgspec.structs.replace(
        repeated, tags=ABSENT, properties=ABSENT, increment=ABSENT, increment_tags=ABSENT
    )
