"""What has passed in all processes together, counted by a server that speaks Redis's protocol.

One script for a whole request, so that a batch of a thousand subscriptions is one round trip: the
library `limits` would ask once for each of them.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Final

import structlog
from pydantic import SecretStr
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from ingest_api.limits import Waits
from ingest_api.own_counts import OwnCounts
from ingest_api.settings import LimitSettings
from shared.errors import Misconfigured

log = structlog.get_logger()

_SCRIPT: Final = files("ingest_api").joinpath("take.lua").read_text("utf-8")
_CONNECTIONS_MAX: Final = 32
_RETRY_S: Final = 1.0
"""How long a server is left alone that did not answer."""


class SharedCounts:
    """Counts together with others; while the server does not answer, this process counts alone.

    So nobody is refused for want of the server who would have passed without one.
    """

    def __init__(self, settings: LimitSettings, client: Redis) -> None:
        self.alone = 0
        self.is_failing = False
        self._own = OwnCounts(settings)
        self._script = client.register_script(_SCRIPT)
        self._arguments = [
            *_microseconds(settings.app_updates_per_s, settings.burst_s),
            *_microseconds(settings.subscription_updates_per_s, settings.burst_s),
        ]
        self._timeout_s = settings.store_timeout_ms / 1000
        self._retry_at = 0.0

    async def take(self, app_id: str, subscription_ids: Sequence[str]) -> Waits:
        """Count one update of each, unless anything has to wait: then nothing is counted."""
        if time.monotonic() < self._retry_at:
            return await self._take_alone(app_id, subscription_ids)
        app = f"tidemark:{{{app_id}}}"  # braces: all keys of a request are on one node of a cluster
        keys = [app, *[f"{app}:{each}" for each in subscription_ids]]
        try:
            async with asyncio.timeout(self._timeout_s):
                app_us, *waits_us = await self._script(keys, self._arguments)
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            self._retry_at = time.monotonic() + _RETRY_S
            if not self.is_failing:
                log.warning("limits.counted_alone", reason=type(error).__name__)
            self.is_failing = True
            return await self._take_alone(app_id, subscription_ids)
        if self.is_failing:
            log.info("limits.counted_together")
        self.is_failing = False
        return Waits(app_us / 1e6, [wait_us / 1e6 for wait_us in waits_us])

    async def _take_alone(self, app_id: str, subscription_ids: Sequence[str]) -> Waits:
        self.alone += 1
        return await self._own.take(app_id, subscription_ids)


@asynccontextmanager
async def connected(url: SecretStr, settings: LimitSettings) -> AsyncIterator[SharedCounts]:
    """Count at the server of `url`, to which it connects when it is first asked.

    Raises:
        Misconfigured: the URL is none.
    """
    try:
        pool = BlockingConnectionPool.from_url(
            url.get_secret_value(), max_connections=_CONNECTIONS_MAX, retry=Retry(NoBackoff(), 0)
        )
    except ValueError:  # which may quote the URL, and the password in it
        raise Misconfigured(
            "TIDEMARK_LIMITS__STORE_URL is no URL such as rediss://user:password@host:6379/0."
        ) from None
    async with Redis.from_pool(pool) as client:
        yield SharedCounts(settings, client)


def _microseconds(per_s: float, burst_s: float) -> tuple[int, int]:
    """Return the time from one update to the next, and how far ahead of time one may be."""
    if not per_s:
        return 0, 0
    interval_us = max(1, round(1e6 / per_s))
    return interval_us, max(0, round(burst_s * 1e6) - interval_us)
