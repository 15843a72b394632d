"""Connecting to a broker that is not connected: wanted by many requests, tried by one."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

PAUSE_AFTER_FAILURE_S: Final = 0.1


class Reachability:
    """Shares each attempt to connect among all who want it, and pauses after one that failed."""

    def __init__(
        self,
        connect: Callable[[int], Awaitable[bool]],
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._timeout_s = timeout_s
        self._clock = clock
        self._attempts: dict[int, asyncio.Future[bool]] = {}
        self._retry_at: dict[int, float] = {}

    async def reach(self, broker: int) -> bool:
        """Return whether the broker is connected now."""
        if (attempt := self._attempts.get(broker)) is not None:
            return await asyncio.shield(attempt)
        if self._clock() < self._retry_at.get(broker, 0.0):
            return False
        attempt = self._attempts[broker] = asyncio.get_running_loop().create_future()
        connected = False
        try:
            async with asyncio.timeout(self._timeout_s):
                connected = await self._connect(broker)
        except TimeoutError:
            pass
        finally:  # also where the request that tries is cancelled
            del self._attempts[broker]
            attempt.set_result(connected)
            if not connected:
                self._retry_at[broker] = self._clock() + PAUSE_AFTER_FAILURE_S
        return connected
