"""What is sent over time, and what happens to the shards meanwhile."""

from dataclasses import dataclass
from typing import Final

BASE_PER_S: Final = 2_000
BURST_PER_S: Final = 20_000
UPDATES_PER_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Scenario:
    """A base of single updates, and between two times something more.

    `event` is when it begins and ends; `burst` adds batches then, `stalled` freezes a shard.
    """

    name: str
    seconds: float
    event: tuple[float, float] | None = None
    burst: bool = False
    stalled: str | None = None


SCENARIOS: Final = (
    Scenario("steady", 60),
    Scenario("burst", 95, event=(15, 75), burst=True),
    Scenario("stall", 80, event=(20, 50), stalled="shard-2"),
)
