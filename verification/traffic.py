"""A believable mix of what customers send, from a seed."""

import random
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Final

_PLANS: Final = ("free", "pro", "team", "enterprise")
_CITIES: Final = ("Lisbon", "São Paulo", "Kraków", "東京", "Nairobi", "Tromsø")
_ZIPF_EXPONENT: Final = 1.1


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request: a batch of one app, or a single update."""

    app: str
    updates: Sequence[tuple[str, dict[str, Any]]]
    """Subscription ID and body, in the order to be applied."""
    single: bool
    key: str | None = None
    """An idempotency key: a single update may be sent again with it, whatever became of it."""


def with_keys(requests: Iterator[Request], seed: int, share: float) -> Iterator[Request]:
    """Give a share of the single updates an idempotency key."""
    pick = random.Random(seed)  # noqa: S311 - traffic, not secrets
    for request in requests:
        keyed = request.single and pick.random() < share
        yield replace(request, key=str(uuid.uuid4())) if keyed else request


class CustomerMix:
    """`apps` customers with `subscriptions` devices, both used unevenly (Zipf).

    The IDs are new in every run, the rest comes from the seed: a run starts from rows that do not
    exist, and the same seed sends the same updates.
    """

    def __init__(self, seed: int, *, apps: int = 200, subscriptions: int = 5_000) -> None:
        self._random = random.Random(seed)  # noqa: S311 - traffic, not secrets
        self.apps = [str(uuid.uuid4()) for _ in range(apps)]
        self._app_weights = _zipf(apps)
        self._devices: list[list[str]] = [[] for _ in range(apps)]
        # Every app has at least one device; the others follow the same uneven distribution.
        owners = list(range(apps))
        owners += self._random.choices(
            range(apps), cum_weights=self._app_weights, k=subscriptions - apps
        )
        for owner in owners:
            self._devices[owner].append(str(uuid.uuid4()))
        self._weights = [_zipf(len(devices)) for devices in self._devices]

    @property
    def devices(self) -> list[tuple[str, str]]:
        """Every subscription: app ID and subscription ID."""
        pairs = zip(self.apps, self._devices, strict=True)
        return [(app, device) for app, devices in pairs for device in devices]

    def requests(self, updates: int, *, batch_max: int = 100) -> Iterator[Request]:
        """Yield requests with `updates` updates in all; each device gets at least one of them."""
        left = updates
        for number, devices in enumerate(self._devices):
            for start in range(0, len(devices), batch_max):
                part = devices[start : start + min(batch_max, left)]
                if part:
                    left -= len(part)
                    yield Request(
                        self.apps[number], [(each, self.body()) for each in part], single=False
                    )
        while left:
            number = self._random.choices(
                range(len(self.apps)), cum_weights=self._app_weights, k=1
            )[0]
            single = self._random.random() < 0.9  # noqa: PLR2004 - most requests are single ones
            count = 1 if single else min(left, self._random.randint(2, batch_max))
            chosen = self._random.choices(
                self._devices[number], cum_weights=self._weights[number], k=count
            )
            left -= count
            yield Request(
                self.apps[number], [(each, self.body()) for each in chosen], single=single
            )

    def body(self) -> dict[str, Any]:
        """Return one update's body: an app start, a preference, a purchase, a tag removed."""
        pick = self._random
        kind = pick.random()
        if kind < 0.4:  # noqa: PLR2004 - the shares of the mix
            return {
                "properties": {
                    "language": pick.choice(("en", "pt-BR", "ja", "sw")),
                    "app_version": f"{pick.randint(1, 4)}.{pick.randint(0, 20)}",
                },
                "increment": {"session_count": 1, "session_time_s": pick.randint(1, 900)},
            }
        if kind < 0.7:  # noqa: PLR2004
            return {
                "tags": {
                    "plan": pick.choice(_PLANS),
                    "city": pick.choice(_CITIES),
                    "level": pick.randint(0, 99),
                    "score": pick.randint(0, 10_000) / 8,
                    "beta": pick.random() < 0.5,  # noqa: PLR2004
                }
            }
        if kind < 0.9:  # noqa: PLR2004
            return {
                "tags": {f"seen_{pick.randint(0, 5)}": pick.randint(1, 10**9)},
                "increment": {"tags.level": pick.randint(-3, 3), "tags.purchases": 1},
            }
        return {"tags": {pick.choice(("plan", "city", "beta", "score")): pick.choice((None, ""))}}


def _zipf(count: int) -> list[float]:
    return list(accumulate(1 / (rank**_ZIPF_EXPONENT) for rank in range(1, count + 1)))
