"""How often an app and a subscription may be updated; a batch counts its updates."""

import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ingest_api.problems import TOO_MANY, FieldError, ProblemError
from ingest_api.settings import LimitSettings


class Waits(NamedTuple):
    """Seconds after which an app, and each of some subscriptions, may be updated; 0 is now."""

    app_s: float
    subscriptions_s: Sequence[float]


class Counts(Protocol):
    """Knows what has passed: in this process, or together with others."""

    alone: int
    """How often this process counted for itself although it should have counted with others."""

    async def take(self, app_id: str, subscription_ids: Sequence[str]) -> Waits:
        """Count one update of each, unless anything has to wait: then nothing is counted.

        Of no subscription at all, it only tells how long the app has to wait.
        """


class Limits:
    """Refuses what comes too fast."""

    def __init__(self, settings: LimitSettings, counts: Counts) -> None:
        self._settings = settings
        self._counts = counts
        self._is_off = not (settings.app_updates_per_s or settings.subscription_updates_per_s)

    async def take(self, app_id: str, subscription_id: str) -> None:
        """Count one update.

        Raises:
            ProblemError: 429, and nothing is counted.
        """
        if self._is_off:
            return
        app_s, subscriptions_s = await self._counts.take(app_id, (subscription_id,))
        if app_s:
            raise self._too_many("app", app_s)
        if subscriptions_s[0]:
            raise self._too_many("subscription", subscriptions_s[0])

    async def check_app(self, app_id: str) -> None:
        """Refuse a batch before it is read.

        Raises:
            ProblemError: 429.
        """
        if not self._settings.app_updates_per_s:
            return
        if wait_s := (await self._counts.take(app_id, ())).app_s:
            raise self._too_many("app", wait_s)

    async def take_batch(
        self, app_id: str, subscription_ids: Sequence[str], places: Sequence[int]
    ) -> None:
        """Count the updates of a batch; `places` tells where in the body each of them is.

        Raises:
            ProblemError: 429, and nothing is counted.
        """
        if self._is_off:
            return
        app_s, subscriptions_s = await self._counts.take(app_id, subscription_ids)
        if app_s:
            raise self._too_many("app", app_s)
        if any(subscriptions_s):
            errors: list[FieldError] = [
                {"pointer": f"#/updates/{place}", "detail": f"Its turn is in {wait_s:.1f} s."}
                for place, wait_s in zip(places, subscriptions_s, strict=True)
                if wait_s
            ]
            raise self._too_many("subscription", max(subscriptions_s), errors)

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
