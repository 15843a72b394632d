"""When an update has reached its row, seen from outside.

On each shard one row is written by nobody but its probe: an update every fifth of a second that
sets a tag to the next number. The row is read every two milliseconds while a number is awaited,
and less often the longer that takes: a time is right to 2 ms or to 2 %, whichever is more. A
number that is found says that all numbers before it have arrived too.
"""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from typing import Final

import asyncpg
from pydantic import SecretStr

from benchmarks.loads import Row

INTERVAL_S: Final = 0.2
TAG: Final = "probe"
_POLL_S: Final = 0.002
_POLL_SHARE: Final = 0.02
_READ: Final = f"""
SELECT coalesce((tags ->> '{TAG}')::integer, 0) FROM subscriptions
WHERE app_id = $1 AND subscription_id = $2
"""  # noqa: S608 - a constant of ours


@dataclass(frozen=True, slots=True)
class Arrival:
    """A probe that has reached its row."""

    at_s: float
    """When it was to be sent, after the start."""
    lag_s: float
    """How long after that its row was seen to hold it."""


class Probe:
    """The probe of one shard."""

    def __init__(self, shard: str, row: Row) -> None:
        self.shard = shard
        self.row = row
        self.arrivals: list[Arrival] = []
        self._awaited: deque[tuple[int, float]] = deque()

    def expect(self, number: int, at_s: float) -> None:
        """Note that a number is going to be sent."""
        self._awaited.append((number, at_s))

    @property
    def outstanding(self) -> int:
        """How many have not arrived."""
        return len(self._awaited)

    async def watch(self, dsn: SecretStr, started: float) -> None:
        """Look for what is awaited, until cancelled; `started` is the clock at the start."""
        connection = await asyncpg.connect(dsn.get_secret_value())
        try:
            read = await connection.prepare(_READ)
            while True:
                now_s = time.monotonic() - started
                if not self._awaited or self._awaited[0][1] > now_s:
                    await asyncio.sleep(_POLL_S)
                    continue
                found: int = await read.fetchval(self.row.app_id, self.row.subscription_id)
                now_s = time.monotonic() - started
                while self._awaited and self._awaited[0][0] <= found:
                    _, at_s = self._awaited.popleft()
                    self.arrivals.append(Arrival(at_s, now_s - at_s))
                age_s = now_s - self._awaited[0][1] if self._awaited else 0.0
                await asyncio.sleep(max(_POLL_S, age_s * _POLL_SHARE))
        finally:
            connection.terminate()
