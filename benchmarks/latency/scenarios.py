"""What is sent over time, and what happens to the shards meanwhile."""

from dataclasses import dataclass
from typing import Final

BASE_PER_S: Final = 2_000
BURST_PER_S: Final = 20_000
SOAK_PER_S: Final = 1_000
"""What a slow machine bears, too: the soak is about memory."""

UPDATES_PER_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Scenario:
    """A base of single updates a second, and between two times something more.

    `event` is when it begins and ends; `burst` adds batches then, `stalled` freezes a shard.
    Those that a pause of the machine would spoil are played more than once (`plays`).
    """

    name: str
    seconds: float
    event: tuple[float, float] | None = None
    burst: bool = False
    stalled: str | None = None
    plays: int = 1
    base_per_s: int = BASE_PER_S


SCENARIOS: Final = (
    Scenario("steady", 60, plays=3),
    Scenario("burst", 95, event=(15, 75), burst=True),
    Scenario("stall", 80, event=(20, 50), stalled="shard-2"),
)
