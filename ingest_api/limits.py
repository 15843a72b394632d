"""How often an app and a subscription may be updated, in this process; a batch counts its updates.

Ours and not the library `limits`: its storage in memory looks at every key after every hit, which
with a hundred thousand subscriptions costs more than all the rest of a request.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import Final

from ingest_api.problems import TOO_MANY, FieldError, ProblemError
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


class Limits:
    """Refuses what comes too fast."""

    def __init__(
        self, settings: LimitSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self._clock = clock
        app, subscription = settings.app_updates_per_s, settings.subscription_updates_per_s
        self._apps = Rate(app, settings.burst_s) if app else None
        self._subscriptions = Rate(subscription, settings.burst_s) if subscription else None

    def take(self, app_id: str, subscription_id: str) -> None:
        """Count one update.

        Raises:
            ProblemError: 429, and nothing is counted.
        """
        now = self._clock()
        self._check_app(app_id, now)
        if self._subscriptions is not None:
            key = app_id + subscription_id
            if wait_s := self._subscriptions.wait_s(key, now):
                raise self._too_many("subscription", wait_s)
            self._subscriptions.count(key, 1, now)
        if self._apps is not None:
            self._apps.count(app_id, 1, now)

    def check_app(self, app_id: str) -> None:
        """Refuse a batch before it is read.

        Raises:
            ProblemError: 429.
        """
        self._check_app(app_id, self._clock())

    def take_batch(
        self, app_id: str, subscription_ids: Sequence[str], places: Sequence[int]
    ) -> None:
        """Count the updates of a batch; `places` tells where in the body each of them is.

        Raises:
            ProblemError: 429, and nothing is counted.
        """
        now = self._clock()
        rate = self._subscriptions
        if rate is not None:
            keys = [app_id + each for each in subscription_ids]
            waits_s = [rate.wait_s(key, now) for key in keys]
            if any(waits_s):
                errors: list[FieldError] = [
                    {"pointer": f"#/updates/{place}", "detail": f"Its turn is in {wait_s:.1f} s."}
                    for place, wait_s in zip(places, waits_s, strict=True)
                    if wait_s
                ]
                raise self._too_many("subscription", max(waits_s), errors)
            for key in keys:
                rate.count(key, 1, now)
        if self._apps is not None:
            self._apps.count(app_id, len(subscription_ids), now)

    def _check_app(self, app_id: str, now: float) -> None:
        if self._apps is not None and (wait_s := self._apps.wait_s(app_id, now)):
            raise self._too_many("app", wait_s)

    def _too_many(self, of: str, wait_s: float, errors: Sequence[FieldError] = ()) -> ProblemError:
        """Say when to come back, as a number of whole seconds and as RateLimit fields."""
        settings = self._settings
        per_s = settings.app_updates_per_s if of == "app" else settings.subscription_updates_per_s
        quota, window_s = max(1, math.floor(per_s * settings.burst_s)), math.ceil(settings.burst_s)
        seconds = math.ceil(wait_s)
        return ProblemError(
            TOO_MANY,
            f"The {of} may be updated {per_s:g} times a second.",
            errors,
            headers={
                "retry-after": str(seconds),
                "ratelimit-policy": f'"{of}";q={quota};w={window_s}',
                "ratelimit": f'"{of}";r=0;t={seconds}',
            },
        )
