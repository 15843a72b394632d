"""`tidemark plan`: what a burst would do."""

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from operator_cli.conventions import (
    Json,
    OperatorSettings,
    ShardMapFile,
    print_json,
    with_exit_codes,
)
from shared.errors import Misconfigured
from shared.settings import load, read_shards
from shared.wording import amount, duration

if TYPE_CHECKING:
    from operator_cli.planning import Burst, Plan, Scenario

_BURST: Final = re.compile(r"(\d+(?:\.\d+)?)x(.+)")
_TIME: Final = re.compile(r"(\d+(?:\.\d+)?)(s|m|h)")
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600}


@with_exit_codes
def plan(
    *,
    rate: Annotated[
        float | None, typer.Option("--rate", min=0, help="Updates accepted a second, usually.")
    ] = None,
    burst: Annotated[
        str,
        typer.Option("--burst", metavar="RATExTIME", help="20000x10m: a rate, and how long."),
    ] = "0x0s",
    capacity: Annotated[
        float | None,
        typer.Option("--capacity", min=0, help="Updates applied a second at most."),
    ] = None,
    backlog: Annotated[
        float | None, typer.Option("--backlog", min=0, help="Updates that wait at the beginning.")
    ] = None,
    stopped: Annotated[
        str,
        typer.Option("--stopped", metavar="TIME", help="Nothing is applied at first: 60s, 5m."),
    ] = "0s",
    from_metrics: Annotated[
        bool,
        typer.Option(
            "--from-metrics",
            help="Take rate and backlog as Kafka shows them now, and, where records wait, the "
            "capacity as well.",
        ),
    ] = False,
    svg: Annotated[
        Path | None, typer.Option("--svg", metavar="FILE", help="Draw it into a file, too.")
    ] = None,
    png: Annotated[
        Path | None,
        typer.Option("--png", metavar="FILE", help="Likewise, as pixels; needs Pillow."),
    ] = None,
    shard_map: ShardMapFile = None,
    as_json: Json = False,
) -> None:
    """Work out message lag and time lag through a burst, and draw both."""
    from operator_cli import planning, plots

    if from_metrics:
        now = asyncio.run(_now(shard_map))
        rate = now[0] if rate is None else rate
        backlog = now[1] if backlog is None else backlog
        capacity = now[2] if capacity is None else capacity
    if rate is None or capacity is None:
        raise Misconfigured(
            "--rate and --capacity are needed; --from-metrics knows the capacity only while "
            "records wait."
        )
    scenario = planning.Scenario(
        rate=rate,
        capacity=capacity,
        burst=_burst(burst),
        backlog=backlog or 0.0,
        stopped_s=_stop(stopped),
    )
    found = planning.simulate(scenario)
    curves = [
        plots.Curve(
            "message lag (updates waiting)",
            [(m.at_s, m.message_lag) for m in found.moments],
            amount,
            _moment,
        ),
        plots.Curve(
            "time lag (age of the oldest)",
            [(m.at_s, m.time_lag_s) for m in found.moments],
            duration,
            _moment,
        ),
    ]
    if svg is not None:
        _write("--svg", svg, plots.as_svg(curves, _heading(scenario)).encode())
    if png is not None:
        _write("--png", png, plots.as_png(curves, _heading(scenario)))
    if as_json:
        print_json(_members(found))
        return
    typer.echo(_heading(scenario))
    for curve in curves:
        typer.echo(f"\n{plots.as_text(curve)}")
    typer.echo(f"\n{_conclusion(found)}")


def _write(option: str, path: Path, picture: bytes) -> None:
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise Misconfigured(f"{option} {path} cannot be written ({error.strerror}).") from error


async def _now(shard_map: Path | None) -> tuple[float, float, float | None]:
    """Return rate, backlog and, while records wait, the capacity, as Kafka shows them."""
    from operator_cli.lag import follow

    settings = load(OperatorSettings)
    shards = read_shards(shard_map or settings.shard_map_file)
    looks = follow(settings.kafka, settings.group.id, shards, 5.0)
    before, after = (await anext(looks))[-1], (await anext(looks))[-1]
    await looks.aclose()  # type: ignore[attr-defined]  # an async generator
    waits = before.message_lag > 0 and after.message_lag > 0
    return after.accepted_per_s, after.message_lag, after.done_per_s if waits else None


def _burst(text: str) -> "Burst":
    from operator_cli.planning import Burst

    found = _BURST.fullmatch(text)
    seconds = _seconds(found[2]) if found else None
    if found is None or seconds is None:
        raise Misconfigured(f"--burst {text} cannot be read; write 20000x10m, 500x30s or 100x2h.")
    return Burst(float(found[1]), seconds)


def _stop(text: str) -> float:
    seconds = _seconds(text)
    if seconds is None:
        raise Misconfigured(f"--stopped {text} cannot be read; write 60s, 5m or 2h.")
    return seconds


def _seconds(text: str) -> float | None:
    found = _TIME.fullmatch(text)
    return float(found[1]) * _UNITS[found[2]] if found else None


def _moment(at_s: float) -> str:
    return f"-{duration(-at_s)}" if at_s < -0.5 else duration(max(0.0, at_s))  # noqa: PLR2004


def _heading(scenario: "Scenario") -> str:
    burst = scenario.burst
    parts = [f"{amount(scenario.rate)} a second"]
    if burst.seconds:
        parts.append(f"{amount(burst.rate)} a second for {duration(burst.seconds)}")
    if scenario.backlog:
        parts.append(f"{amount(scenario.backlog)} waiting")
    if scenario.stopped_s:
        parts.append(f"nothing applied for {duration(scenario.stopped_s)}")
    return f"{', '.join(parts)}; {amount(scenario.capacity)} a second can be applied"


def _conclusion(found: "Plan") -> str:
    most, oldest = found.message_peak, found.time_peak
    if round(most.message_lag) == 0:
        return "Nothing waits."
    text = (
        f"Most waits after {duration(most.at_s)}: {amount(most.message_lag)}. The oldest is oldest "
        f"after {duration(oldest.at_s)}: {duration(oldest.time_lag_s)}. All is caught up with "
        f"after {duration(found.caught_up_s)}."
    )
    if oldest.at_s > most.at_s * 1.05:
        text += (
            f" For {duration(oldest.at_s - most.at_s)} fewer and fewer wait, and customers still "
            "see it getting later."
        )
    return text


def _members(found: "Plan") -> dict[str, object]:
    return {
        "message_lag_max": round(found.message_peak.message_lag),
        "message_lag_max_at_s": round(found.message_peak.at_s, 1),
        "time_lag_max_s": round(found.time_peak.time_lag_s, 1),
        "time_lag_max_at_s": round(found.time_peak.at_s, 1),
        "caught_up_at_s": round(found.caught_up_s, 1),
        "moments": [
            [round(m.at_s, 2), round(m.message_lag, 1), round(m.time_lag_s, 3)]
            for m in found.moments
        ],
    }
