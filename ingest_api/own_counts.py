"""What has passed in this process.

Ours and not the library `limits`: its storage in memory looks at every key after every hit, which
with a hundred thousand subscriptions costs more than all the rest of a request.
"""

import time
from collections.abc import Callable, Sequence
from typing import Final

from ingest_api.limits import Waits
from ingest_api.settings import LimitSettings

_KEYS_BEFORE_SWEEP: Final = 10_000


class Rate:
    """Lets so many updates a second pass for each key, and `burst_s` seconds' worth at once.

    For each key it knows one time: when all that has passed would have, at that rate (GCRA). What
    passes together may exceed the burst, because a batch larger than it could never pass; it is
    paid back by what comes after.
    """

    def __init__(self, per_s: float, burst_s: float) -> None:
        self._interval_s = 1 / per_s
        self._ahead_max_s = max(0.0, burst_s - self._interval_s)
        self._paid_until: dict[str, float] = {}
        self._sweep_at = _KEYS_BEFORE_SWEEP

    def wait_s(self, key: str, now: float) -> float:
        """Return after how many seconds one more may pass; 0 where it may now."""
        paid_until = self._paid_until.get(key)
        if paid_until is None:
            return 0.0
        return max(0.0, paid_until - now - self._ahead_max_s)

    def count(self, key: str, updates: int, now: float) -> None:
        """Let updates pass."""
        paid_until = self._paid_until.get(key, 0.0)
        self._paid_until[key] = max(paid_until, now) + updates * self._interval_s
        if len(self._paid_until) >= self._sweep_at:
            self._paid_until = {k: until for k, until in self._paid_until.items() if until > now}
            self._sweep_at = max(_KEYS_BEFORE_SWEEP, 2 * len(self._paid_until))


class OwnCounts:
    """Counts what passes in this process."""

    def __init__(
        self, settings: LimitSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.alone = 0
        self._clock = clock
        app, subscription = settings.app_updates_per_s, settings.subscription_updates_per_s
        self._apps = Rate(app, settings.burst_s) if app else None
        self._subscriptions = Rate(subscription, settings.burst_s) if subscription else None

    async def take(self, app_id: str, subscription_ids: Sequence[str]) -> Waits:
        """Count one update of each, unless anything has to wait: then nothing is counted."""
        now = self._clock()
        apps, subscriptions = self._apps, self._subscriptions
        app_s = apps.wait_s(app_id, now) if apps else 0.0
        waits_s = [0.0] * len(subscription_ids)
        if subscriptions:
            keys = [app_id + each for each in subscription_ids]
            waits_s = [subscriptions.wait_s(key, now) for key in keys]
            if not app_s and not any(waits_s):
                for key in keys:
                    subscriptions.count(key, 1, now)
        if apps and subscription_ids and not app_s and not any(waits_s):
            apps.count(app_id, len(subscription_ids), now)
        return Waits(app_s, waits_s)
