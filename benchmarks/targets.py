"""What is to be reached, beside what a session measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.measure import Spread
from benchmarks.results import Session

_PC: Final = ("pc-unnest", "pc-jdbc-batch", "pc-single")


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached, and how to compute where we are; None where it was not measured."""

    what: str
    least: float
    measured: Callable[[Session], float | None]

    def row(self, session: Session) -> tuple[str, str, str, str]:
        """Return what, target, measured, and how far from it."""
        found = self.measured(session)
        if found is None:
            return self.what, f"{self.least:g} x", "not measured", ""
        verdict = "met" if found >= self.least else f"{found / self.least:.0%} of it"
        return self.what, f"{self.least:g} x", f"{found:.2f} x", verdict


def rate_of(session: Session, arm: str, load: str) -> float | None:
    """Return the median rate of an arm on a load, of the runs that count."""
    rates = [run.rate.per_second for run in session.of(arm, load)]
    return Spread.of(rates).median if rates else None


def _ratio(arm: str, load: str, other: str, other_load: str) -> Callable[[Session], float | None]:
    def measured(session: Session) -> float | None:
        over, under = rate_of(session, arm, load), rate_of(session, other, other_load)
        return over / under if over and under else None

    return measured


def _to_best_peer(load: str) -> Callable[[Session], float | None]:
    def measured(session: Session) -> float | None:
        ours = rate_of(session, "tidemark", load)
        peers = [rate for peer in _PC if (rate := rate_of(session, peer, load))]
        return ours / max(peers) if ours and peers else None

    return measured


TARGETS: Final = (
    Target(
        "consumer, distinct, to Parallel Consumer at its strongest", 1.5, _to_best_peer("distinct")
    ),
    Target(
        "consumer, distinct, to Parallel Consumer one by one",
        10,
        _ratio("tidemark", "distinct", "pc-single", "distinct"),
    ),
    Target(
        "consumer, distinct, to the ceiling",
        0.55,
        _ratio("tidemark", "distinct", "ceiling", "distinct"),
    ),
    Target("consumer, Zipf, to distinct", 1, _ratio("tidemark", "zipf", "tidemark", "distinct")),
    Target("consumer, half-hot, to Parallel Consumer at its best", 25, _to_best_peer("half-hot")),
    Target(
        "consumer, half-hot, to distinct",
        0.9,
        _ratio("tidemark", "half-hot", "tidemark", "distinct"),
    ),
    Target(
        "consumer, 1 % failing, to distinct",
        0.8,
        _ratio("tidemark", "failing", "tidemark", "distinct"),
    ),
)


def print_ratios(session: Session) -> None:
    """Print each target that was measured."""
    for target in TARGETS:
        what, least, measured, verdict = target.row(session)
        if verdict:
            print(f"{what:60} {measured:>8}  (at least {least}: {verdict})")
