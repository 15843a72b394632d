"""What an arm is: a way to bring the updates of a topic into the rows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import SecretStr

from benchmarks.loads import Load
from benchmarks.measure import Rate
from deploy.local.stack import LocalStack
from shared.settings import KafkaSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one run has to apply."""

    stack: LocalStack
    kafka: KafkaSettings
    dsns: Mapping[str, SecretStr]
    group: str
    load: str
    rows: int
    """How many there are in all."""
    seed: int
    records: int
    """Records in the topic."""
    otlp_endpoint: str | None
    """Where spans are to be sent, if at all."""
    warm_up: KafkaSettings | None
    """A topic of other updates, for those who need to warm up."""
    begun: Callable[[], None]
    """To be called once they have, when servers' CPU time begins to count."""


@dataclass(frozen=True, slots=True)
class OurArm:
    """What all arms that are programs of ours have in common."""

    sets_positions: bool = True
    warms_up: bool = False
    keeps_dead_letters: bool = False

    def missing(self) -> str | None:
        """It is always here."""
        return None


class Arm(Protocol):
    """A way to apply updates."""

    @property
    def name(self) -> str:
        """What it is called on the command line and in tables."""
        ...

    @property
    def meaning(self) -> str:
        """What it is, in one line."""
        ...

    @property
    def sets_positions(self) -> bool:
        """Whether it leaves the offset of the last update in the row."""
        ...

    @property
    def keeps_dead_letters(self) -> bool:
        """Whether what Postgres refuses must be in the dead-letter topic afterwards."""
        ...

    @property
    def warms_up(self) -> bool:
        """Whether it needs other updates beforehand, until it has its full speed."""
        ...

    def records(self, load: Load) -> int | None:
        """Return how many records of a load it gets; None where it makes no sense."""
        ...

    def missing(self) -> str | None:
        """Say in a sentence why it cannot run here, if so."""
        ...

    def run(self, task: Task) -> Rate:
        """Apply everything, and return how fast that went."""
        ...
