"""What is to be reached, beside what a session measured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from benchmarks.arms.tidemark import TIDEMARK
from benchmarks.latency.measure import is_invalid
from benchmarks.measure import Run, Spread
from benchmarks.results import Session

_BATCH_PER_S: Final = 60_000
_BATCH_SHARE: Final = 0.8
PARALLEL_CONSUMERS: Final = ("pc-unnest", "pc-jdbc-batch", "pc-single")


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached, and how to compute where we are.

    `measured` returns a figure for each turn or play; none where it was not measured. Their median
    is compared.
    """

    what: str
    least: float
    measured: Callable[[Session], Sequence[float]]

    unit: str = " x"
    at_most: bool = False

    def is_met(self, session: Session) -> bool | None:
        """Say whether it is; None where it was not measured."""
        found = self.measured(session)
        return self._is_met(Spread.of(found)) if found else None

    def row(self, session: Session) -> tuple[str, str, str, str]:
        """Return what, target, measured, and how far from it."""
        found = self.measured(session)
        bound = f"{'at most' if self.at_most else 'at least'} {self.least:,g}{self.unit}"
        if not found:
            return self.what, bound, "not measured", ""
        spread = Spread.of(found)
        met = self._is_met(spread)
        verdict = "met" if met else f"not met: {spread.median / self.least:.0%} of it"
        ends = f" ({number(spread.low)}-{number(spread.high)})" if len(found) > 1 else ""
        return self.what, bound, f"{number(spread.median)}{self.unit}{ends}", verdict

    def _is_met(self, spread: Spread) -> bool:
        return spread.median <= self.least if self.at_most else spread.median >= self.least


def number(value: float) -> str:
    """Write as many digits as mean something."""
    return f"{value:,.{0 if value > 100 else 2}f}"  # noqa: PLR2004


def _ratios(ours: Sequence[Run], others: Sequence[Run]) -> list[float]:
    """Return the ratio of each turn of which both runs count.

    Of the same turn, as a machine's speed changes meanwhile.
    """
    return [
        mine.rate.per_second / other.rate.per_second
        for mine, other in zip(ours, others, strict=False)  # there may be no others at all
        if mine.valid and other.valid
    ]


def to_other(arm: str, load: str) -> Callable[[Session], Sequence[float]]:
    """Compare with another arm on the same load."""
    return lambda session: _ratios(session.turns(TIDEMARK, load), session.turns(arm, load))


def _to_distinct(load: str) -> Callable[[Session], Sequence[float]]:
    return lambda session: _ratios(
        session.turns(TIDEMARK, load), session.turns(TIDEMARK, "distinct", series=load)
    )


def to_best_peer(load: str) -> Callable[[Session], Sequence[float]]:
    """Compare with Parallel Consumer at its strongest: the way to write that comes off best."""

    def measured(session: Session) -> Sequence[float]:
        ours = session.turns(TIDEMARK, load)
        found = [_ratios(ours, session.turns(peer, load)) for peer in PARALLEL_CONSUMERS]
        return min(filter(None, found), key=median, default=[])

    return measured


def _batch_to_bound(session: Session) -> list[float]:
    """Return batches of 500 as a share of what is asked for, which is the less of two."""
    ours = session.http_figures("ingest", "batch", "per_second")
    alone = session.http_figures("send-batch", "batch", "per_second")
    return [
        mine / min(_BATCH_PER_S, _BATCH_SHARE * other)
        for mine, other in zip(ours, alone, strict=False)
    ]


def _single_to(arm: str) -> Callable[[Session], list[float]]:
    def measured(session: Session) -> list[float]:
        ours, bare = (
            session.http_figures(each, "single", "per_second") for each in ("ingest", arm)
        )
        return [mine / other for mine, other in zip(ours, bare, strict=False)]

    return measured


def _of_plays(session: Session, scenario: str) -> list[Mapping[str, Any]]:
    """Return the phases of each play of a scenario that counts."""
    return [
        each["phases"]
        for each in session.end_to_end
        if (each["scenario"], each["system"]) == (scenario, TIDEMARK) and not is_invalid(each)
    ]


def _lag_ms(scenario: str, phase: str) -> Callable[[Session], list[float]]:
    return lambda session: [
        lag
        for phases in _of_plays(session, scenario)
        if (lag := phases[phase]["lag_p99_ms"]) is not None
    ]


