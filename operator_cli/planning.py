"""What a burst does: message lag and time lag over time, of a queue that is applied in order.

Fluid and first come, first served: up to `capacity` records a second are applied, in the order of
their acceptance. Message lag is what was accepted and is not applied; time lag is the age of the
next to be applied. Time lag goes on growing after message lag has begun to fall, because what is
applied then was accepted in the thick of the burst.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Final

from shared.errors import Misconfigured

_LARGEST: Final = 1e15
_STEPS: Final = 1_000
_LEAD_SHARE: Final = 0.05
_TAIL_SHARE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Burst:
    """`rate` records a second instead of the usual ones, for `seconds`."""

    rate: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is accepted, and how much can be applied; rates in records a second.

    `backlog` waits when the burst begins, and came at the usual rate, where there is one. Nothing
    is applied for `stopped_s` after that.
    """

    rate: float
    capacity: float
    burst: Burst
    backlog: float = 0.0
    stopped_s: float = 0.0

    def __post_init__(self) -> None:
        came_in_s = self.backlog / self.rate if self.rate else 0.0
        numbers = (self.rate, self.capacity, self.backlog, came_in_s, self.stopped_s)
        numbers += astuple(self.burst)
        if not all(number <= _LARGEST for number in numbers):
            raise Misconfigured(
                f"Rates, times and the backlog may be {_LARGEST:g} at most; name smaller ones."
            )
        if self.capacity <= self.rate:
            raise Misconfigured(
                f"A capacity of {self.capacity:g} a second never catches up with {self.rate:g} a "
                "second; name a larger --capacity."
            )


@dataclass(frozen=True, slots=True)
class Moment:
    """How things stand `at_s` seconds after the burst began."""

    at_s: float
    message_lag: float
    time_lag_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The course of both lags, and their highest points."""

    moments: Sequence[Moment]

    @property
    def message_peak(self) -> Moment:
        """When most waits."""
        return max(self._since_burst, key=lambda moment: moment.message_lag)

    @property
    def time_peak(self) -> Moment:
        """When the oldest is oldest."""
        return max(self._since_burst, key=lambda moment: moment.time_lag_s)

    @property
    def caught_up_s(self) -> float:
        """When nothing waits any more."""
        last = max((m.at_s for m in self.moments if m.message_lag > 0.5), default=0.0)  # noqa: PLR2004
        return next((m.at_s for m in self.moments if m.at_s > last), last) if last else 0.0

    @property
    def _since_burst(self) -> list[Moment]:
        return [moment for moment in self.moments if moment.at_s >= 0]


def simulate(scenario: Scenario, until_s: float | None = None) -> Plan:
    """Work out both lags from a little before the burst until all is caught up with."""
    end_s = until_s or _end(scenario)
    step = end_s / _STEPS
    evenly = (-end_s * _LEAD_SHARE + n * step for n in range(int(_STEPS * (1 + _LEAD_SHARE)) + 1))
    # However long it all takes, where the curves bend is among them.
    times = sorted({*evenly, 0.0, scenario.burst.seconds, scenario.stopped_s})
    before_s = scenario.backlog / scenario.rate if scenario.rate else 0.0
    origin = times[0] - before_s
    accepted = [_accepted(scenario, now, origin) for now in times]
    applied = [accepted[0] - scenario.backlog]
    for n, (before, now) in enumerate(pairwise(times), 1):
        if now <= 0:
            applied.append(accepted[n] - scenario.backlog)
            continue
        can = scenario.capacity * (now - before) if before >= scenario.stopped_s else 0.0
        applied.append(min(accepted[n], applied[-1] + can))
    return Plan(
        [
            Moment(
                now, accepted[n] - applied[n], now - _accepted_at(scenario, applied[n], origin, now)
            )
            for n, now in enumerate(times)
        ]
    )


def _end(scenario: Scenario) -> float:
    burst = scenario.burst
    grown = (burst.rate - scenario.capacity) * burst.seconds + scenario.backlog
    grown += scenario.capacity * min(scenario.stopped_s, burst.seconds)
    grown += max(0.0, scenario.stopped_s - burst.seconds) * scenario.rate
    drained_s = max(0.0, grown) / (scenario.capacity - scenario.rate)
    return (max(burst.seconds, scenario.stopped_s) + drained_s) * (1 + _TAIL_SHARE) or 1.0


def _accepted(scenario: Scenario, at_s: float, origin_s: float) -> float:
    """Count what was accepted since `origin_s`, which is before the burst."""
    burst = scenario.burst
    in_burst = min(max(at_s, 0.0), burst.seconds)
    return (at_s - origin_s - in_burst) * scenario.rate + in_burst * burst.rate


def _accepted_at(scenario: Scenario, count: float, origin_s: float, latest_s: float) -> float:
    """Return when the record was accepted that comes after `count` others; at most `latest_s`."""
    burst = scenario.burst
    before = -origin_s * scenario.rate
    during = burst.rate * burst.seconds
    if count < before:
        at = origin_s + count / scenario.rate if scenario.rate else 0.0
    elif count < before + during:
        at = (count - before) / burst.rate
    elif scenario.rate:
        at = burst.seconds + (count - before - during) / scenario.rate
    else:
        at = latest_s
    return min(at, latest_s)


def at(plan: Plan, at_s: float) -> Moment:
    """Return the moment that is nearest after `at_s`."""
    place = bisect_left(plan.moments, at_s, key=lambda moment: moment.at_s)
    return plan.moments[min(place, len(plan.moments) - 1)]
