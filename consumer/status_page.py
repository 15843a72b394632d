"""The status page: one HTML document, drawn here, that needs nothing from the internet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup, escape

from consumer.lag_watch import TREND_S
from consumer.overview import Overview, Point
from consumer.troubles import clock, troubles
from shared.topology import PARTITIONS
from shared.wording import amount, duration

_WIDTH: Final = 280
_HEIGHT: Final = 56
_SPAN_MIN_S: Final = 60.0
_COLUMNS: Final = 60
_CELL: Final = 12
_LEVELS: Final = (1, 100, 1_000, 10_000)
"""From how many waiting records on a cell of the map is darker."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A line through the last half hour, and what it says in words."""

    points: str
    highest: str
    label: str


def plot(trend: Sequence[Point], name: str, unit: str, *, now_s: float, span_s: float) -> Plot:
    """Draw `message_lag` or `time_lag` of a shard."""
    values = [point.message_lag if unit == "records" else point.time_lag_s for point in trend]
    top = max(values, default=0) or 1
    points = " ".join(
        f"{_WIDTH * (1 - (now_s - point.at_s) / span_s):.1f},{_HEIGHT * (1 - value / top):.1f}"
        for point, value in zip(trend, values, strict=True)
    )
    shown = amount if unit == "records" else duration
    highest, last = shown(max(values, default=0)), shown(values[-1] if values else 0)
    label = f"{name} of the last {duration(span_s)}: at most {highest}, now {last}"
    return Plot(points, highest, label)


@dataclass(frozen=True, slots=True)
class Cell:
    """A partition on the map; `level` from 0 for nothing to 4."""

    x: int
    y: int
    level: int
    title: str


def cells(waiting: Mapping[int, int]) -> list[Cell]:
    """Lay the partitions out, sixty a row."""
    return [
        Cell(
            number % _COLUMNS * _CELL,
            number // _COLUMNS * _CELL,
            sum(waiting.get(number, 0) >= level for level in _LEVELS),
            f"partition {number}: {amount(waiting.get(number, 0))} waiting",
        )
        for number in range(PARTITIONS)
    ]


def render(view: Overview, *, public: bool) -> str:
    """Return the page; `public` leaves out whatever names a customer."""
    found = troubles(view)
    times = {"now_s": view.at_s, "span_s": _span_s(view)}
    who = {each.name: f"apps from {each.apps}" if public else each.name for each in view.shards}
    if public:
        shown: Sequence[Any] = [each for each in found if each.public]
    else:
        shown = found
    return _template().render(
        view=view,
        public=public,
        troubles=shown,
        plots={
            shard.name: (
                plot(shard.trend, f"Waiting of {who[shard.name]}", "records", **times),
                plot(shard.trend, f"Time lag of {who[shard.name]}", "seconds", **times),
            )
            for shard in view.shards
        },
        cells=cells(view.waiting),
        worst=sorted(view.waiting.items(), key=lambda item: -item[1])[:10],
        total=sum(shard.message_lag for shard in view.shards),
        oldest_s=max((shard.time_lag_s for shard in view.shards), default=0.0),
        catch_up_s=_catch_up_s(view),
        span_s=times["span_s"],
        width=_WIDTH,
        height=_HEIGHT,
        map_width=_COLUMNS * _CELL,
        map_height=PARTITIONS // _COLUMNS * _CELL,
    )


def _catch_up_s(view: Overview) -> float | None:
    """Return when the last shard is caught up with; None where one is not at all."""
    times = [shard.catch_up_s for shard in view.shards]
    return None if None in times else max((each for each in times if each is not None), default=0.0)


def _span_s(view: Overview) -> float:
    """Return how far back the plots go: half an hour, or as far as there is anything."""
    firsts = [shard.trend[0].at_s for shard in view.shards if shard.trend]
    since_s = view.at_s - min(firsts, default=view.at_s)
    return min(TREND_S, max(_SPAN_MIN_S, since_s))


def _with_code(text: str) -> Markup:
    """Set off what stands between backticks: a command to type."""
    parts = (escape(part) for part in text.split("`"))
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part
        for number, part in enumerate(parts)
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("consumer", "templates"), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "amount": amount,
        "duration": duration,
        "clock": clock,
        "code": _with_code,
    }
    return environment.get_template("status.html")