def _stall_ratio(figure: str) -> Callable[[Session], list[float]]:
    return lambda session: [
        phases["during"][figure] / phases["before"][figure]
        for phases in _of_plays(session, "stall")
        if phases["during"][figure] and phases["before"][figure]
    ]


def _rss_max_mib(session: Session) -> list[float]:
    runs = [*session.runs, *(run for scaled in session.scaling for run in scaled.runs)]
    return _highest(run.rate.rss_max_mib for run in runs if run.arm == TIDEMARK)


def _minutes(session: Session) -> Sequence[Mapping[str, Any]]:
    """Return the minutes of the soak; none where it does not count."""
    return [] if not session.soak or is_invalid(session.soak) else session.soak["minutes"]


def _soak_rss_max_mib(session: Session) -> list[float]:
    return _highest(max(each["rss_max_mib"].values()) for each in _minutes(session))


def _highest(found: Iterable[float]) -> list[float]:
    return sorted(found)[-1:]


def _soak_growth(session: Session) -> list[float]:
    """Return how much larger the fastest growing process is at the end than a third before it."""
    minutes = _minutes(session)
    if not minutes:
        return []
    before, last = minutes[len(minutes) * 2 // 3 - 1], minutes[-1]
    return _highest(float(last["rss_mib"][name] / rss) for name, rss in before["rss_mib"].items())


TARGETS: Final = (
    Target(
        "consumer, distinct, to Parallel Consumer at its strongest", 1.5, to_best_peer("distinct")
    ),
    Target(
        "consumer, distinct, to Parallel Consumer one by one",
        10,
        to_other("pc-single", "distinct"),
    ),
    Target("consumer, distinct, to the ceiling", 0.55, to_other("ceiling", "distinct")),
    Target(
        "consumer, once (nothing folds), to Parallel Consumer at its strongest",
        1.5,
        to_best_peer("once"),
    ),
    Target("consumer, once, to the ceiling", 0.55, to_other("ceiling", "once")),
    *(
        Target(f"consumer, {load}, to the loop that folds", 1, to_other("batch-loop", load))
        for load in ("distinct", "once", "zipf", "half-hot")
    ),
    Target("consumer, zipf, to distinct", 1, _to_distinct("zipf")),
    Target(
        "consumer, half-hot, to Parallel Consumer at its strongest", 25, to_best_peer("half-hot")
    ),
    Target("consumer, half-hot, to distinct", 0.9, _to_distinct("half-hot")),
    Target("consumer, failing (one of a hundred), to distinct", 0.8, _to_distinct("failing")),
    Target(
        "ingest, batch of 500, to the lesser of 60,000/s and 0.8 of aiokafka alone",
        1,
        _batch_to_bound,
    ),
    Target("ingest, single, to the same FastAPI app without Kafka", 0.5, _single_to("fastapi")),
    Target(
        "ingest, single, to the same without FastAPI's layers, as it is served",
        0.5,
        _single_to("nothing"),
    ),
    Target(
        "accepted to applied at 2,000/s, p99", 50, _lag_ms("steady", "all"), " ms", at_most=True
    ),
    Target("the burst: time lag, p99", 2_000, _lag_ms("burst", "during"), " ms", at_most=True),
    Target(
        "from 5 s after the burst on: time lag, p99",
        100,
        _lag_ms("burst", "after"),
        " ms",
        at_most=True,
    ),
    Target(
        "one shard stalled: HTTP p99, to before", 1.5, _stall_ratio("http_p99_ms"), at_most=True
    ),
    Target(
        "one shard stalled: others' lag p99, to before",
        1.5,
        _stall_ratio("lag_p99_ms"),
        at_most=True,
    ),
    Target("consumer's RSS with a backlog", 300, _rss_max_mib, " MiB", at_most=True),
    Target(
        "highest RSS of a process in 30 minutes at 1,000/s",
        300,
        _soak_rss_max_mib,
        " MiB",
        at_most=True,
    ),
    Target("RSS after 30 minutes, to after 20", 1.03, _soak_growth, at_most=True),
)


def print_ratios(session: Session) -> None:
    """Print each target that was measured."""
    for target in TARGETS:
        what, least, measured, verdict = target.row(session)
        if verdict:
            print(f"{what:78} {measured:>24}  ({least}: {verdict})")
