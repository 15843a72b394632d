"""Measure Tidemark beside what a user would pick instead, on this machine, in one run."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

import uvloop

from benchmarks import scaling
from benchmarks.arms.arm import Arm
from benchmarks.arms.batch_loop import BatchLoop
from benchmarks.arms.ceiling import Ceiling
from benchmarks.arms.parallel_consumer import MODES, STRONGEST, ParallelConsumer
from benchmarks.arms.plain_loop import PlainLoop
from benchmarks.arms.tidemark import TIDEMARK, Tidemark
from benchmarks.collector import collector
from benchmarks.ingest.measure import Ingest
from benchmarks.ingest.measure import missing as ingest_missing
from benchmarks.latency.measure import Latency
from benchmarks.loads import FULL, LOADS, ROWS, SHORTEST
from benchmarks.measure import Run
from benchmarks.results import HTTP, REPORTED, Session, latest
from benchmarks.stack import bench_stack
from benchmarks.targets import print_ratios
from benchmarks.throughput import Throughput
from consumer.settings import ConsumerSettings
from deploy.local.layout import CHECKOUT
from deploy.local.stack import LocalStack
from shared.errors import Misconfigured, Transient
from shared.usage import variable_names

_EXAMPLES: Final = """\
examples:
  python -m benchmarks                                  everything; takes hours
  python -m benchmarks quick                            distinct and half-hot once, in minutes
  python -m benchmarks run --arm tidemark --arm pc-unnest --load zipf --repeats 3
  python -m benchmarks run --arm tidemark --profile     and a flame graph of its peak (py-spy)
  python -m benchmarks run --arm tidemark --beside ../other-checkout --load distinct
  python -m benchmarks run --go-on benchmarks/results.json   what a run that was ended lacks
  python -m benchmarks report                           RESULTS.md and plots from the last run

