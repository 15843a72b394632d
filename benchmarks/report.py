"""Tables and plots of a session, and each target beside what was measured."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

from matplotlib import rcParams
from matplotlib.figure import Figure

from benchmarks.estimate import estimate
from benchmarks.latency.measure import is_invalid
from benchmarks.latency.scenarios import BURST_PER_S, SOAK_PER_S
from benchmarks.loads import FULL, LOADS, ROWS
from benchmarks.measure import Run, Spread, median_of
from benchmarks.results import REPORTED, Session
from benchmarks.scaling import LOAD as SCALED_LOAD
from benchmarks.scaling import Scaled
from benchmarks.stack import PROFILE
from benchmarks.targets import PARALLEL_CONSUMERS, TARGETS, number, to_best_peer, to_other
from deploy.local.layout import CHECKOUT

_DIRECTORY: Final = CHECKOUT / "benchmarks"
_PLOTS: Final = _DIRECTORY / "plots"
_MINUTES_SHOWN: Final = 5
_ARMS: Final = (
    *("tidemark", "pc-unnest", "pc-jdbc-batch", "pc-single", "batch-loop", "plain-loop", "ceiling"),
)


def write_report(session: Session) -> None:
    """Write RESULTS.md, its plots, and the results it was made from.

    The flame graph is of the last run that made one here, or stays as it was.
    """
    REPORTED.write_text(json.dumps(asdict(session), indent=1) + "\n", encoding="utf-8")
    plots = list(_draw(session))
    lines = [
        *_head(session),
        *_targets(session),
        *_throughput(session),
        *_http(session),
        *_end_to_end(session),
        *_soak(session),
        *_scaling(session),
        *estimate(session),
        *_pictures(plots),
    ]
    path = _DIRECTORY / "RESULTS.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(CHECKOUT)} and {len(plots)} plots")


def _head(session: Session) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield from _summary(session)
    sittings = [each for each in session.sittings if each["parts"]]
    machines: dict[str, list[str]] = {}
    for facts in sittings:
        machines.setdefault(_machine(facts), []).extend(facts["parts"])
    for machine, parts in machines.items():
        yield machine if len(machines) == 1 else f"{', '.join(parts)}: {machine}"
        yield ""
    yield from _table(
        (
            *("measured", "when", "commit", "kernel", "load average before"),
            *("10 million additions in Python, s", "spans received"),
        ),
        [
            (
                ", ".join(facts["parts"]),
                facts["taken_at"],
                facts["commit"] or "unknown",
                facts["kernel"],
                str(facts["load_average_before"][0]),
                str(facts.get("additions_s", "")),
                _spans(facts),
            )
            for facts in sittings
        ],
    )
    yield (
        f"Seed {session.seed}. Broker, shards and clients share these cores. Compare figures of "
        "one table only: a machine's speed changes while hours pass. [README.md](README.md) says "
        "how each is defined."
    )
    yield ""
    for sentence in sorted(set.intersection(*(set(each["left_out"]) for each in sittings))):
        yield f"{sentence}\n"  # no sitting could measure it


def _summary(session: Session) -> Iterator[str]:
    """Say how it compares with what a user would pick instead, and what it does not reach."""
    modes = [name for name in _names(session) if name in PARALLEL_CONSUMERS]
    to_peers: dict[str, Callable[[str], Callable[[Session], Sequence[float]]]] = {
        f"Parallel Consumer's at its strongest (of {', '.join(modes)})": to_best_peer,
        "that of the loop that folds": partial(to_other, "batch-loop"),
    }
    rates = [
        f"{_rate(runs):,.0f} on *{load}*"
        for load in LOADS
        if (runs := session.of("tidemark", load))
    ]
    yield (
        f"One consumer's updates/s, on {ROWS:,} rows and a backlog of up to {FULL:,} updates: "
        f"{', '.join(rates)}. Of *distinct* it folds about four into one write, of *once* none."
    )
    yield ""
    for peer, to_peer in to_peers.items():
        found = {load: to_peer(load)(session) for load in LOADS}
        ratios = [
            f"{number(Spread.of(each).median)} x on *{load}*"
            for load, each in found.items()
            if each
        ]
        if ratios:
            yield f"One consumer's rate to {peer}: {', '.join(ratios)}."
            yield ""
    for verdict, is_met in (("not met", False), ("not measured, or INVALID", None)):
        targets = [target.what for target in TARGETS if target.is_met(session) is is_met]
        if targets:
            yield f"Targets {verdict}: {'; '.join(targets)}."
            yield ""


def _machine(facts: Mapping[str, Any]) -> str:
    return (
        f"{facts['cores']} cores ({facts['cpu']}), {facts['memory_gib']} GiB. Python "
        f"{facts['python']}, {_versions(facts['packages'])}. {_versions(facts['servers'])}. "
        f"{_versions(facts['peers'])}."
    )


def _spans(sitting: Mapping[str, Any]) -> str:
    count = sitting.get("spans")
    return "not counted" if count is None else f"{count:,}"


def _versions(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(row) + " |"
    yield ""


def _targets(session: Session) -> Iterator[str]:
    yield "## Targets"
    yield ""
    rows: list[tuple[str, ...]] = [target.row(session) for target in TARGETS]
    yield "Rates are compared turn by turn: each ratio is the median of its turns' ratios (and the"
    yield "lowest to the highest), so it is not quite that of the medians in the tables below. Of a"
    yield "target between these ends nothing is certain but that it is near."
    yield ""
    yield from _table(("what", "target", "measured", "verdict"), rows)


def _throughput(session: Session) -> Iterator[str]:
    scaled = [run for each in session.scaling for run in each.runs]
    invalid = [run for run in [*session.runs, *scaled] if not run.valid]
    if session.runs:
        yield "## Loads"
        yield ""
        yield (
            "µs are CPU time an update: of the arm's process, of all shards' servers, and of the "
            "broker. Statements are the client's, WAL is bytes an update, and RSS is the highest "
            "of the arm's process. The ceiling takes *distinct* and *once* only."
        )
        yield ""
    for load in LOADS.values():
        rows = [row for arm in _names(session) if (row := _row(session, arm, load.name))]
        if load.beside and (row := _row(session, "tidemark", load.beside, load.name)):
            rows.append((f"tidemark on {load.beside}", *row[1:]))
        if rows:
            yield f"### {load.name}: {load.meaning}"
            yield ""
            yield from _table(
                (
                    "arm",
                    "updates/s, median (lowest-highest)",
                    "runs",
                    "updates in each",
                    "client µs",
                    "Postgres µs",
                    "broker µs",
                    "updates a row written",
                    "statements",
                    "WAL, bytes",
                    "RSS, MiB",
                ),
                rows,
            )
    if invalid:
        yield "Runs that do not count:"
        yield ""
        for run in invalid:
            yield f"- {run.arm} on {run.load}: {run.why_not_valid}"
        yield ""


def _names(session: Session) -> list[str]:
    found = {run.arm for run in session.runs}
    return [name for name in _ARMS if name in found] + sorted(found - set(_ARMS))


def _row(
    session: Session, arm: str, load: str, series: str | None = None
) -> tuple[str, ...] | None:
    runs = session.of(arm, load, series)
    if not runs:
        return None

    def per_update(seconds: Callable[[Run], float], updates: Callable[[Run], int]) -> str:
        return f"{median_of(runs, lambda run: seconds(run) / updates(run)) * 1e6:.1f}"

    return (
        arm,
        str(Spread.of([run.rate.per_second for run in runs])),
        str(len(runs)),
        f"{runs[0].records:,}",
        per_update(lambda run: run.rate.client_cpu_s, lambda run: run.rate.updates),
        per_update(lambda run: run.postgres_cpu_s, lambda run: run.records),
        per_update(lambda run: run.broker_cpu_s, lambda run: run.records),
        f"{median_of(runs, lambda run: run.records / max(run.written.rows, 1)):.1f}",
        f"{median_of(runs, lambda run: run.rate.statements or run.written.transactions):,.0f}",
        f"{median_of(runs, lambda run: run.written.wal_bytes / run.records):,.0f}",
        f"{median_of(runs, lambda run: run.rate.rss_max_mib):,.0f}",
    )


def _http(session: Session) -> Iterator[str]:
    if not session.http:
        return
    yield "## HTTP"
    yield ""
    yield (
        "By `wrk`, as much as each server takes: `ingest` is the ingest API with Kafka; `nothing` "
        "is the same without, `fastapi` that served by FastAPI's own layers; `twin` does the "
        "UPDATE in the request; `send-batch` is aiokafka alone with the same bytes: no HTTP, and "
        "nothing is read or checked. Failed are requests that were not accepted."
    )
    yield ""
    names = sorted({(each["kind"], each["arm"]) for each in session.http}, reverse=True)
    rows = []
    for kind, arm in names:
        cells = [str(Spread.of(session.http_figures(arm, kind, "per_second")))]
        for figure in ("p50_ms", "p99_ms", "server_cpu_us"):
            values = session.http_figures(arm, kind, figure)
            cells.append(f"{Spread.of(values).median:,.1f}" if values else "")
        rows.append((kind, arm, *cells, f"{sum(session.http_figures(arm, kind, 'failed')):.0f}"))
    head = ("requests", "server", "updates/s", "p50, ms", "p99, ms", "server µs", "failed")
    yield from _table(head, rows)
    if lost := sum(each.get("not_stored", 0) for each in session.http):
        yield f"INVALID: {lost:,} updates were answered 202 and are not in Kafka.\n"


def _end_to_end(session: Session) -> Iterator[str]:
    if not session.end_to_end:
        return
    yield "## From the intended time of sending"
    yield ""
    yield (
        "The twin stands for the replaced design, with the UPDATE in the request. The burst is "
        f"{BURST_PER_S:,}/s, of several hundred apps. One consumer that keeps up with that has no "
        "backlog to work off. Lags are of the "
        "shards that are not stalled, but for the last column; lags seen, and HTTP, are of all."
    )
    yield ""
    figures = ("http_p50_ms", "http_p99_ms", "lag_p50_ms", "lag_p99_ms", "failed", "probes")
    rows = []
    for each in session.end_to_end:
        invalid = " (INVALID: updates are missing)" if is_invalid(each) else ""
        system = f"{each['system']}{invalid}"
        for phase, found in each["phases"].items():
            cells = [_whole(found[figure]) for figure in figures]
            stalled = found["lag_p99_ms_by_shard"].get(each["stalled"])
            rows.append((each["scenario"], system, phase, *cells, _whole(stalled)))
    head = (
        *("scenario", "system", "phase", "HTTP p50, ms", "HTTP p99, ms"),
        *("lag p50, ms", "lag p99, ms", "failed", "lags seen", "lag p99 of the stalled shard, ms"),
    )
    yield from _table(head, rows)


def _whole(figure: float | None) -> str:
    return "" if figure is None else f"{figure:,.0f}"


def _soak(session: Session) -> Iterator[str]:
    if not session.soak:
        return
    minutes = session.soak["minutes"]
    yield f"## {len(minutes)} minutes of {SOAK_PER_S:,} single updates a second"
    yield ""
    yield (
        f"{session.soak['updates_accepted']:,} updates accepted, "
        f"{session.soak['updates_unknown']:,} not answered 202, "
        f"{session.soak['updates_applied']:,} applied; "
        f"{session.soak['not_arrived']:,} probes never arrived"
        f"{'; INVALID' if is_invalid(session.soak) else ''}."
    )
    yield ""
    names = list(minutes[0]["rss_mib"])
    rows = [
        (
            str(each["minute"]),
            *(f"{each['rss_mib'][name]:.1f}" for name in names),
            *(_whole(each[figure]) for figure in ("http_p99_ms", "lag_p50_ms", "lag_p99_ms")),
        )
        for each in minutes
        if each["minute"] == 1 or each["minute"] % _MINUTES_SHOWN == 0
    ]
    head = ("minute", *(f"RSS of {name}, MiB" for name in names))
    yield from _table((*head, "HTTP p99, ms", "lag p50, ms", "lag p99, ms"), rows)


def _scaling(session: Session) -> Iterator[str]:
    if not session.scaling:
        return
    yield f"## {SCALED_LOAD}, with more and with fewer"
    yield ""
    yield (
        "One consumer, four shards and 400,000 rows where nothing else is said. All of them share "
        "the cores with the broker: where the last column comes near to their number, more of "
        "anything has nothing to run on. Fewer updates a row fold less. What several "
        "consumers apply counts once the last of them has begun."
    )
    yield ""
    head = (
        *("consumers", "shards", "rows", "updates counted", "updates/s, median (lowest-highest)"),
        *("client µs", "Postgres µs", "broker µs", "updates a row written"),
        *("RSS of the largest, MiB", "cores busy"),
    )
    yield from _table(head, [_scaled_row(scaled) for scaled in session.scaling])


def _scaled_row(scaled: Scaled) -> tuple[str, ...]:
    point = scaled.point
    place = (str(point.consumers), str(point.shards), f"{point.rows:,}")
    runs = [run for run in scaled.runs if run.valid]
    if not runs:
        return (*place, "", "not measured", *[""] * 6)

    costs_us = [
        1e6 * median_of(runs, lambda run: run.rate.client_cpu_s / run.rate.updates),
        1e6 * median_of(runs, lambda run: run.postgres_cpu_s / run.records),
        1e6 * median_of(runs, lambda run: run.broker_cpu_s / run.records),
    ]
    rate = Spread.of([run.rate.per_second for run in runs])
    return (
        *place,
        f"{median_of(runs, lambda run: run.rate.updates):,.0f}",
        str(rate),
        *(f"{each:.1f}" for each in costs_us),
        f"{median_of(runs, lambda run: run.records / run.written.rows):,.1f}",
        f"{median_of(runs, lambda run: run.rate.rss_max_mib):,.0f}",
        f"{rate.median * sum(costs_us) / 1e6:.1f}",
    )


def _draw(session: Session) -> Iterator[Path]:
    _PLOTS.mkdir(exist_ok=True)
    rcParams["svg.hashsalt"] = "tidemark"  # or each drawing would differ in its IDs
    flame_graph = _PLOTS / "flame-graph.svg"
    if PROFILE.exists():
        drawn = PROFILE.read_text(encoding="utf-8")
        flame_graph.write_text(drawn.replace(f"{CHECKOUT}/", ""), encoding="utf-8")
    if flame_graph.exists():
        yield flame_graph
    for scenario in dict.fromkeys(each["scenario"] for each in session.end_to_end):
        yield _draw_scenario(session, scenario)
    if session.runs:
        yield _draw_throughput(session)


def _rate(runs: list[Run]) -> float:
    return median_of(runs, lambda run: run.rate.per_second) if runs else 0


def _draw_throughput(session: Session) -> Path:
    loads = [load for load in LOADS if any(run.series == load for run in session.runs)]
    arms = _names(session)
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(arms)
    for place, arm in enumerate(arms):
        places = [at + place * width for at in range(len(loads))]
        rates = [_rate(session.of(arm, load)) for load in loads]
        axes.bar(places, rates, width=width, label=arm)
    axes.set_xticks([at + 0.4 - width / 2 for at in range(len(loads))], loads)
    axes.set_ylabel("updates/s, median")
    axes.legend(ncols=3, fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    path = _PLOTS / "throughput.svg"
    figure.savefig(path, metadata={"Date": None})
    return path


def _draw_scenario(session: Session, scenario: str) -> Path:
    first: dict[str, Any] = {}
    for each in session.end_to_end:
        if each["scenario"] == scenario:
            first.setdefault(each["system"], each)
    systems = list(first.values())
    figure = Figure(figsize=(9, 3 * len(systems)), layout="constrained")
    panels = figure.subplots(len(systems), sharex=True, squeeze=False)[:, 0]
    for axes, each in zip(panels, systems, strict=True):
        seconds = [line["second"] for line in each["timeline"]]
        http = [line["http_p99_ms"] for line in each["timeline"]]
        axes.plot(seconds, http, label="HTTP p99", color="black")
        for shard in sorted(each["timeline"][0]["lag_p99_ms_by_shard"]):
            lags = [line["lag_p99_ms_by_shard"][shard] for line in each["timeline"]]
            axes.plot(seconds, lags, label=f"time lag of {shard}, p99", linewidth=1)
        if each["event"]:
            axes.axvspan(*each["event"], color="0.92")
        axes.set_yscale("log")
        axes.set_ylabel("ms")
        axes.set_title(f"{scenario}: {each['system']}", fontsize="medium")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(ncols=3, fontsize="small")
    panels[-1].set_xlabel("seconds")
    path = _PLOTS / f"{scenario}.svg"
    figure.savefig(path, metadata={"Date": None})
    return path


def _pictures(plots: list[Path]) -> Iterator[str]:
    yield "## Pictures"
    yield ""
    yield "The flame graph is of one consumer at its peak; its title says on what, and the commit."
    yield ""
    for path in plots:
        yield f"![{path.stem.replace('-', ' ')}]({path.relative_to(_DIRECTORY)})"
        yield ""
