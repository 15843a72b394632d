"""Which faults happen when: drawn from a seed, so that a run can be had again."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

CONSUMERS_MAX: Final = 3
SHARDS: Final = 4


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault: what it is done to, and for how long it lasts."""

    name: str
    targets: Sequence[str]
    seconds: tuple[float, float]
    weight: float = 1.0
    rest_s: tuple[float, float] = (1, 4)
    """How long the target is left alone after it: time to come back, not to forget it."""
    from_share: float = 0.0
    """From which part of the run on it happens."""


@dataclass(frozen=True, slots=True, order=True)
class PlannedFault:
    """One fault, in seconds since the beginning."""

    at_s: float
    target: str
    kind: str
    duration_s: float

    def __str__(self) -> str:
        if self.kind == SCALE:
            return f"{self.kind} to {self.duration_s:.0f} {self.target}"
        return f"{self.kind} {self.target} for {self.duration_s:.1f} s"


_CONSUMERS: Final = [f"consumer-{number}" for number in range(1, CONSUMERS_MAX + 1)]
_SHARDS: Final = [f"shard-{number}" for number in range(SHARDS)]

_APPS: Final = [f"app-{number}" for number in range(6)]
"""The busiest."""

SESSION_TIMEOUT_S: Final = 4.0

KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("consumer.kill", _CONSUMERS, (0.2, 3), 2),
        Kind("consumer.terminate", _CONSUMERS, (0.2, 3)),
        Kind("consumer.freeze", _CONSUMERS, (0.3, SESSION_TIMEOUT_S * 0.6)),
        # It wakes as a former owner: its partitions are others' by then.
        Kind("consumer.outlive_session", _CONSUMERS, (SESSION_TIMEOUT_S + 2, 9), 2),
        Kind("shard.kill", _SHARDS, (0.5, 8), 2),
        Kind("shard.stop", _SHARDS, (0.5, 4)),
        Kind("shard.freeze", _SHARDS, (0.5, 8)),
        Kind("shard.read_only", _SHARDS, (0.5, 6)),
        Kind("shard.refuse_connections", _SHARDS, (0.5, 6)),
        Kind("shard.end_connections", _SHARDS, (0, 0)),
        Kind("shard.lock_table", _SHARDS, (0.5, 6)),
        # A broker of 1,440 partitions takes its time to come back, and nothing moves meanwhile.
        Kind("broker.kill", ["broker"], (0.2, 3), 0.5, (20, 30), 0.4),
        Kind("broker.stop", ["broker"], (0.2, 3), 0.5, (20, 30), 0.4),
        Kind("broker.freeze", ["broker"], (0.5, 6), 1, (5, 10)),
        Kind("ingest.kill", ["ingest-api"], (0.2, 2)),
        Kind("ingest.terminate", ["ingest-api"], (0.2, 2)),
        Kind("ingest.freeze", ["ingest-api"], (0.3, 3)),
        Kind("app.hold", _APPS, (1, 12), 2),
    )
}

NETWORK_KINDS: Final[Mapping[str, Kind]] = {
    kind.name: kind
    for kind in (
        Kind("network.delay", _SHARDS, (1, 8)),
        Kind("network.cut", _SHARDS, (0.5, 6)),
        Kind("network.swallow", _SHARDS, (0.5, 8)),
        Kind("network.reset", _SHARDS, (0.3, 1)),
    )
}
"""Faults between consumers and a shard; they need a proxy there."""

SCALE: Final = "scale"
"""Not random: one consumer, then three, then two."""


def plan_faults(seed: int, seconds: float, kinds: Mapping[str, Kind] = KINDS) -> list[PlannedFault]:
    """Draw faults for `seconds`; every kind at least once, if there is time.

    A target has one fault at a time, faults of different targets overlap at random. All are over
    by the end.
    """
    pick = random.Random(seed)
    scale = [
        PlannedFault(0.1 * seconds, "consumers", SCALE, 3),
        PlannedFault(0.6 * seconds, "consumers", SCALE, 2),
    ]
    present = {"consumer-1": 0.0, "consumer-2": 0.1, "consumer-3": 0.1}
    gone = {"consumer-3": 0.6}
    free_at = {name: share * seconds + 2.0 * bool(share) for name, share in present.items()}
    planned: list[PlannedFault] = []
    waiting = pick.sample(sorted(kinds), len(kinds))
    weights = [kinds[name].weight for name in sorted(kinds)]
    at_s = 2.0
    while at_s < seconds:
        # One that has not been yet, if it can be now; otherwise any.
        for name in [*waiting, *pick.choices(sorted(kinds), weights)]:
            kind = kinds[name]
            duration_s = pick.uniform(*kind.seconds)
            targets = [
                target
                for target in kind.targets
                if max(free_at.get(target, 0.0), kind.from_share * seconds) <= at_s
                and at_s + duration_s < gone.get(target, 1.0) * seconds - 2.0
            ]
            if targets:
                target = pick.choice(targets)
                planned.append(PlannedFault(round(at_s, 3), target, name, round(duration_s, 3)))
                free_at[target] = at_s + duration_s + pick.uniform(*kind.rest_s)
                waiting = [each for each in waiting if each != name]
                break
        at_s += pick.expovariate(1 / 2.0)
    return sorted([*scale, *planned])
