"""What is to be reached, beside what a session measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.arms.tidemark import TIDEMARK
from benchmarks.latency.measure import is_invalid
from benchmarks.measure import Run, Spread
from benchmarks.results import Session

_BATCH_PER_S: Final = 60_000
_BATCH_SHARE: Final = 0.8
_PC: Final = ("pc-unnest", "pc-jdbc-batch", "pc-single")


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be reached, and how to compute where we are; None where it was not measured."""

    what: str
    least: float
    measured: Callable[[Session], float | None]

    unit: str = " x"
    at_most: bool = False

    def row(self, session: Session) -> tuple[str, str, str, str]:
        """Return what, target, measured, and how far from it."""
        found = self.measured(session)
        bound = f"{'at most' if self.at_most else 'at least'} {self.least:,g}{self.unit}"
        if found is None:
            return self.what, bound, "not measured", ""
        met = found <= self.least if self.at_most else found >= self.least
        digits = 0 if found > 100 else 2  # noqa: PLR2004 - as many as mean something
        verdict = "met" if met else f"{found / self.least:.0%} of it"
        return self.what, bound, f"{found:,.{digits}f}{self.unit}", verdict


def _ratio(ours: Sequence[Run], others: Sequence[Run]) -> float | None:
    """Return the median of the ratios of the same turns, as a machine's speed changes meanwhile.

    Of those turns of which both runs count.
    """
    ratios = [
        mine.rate.per_second / other.rate.per_second
        for mine, other in zip(ours, others, strict=False)  # there may be no others at all
        if mine.valid and other.valid
    ]
    return Spread.of(ratios).median if ratios else None


def _to_other(arm: str, load: str) -> Callable[[Session], float | None]:
    return lambda session: _ratio(session.turns(TIDEMARK, load), session.turns(arm, load))


def _to_distinct(load: str) -> Callable[[Session], float | None]:
    return lambda session: _ratio(
        session.turns(TIDEMARK, load), session.turns(TIDEMARK, "distinct", series=load)
    )


def _to_best_peer(load: str) -> Callable[[Session], float | None]:
    def measured(session: Session) -> float | None:
        ours = session.turns(TIDEMARK, load)
        ratios = [_ratio(ours, session.turns(peer, load)) for peer in _PC]
        return min((ratio for ratio in ratios if ratio is not None), default=None)

    return measured


def _http(session: Session, arm: str, kind: str) -> float | None:
    found = session.http_figures(arm, kind, "per_second")
    return Spread.of(found).median if found else None


def _batch_to_bound(session: Session) -> float | None:
    """Return batches of 500 as a share of what is asked for, which is the less of two."""
    ours, alone = _http(session, "ingest", "batch"), _http(session, "send-batch", "batch")
    return ours / min(_BATCH_PER_S, _BATCH_SHARE * alone) if ours and alone else None


def _single_to(arm: str) -> Callable[[Session], float | None]:
    def measured(session: Session) -> float | None:
        ours, bare = _http(session, "ingest", "single"), _http(session, arm, "single")
        return ours / bare if ours and bare else None

    return measured


def _of_phase(session: Session, scenario: str, phase: str, figure: str) -> float | None:
    """Return the median over the plays of a scenario that count."""
    found = [
        value
        for each in session.end_to_end
        if (each["scenario"], each["system"]) == (scenario, TIDEMARK)
        and not is_invalid(each)
        and (value := each["phases"][phase][figure]) is not None
    ]
    return Spread.of(found).median if found else None


def _lag_ms(scenario: str, phase: str) -> Callable[[Session], float | None]:
    return lambda session: _of_phase(session, scenario, phase, "lag_p99_ms")


def _stall_ratio(figure: str) -> Callable[[Session], float | None]:
    def measured(session: Session) -> float | None:
        before = _of_phase(session, "stall", "before", figure)
        during = _of_phase(session, "stall", "during", figure)
        return during / before if before and during else None

    return measured


def _rss_max_mib(session: Session) -> float | None:
    found = [run.rate.rss_max_mib for run in session.runs if run.arm == TIDEMARK]
    return max(found, default=None)


def _minutes(session: Session) -> Sequence[Mapping[str, Any]]:
    """Return the minutes of the soak; none where it does not count."""
    return [] if not session.soak or is_invalid(session.soak) else session.soak["minutes"]


def _soak_rss_max_mib(session: Session) -> float | None:
    peaks = [max(each["rss_max_mib"].values()) for each in _minutes(session)]
    return max(peaks, default=None)


def _soak_growth(session: Session) -> float | None:
    """Return how much larger the fastest growing process is at the end than a third before it."""
    minutes = _minutes(session)
    if not minutes:
        return None
    before, last = minutes[len(minutes) * 2 // 3 - 1], minutes[-1]
    return max(float(last["rss_mib"][name] / rss) for name, rss in before["rss_mib"].items())


TARGETS: Final = (
    Target(
        "consumer, distinct (each row four times), to Parallel Consumer at its strongest",
        1.5,
        _to_best_peer("distinct"),
    ),
    Target(
        "consumer, distinct, to Parallel Consumer one by one",
        10,
        _to_other("pc-single", "distinct"),
    ),
    Target("consumer, distinct, to the ceiling", 0.55, _to_other("ceiling", "distinct")),
    Target(
        "consumer, once (nothing folds), to Parallel Consumer at its strongest",
        1.5,
        _to_best_peer("once"),
    ),
    Target("consumer, once, to the ceiling", 0.55, _to_other("ceiling", "once")),
    *(
        Target(f"consumer, {load}, to the loop that folds", 1, _to_other("batch-loop", load))
        for load in ("distinct", "once", "zipf", "half-hot")
    ),
    Target("consumer, Zipf, to distinct", 1, _to_distinct("zipf")),
    Target("consumer, half-hot, to Parallel Consumer at its best", 25, _to_best_peer("half-hot")),
    Target(
        "consumer, half-hot, to distinct",
        0.9,
        _to_distinct("half-hot"),
    ),
    Target(
        "consumer, 1 % failing, to distinct",
        0.8,
        _to_distinct("failing"),
    ),
    Target(
        "ingest, batch of 500, to the lesser of 60,000/s and 0.8 of aiokafka alone",
        1,
        _batch_to_bound,
    ),
    Target("ingest, single, to the same FastAPI app without Kafka", 0.5, _single_to("fastapi")),
    Target("ingest, single, to itself without Kafka", 0.5, _single_to("nothing")),
    Target(
        "accepted to applied at 2,000/s, p99", 50, _lag_ms("steady", "all"), " ms", at_most=True
    ),
    Target("the burst: time lag, p99", 2_000, _lag_ms("burst", "during"), " ms", at_most=True),
    Target(
        "5 s after the burst: time lag, p99", 100, _lag_ms("burst", "after"), " ms", at_most=True
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
    Target("highest RSS in 30 minutes at 1,000/s", 300, _soak_rss_max_mib, " MiB", at_most=True),
    Target("RSS after 30 minutes, to after 20", 1.03, _soak_growth, at_most=True),
)


def print_ratios(session: Session) -> None:
    """Print each target that was measured."""
    for target in TARGETS:
        what, least, measured, verdict = target.row(session)
        if verdict:
            print(f"{what:78} {measured:>12}  ({least}: {verdict})")