The arms http, latency, soak and scaling have loads of their own, and are left out where only a load
is named. ARM, LOAD and REPEATS of the environment stand for options that are not given."""
_DEFAULT_REPEATS: Final = 5
_QUICK_LOADS: Final = ("distinct", "half-hot")
_LATENCY: Final = "latency"
_SOAK: Final = "soak"
_SCALING: Final = "scaling"
_NOT_ARMS: Final = (HTTP, _LATENCY, _SOAK, _SCALING)
_SOAK_MINUTES: Final = 30
_QUICK_ROWS: Final = 62_500
_QUICK_RECORDS: Final = 250_000
"""Fewer of both alike, so that a row comes up as often as in a full run."""


def _arms(options: argparse.Namespace) -> list[Arm]:
    beside: list[Path] = options.beside
    for path in beside:
        if not (path / "consumer" / "__main__.py").is_file():
            raise Misconfigured(f"{path} is no checkout of Tidemark: it has no consumer.")
    arms: list[Arm] = [
        Tidemark(profile=options.profile),
        *(Tidemark(name=path.resolve().name, checkout=path.resolve()) for path in beside),
        *(_variant(text) for text in options.variant),
        *_peers(),
    ]
    wanted: list[str] = options.arm or _words("ARM")
    unknown = set(wanted) - {arm.name for arm in arms} - set(_NOT_ARMS)
    if unknown:
        names = ", ".join([*(arm.name for arm in arms), *_NOT_ARMS])
        raise Misconfigured(f"There is no arm {', '.join(sorted(unknown))}; there are {names}.")
    added = {path.resolve().name for path in beside}
    added |= {_variant(text).name for text in options.variant}
    return [arm for arm in arms if not wanted or arm.name in wanted or arm.name in added]


def _peers() -> list[Arm]:
    return [*(ParallelConsumer(mode) for mode in MODES), BatchLoop(), PlainLoop(), Ceiling()]


def _variant(text: str) -> Tidemark:
    name, _, settings = text.partition(":")
    pairs = [pair.partition("=") for pair in settings.split(",")]
    if not name or not all(value for _, _, value in pairs):
        raise Misconfigured(f"{text} is no variant; write NAME:IN_FLIGHT__RECORDS_MAX=20000.")
    values = {f"TIDEMARK_{key}": value for key, _, value in pairs}
    unknown = sorted(values.keys() - variable_names(ConsumerSettings))
    if unknown:
        raise Misconfigured(
            f"Consumers read no {', '.join(unknown)}; `python -m consumer --help` lists what they "
            "do."
        )
    return Tidemark(name=name, settings=values)


def _loads(wanted: Sequence[str]) -> Sequence[str]:
    """Return those that are wanted, or all where none is."""
    unknown = set(wanted) - set(LOADS)
    if unknown:
        raise Misconfigured(
            f"There is no load {', '.join(sorted(unknown))}; there are {', '.join(LOADS)}."
        )
    return wanted or list(LOADS)


def _parts(wanted: Sequence[str], *, alone: bool) -> list[str]:
    """Return what has loads of its own: what is named, or all where nothing is and no load is."""
    if wanted:
        return [part for part in _NOT_ARMS if part in wanted]
    return [] if alone else list(_NOT_ARMS)


def run(options: argparse.Namespace) -> int:
    """Measure arms on loads, by turns, and keep the results."""
    wanted: list[str] = options.arm or _words("ARM")
    loads: list[str] = options.load or _words("LOAD")
    so_far = Session.read(options.go_on) if options.go_on else None
    if so_far:
        _of_all_rows(options.go_on, so_far)
    if loads and wanted and not so_far and not set(wanted) - set(_NOT_ARMS):
        raise Misconfigured(f"{', '.join(wanted)} has loads of its own; leave out {loads[0]}.")
    if options.go_on and set(wanted) - set(_NOT_ARMS):
        raise Misconfigured(
            "--go-on measures a load with all arms, or its table would lack some; name only "
            f"{', '.join(_NOT_ARMS)} by --arm, or none."
        )
    return _measure(
        options,
        _arms(options),
        [[load] for load in _loads(loads)],
        repeats=options.repeats,
        records=options.records,
        parts=_parts(wanted, alone=bool(loads) and not options.go_on),
        so_far=so_far,
        anew={*wanted, *loads},
    )


def quick(options: argparse.Namespace) -> int:
    """Measure Tidemark, the ceiling and Parallel Consumer once on distinct and on half-hot."""
    peer = ParallelConsumer(STRONGEST, slow_records_max=SHORTEST)
    arms: list[Arm] = [Tidemark(), Ceiling(), peer]
    status = _measure(
        options,
        arms,
        [_QUICK_LOADS],
        repeats=1,
        rows=_QUICK_ROWS,
        records=_QUICK_RECORDS,
        parts=(),
    )
    _say(
        "One turn each, and from turn to turn a ratio varies by a fifth: `make bench` takes the "
        "median of five."
    )
    return status


def _of_all_rows(path: Path, session: Session) -> None:
    if session.rows != ROWS:
        raise Misconfigured(
            f"{path} is of {session.rows:,} rows, as `quick` takes; a report is of {ROWS:,}."
        )


def report(options: argparse.Namespace) -> int:
    """Write RESULTS.md and its plots; not if they would lose what they have, unless told to."""
    path: Path | None = options.results or latest()
    if path is None:
        raise Misconfigured("There are no results yet; `make bench` makes some, in hours.")
    from benchmarks.report import write_report  # noqa: PLC0415 - only this draws

    session = Session.read(path)
    if not session.parts:
        raise Misconfigured(f"{path} is of a run that was ended before it measured anything.")
    if options.results is None and REPORTED.exists():
        lost = Session.read(REPORTED).measured - session.measured
        if lost:
            raise Misconfigured(
                f"{path.name} lacks {min(lost)}{' and others' if len(lost) > 1 else ''}, which the "
                f"report has; measure with `run --go-on {REPORTED.relative_to(CHECKOUT)}` what is "
                "to be added to that, or name the file to do without."
            )
    _of_all_rows(path, session)
    write_report(session)
    return 0


def _measure(
    options: argparse.Namespace,
    arms: Sequence[Arm],
    groups: Sequence[Sequence[str]],
    *,
    repeats: int,
    records: int,
    parts: Sequence[str],
    rows: int = ROWS,
    so_far: Session | None = None,
    anew: Collection[str] = (),
) -> int:
    session = so_far or Session(seed=options.seed, rows=rows)
    whole = session.parts - set(anew)
    parts = [part for part in parts if part not in whole]
    http_missing = ingest_missing() if HTTP in parts else None
    session.sit_down(sys.argv[1:], _left_out(http_missing, *(arm.missing() for arm in arms)))
    present = [arm for arm in arms if arm.missing() is None]
    lacking = [[load for load in group if load not in whole] for group in groups]
    groups = [group for group in lacking if group and present]
    _explain(present, [load for group in groups for load in group])

    def latency(stack: LocalStack, endpoint: str) -> Latency:
        return Latency(stack, seed=session.seed, say=_say, otlp_endpoint=endpoint)

    async def measure(stack: LocalStack, endpoint: str) -> None:
        seed = session.seed
        throughput = Throughput.on(stack, seed=seed, say=_say, rows=rows, otlp_endpoint=endpoint)
        for group in groups:
            measuring = throughput.measure(present, group, repeats=repeats, records_max=records)
            _keep(session, group, [run async for run in measuring])
        if HTTP in parts and http_missing is None:
            ingest = Ingest(stack, seed=seed, say=_say, otlp_endpoint=endpoint)
            session.http = await ingest.measure(repeats)
            _say(f"kept in {session.end(HTTP)}")
        if _LATENCY in parts:
            session.end_to_end = await latency(stack, endpoint).measure()
            _say(f"kept in {session.end(_LATENCY)}")
        if _SOAK in parts:
            session.soak = await latency(stack, endpoint).soak(_SOAK_MINUTES)
            _say(f"kept in {session.end(_SOAK)}")

    try:
        with collector() as receiver:
            endpoint = receiver.endpoint
            if groups or set(parts) - {_SCALING}:
                with bench_stack(keep=options.keep) as stack:
                    uvloop.run(measure(stack, endpoint))
            if _SCALING in parts:
                _scale(session, endpoint)
    finally:  # what was kept of a sitting that is ended has to know it, too
        if set(parts) - {HTTP} or (groups and any(isinstance(arm, Tidemark) for arm in present)):
            _note_spans(session, receiver.spans)
    print_ratios(session)
    return 0 if session.counts else 1


def _keep(session: Session, loads: Sequence[str], runs: Sequence[Run]) -> None:
    for load in loads:
        session.replace_runs(load, [run for run in runs if run.series == load])
        _say(f"kept in {session.end(load)}")


def _explain(arms: Sequence[Arm], loads: Sequence[str]) -> None:
    if not loads:
        return
    for arm in arms:
        _say(f"{arm.name:14} {arm.meaning}")
    for load in loads:
        _say(f"{load:14} {LOADS[load].meaning}")


def _left_out(*reasons: str | None) -> list[str]:
    """Say what cannot be measured here, and why."""
    sentences = sorted({why for why in reasons if why})
    for sentence in sentences:
        print(sentence)
    return sentences


def _scale(session: Session, otlp_endpoint: str) -> None:
    session.scaling = []
    for scaled in scaling.measure(seed=session.seed, otlp_endpoint=otlp_endpoint, say=_say):
        session.scaling.append(scaled)
        session.keep()
    _say(f"kept in {session.end(_SCALING)}")


def _note_spans(session: Session, spans: int) -> None:
    """Note how many came in a sitting in which services of ours ran, if it came to anything."""
    if not session.sittings[-1]["parts"]:
        return
    session.note_spans(spans)
    if not spans:
        print("INVALID: no span came from any service, so telemetry was not on.")


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _words(variable: str) -> list[str]:
    return os.environ.get(variable, "").replace(",", " ").split()


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        message = f"must be a whole number from 1, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    measuring = argparse.ArgumentParser(add_help=False)
    measuring.add_argument("--seed", type=int, default=1, help="of all loads (default: 1)")
    measuring.add_argument("--keep", action="store_true", help="leave broker and shards running")
    repeats = os.environ.get("REPEATS") or str(_DEFAULT_REPEATS)  # read as an option would be

    runner = commands.add_parser("run", help=run.__doc__, parents=[measuring])
    arms = [TIDEMARK, *(arm.name for arm in _peers()), *_NOT_ARMS]
    runner.add_argument("--arm", action="append", help=f"of {', '.join(arms)}; may be given again")
    runner.add_argument(
        "--load", action="append", help=f"of {', '.join(LOADS)}; may be given again"
    )
    runner.add_argument(
        "--repeats", type=_count, default=repeats, help="of each (default: %(default)s)"
    )
    runner.add_argument(
        "--records", type=_count, default=FULL, help="at most, of each load (default: %(default)s)"
    )
    runner.add_argument(
        "--go-on",
        type=Path,
        metavar="JSON",
        help="add to these results what they lack, and measure anew what --load and --arm name",
    )
    runner.add_argument("--profile", action="store_true", help="py-spy the consumer at its peak")
    runner.add_argument(
        "--beside",
        type=Path,
        action="append",
        default=[],
        metavar="CHECKOUT",
        help="also the consumer of another checkout, by turns with this one",
    )
    runner.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="NAME:SETTING=VALUE,…",
        help="also the consumer with other settings",
    )
    runner.set_defaults(command=run)
    commands.add_parser("quick", help=quick.__doc__, parents=[measuring]).set_defaults(
        command=quick
    )
    reporter = commands.add_parser("report", help=report.__doc__)
    reporter.add_argument("results", type=Path, nargs="?", help="JSON; the youngest by default")
    reporter.set_defaults(command=report)
    return parser


def main() -> int:
    """Run one command; 1 where a run does not count, 2 where a human must act."""
    arguments = sys.argv[1:]
    if not arguments or (arguments[0].startswith("--") and arguments[0] != "--help"):
        arguments = ["run", *arguments]
    options = _parser().parse_args(arguments)
    # Told to end, it takes its broker and shards with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        status: int = options.command(options)
    except (Misconfigured, Transient) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmarks: interrupted", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
