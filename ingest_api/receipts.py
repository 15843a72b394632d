"""Receipts: what an accepted update is asked for by, and what may be said of it."""

import re
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Self

from shared.topology import PARTITIONS

State = Literal["pending", "applied", "dead-lettered", "held"]
"""What became of an update.

`pending`: not known to be in its row yet. `applied`: its row has it. `dead-lettered`: it could
never be applied, and is kept with the reason. `held`: an operator holds it back, and it will be
applied later.
"""

_is_receipt = re.compile(
    r"(0|[1-9]\d{0,9})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,18})", re.ASCII
).fullmatch


def receipt(epoch: int, partition: int, offset: int) -> str:
    """Return the receipt of the update at a position."""
    return f"{epoch}.{partition}.{offset}"


class Place(NamedTuple):
    """Where an update is in the topic of updates."""

    partition: int
    offset: int


class Receipt(NamedTuple):
    """A receipt, taken apart."""

    epoch: int
    place: Place

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `epoch.partition.offset`.

        Raises:
            ValueError: it is no receipt.
        """
        found = _is_receipt(text)
        if found is None or int(found[2]) >= PARTITIONS or int(found[3]) >= 2**63:
            raise ValueError(text)
        return cls(int(found[1]), Place(int(found[2]), int(found[3])))


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an update stands. `reason` is a slug and `detail` a sentence, where it was given up."""

    state: State
    reason: str | None = None
    detail: str | None = None


PENDING: Final = Standing("pending")
APPLIED: Final = Standing("applied")
HELD: Final = Standing("held")
