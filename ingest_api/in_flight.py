"""How much waits for Kafka's acknowledgement, by partition and in all, and whether it moves.

aiokafka's buffer has no bound and an idempotent producer never gives up, so this is the bound:
what has been handed over counts until Kafka has answered, also where the client was told 504.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from ingest_api.settings import ProduceSettings
from shared.errors import Transient


@dataclass(slots=True)
class Progress:
    """Whether somebody who has been given work gets on with it."""

    outstanding: int = 0
    moved_at: float = 0.0

    def begin(self, count: int, now: float) -> None:
        """Note `count` more to do."""
        if not self.outstanding:
            self.moved_at = now
        self.outstanding += count

    def end(self, count: int, now: float) -> None:
        """Note `count` done."""
        self.outstanding -= count
        self.moved_at = now

    def withdraw(self, count: int) -> None:
        """Note `count` that need not be done after all, which is no progress."""
        self.outstanding -= count

    def idle_for(self, now: float) -> float:
        """Return the seconds since anything was done that there is to do."""
        return now - self.moved_at if self.outstanding else 0.0


@dataclass(slots=True)
class _Lane:
    progress: Progress
    size: int = 0


class InFlight:
    """Admits updates while there is room in their partition and in all, and the partition moves."""

    def __init__(
        self, settings: ProduceSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._lanes: dict[int, _Lane] = {}
        self.updates = 0
        self.bytes = 0

    def admit(self, partition: int, updates: int, size: int) -> None:
        """Count `updates` of `size` bytes in.

        Raises:
            Transient: there is no room, or the partition has stopped moving.
        """
        settings = self._settings
        lane = self._lanes.get(partition)
        if lane is None:
            lane = self._lanes[partition] = _Lane(Progress())
        now = self._clock()
        if lane.progress.idle_for(now) * 1000 > settings.stalled_after_ms:
            raise Transient("Kafka does not acknowledge what was sent before.")
        if (
            self.updates + updates > settings.updates_in_flight_max
            or self.bytes + size > settings.bytes_in_flight_max
            or lane.progress.outstanding + updates > settings.partition_updates_in_flight_max
            or lane.size + size > settings.partition_bytes_in_flight_max
        ):
            raise Transient("Too many updates wait to be acknowledged.", saturation=True)
        lane.progress.begin(updates, now)
        lane.size += size
        self.updates += updates
        self.bytes += size

    def settle(self, partition: int, updates: int, size: int) -> None:
        """Count out what Kafka has answered."""
        self._lanes[partition].progress.end(updates, self._clock())
        self._count_out(partition, updates, size)

    def withdraw(self, partition: int, updates: int, size: int) -> None:
        """Count out what was never sent."""
        self._lanes[partition].progress.withdraw(updates)
        self._count_out(partition, updates, size)

    def _count_out(self, partition: int, updates: int, size: int) -> None:
        self._lanes[partition].size -= size
        self.updates -= updates
        self.bytes -= size
