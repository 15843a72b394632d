"""Curves over time: as text for a terminal, and as SVG for everything else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_MARGIN: Final = (84, 20, 44, 40)
_SIZE: Final = (760, 230)


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of time in seconds and values, and how both are written."""

    title: str
    points: Sequence[tuple[float, float]]
    value: Callable[[float], str]
    time: Callable[[float], str]
    measured: Sequence[tuple[float, float]] = ()
    """Points beside the curve, drawn as dots."""


def as_text(curve: Curve, *, width: int = 72, height: int = 8) -> str:
    """Draw a curve with block characters."""
    first, last = curve.points[0][0], curve.points[-1][0]
    columns = [0.0] * width
    for at, value in curve.points:
        place = min(width - 1, int((at - first) / ((last - first) or 1.0) * width))
        columns[place] = max(columns[place], value)
    top = max(columns) or 1.0
    lines = [f"{curve.title}, at most {curve.value(max(columns))}"]
    for row in reversed(range(height)):
        filled = [min(8, max(0, round((value / top * height - row) * 8))) for value in columns]
        lines.append("  " + "".join(_BLOCKS[each] for each in filled))
    left, right = curve.time(first), curve.time(last)
    lines.append(f"  {left}{right:>{width - len(left)}}")
    return "\n".join(lines)


def as_svg(curves: Sequence[Curve], heading: str) -> str:
    """Draw curves below each other; readable on light and on dark."""
    width, height = _SIZE
    total = height * len(curves) + 34
    body = "".join(
        f'<g transform="translate(0,{34 + number * height})">{_drawn(curve)}</g>'
        for number, curve in enumerate(curves)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {total}" '
        f'font-family="system-ui,sans-serif" font-size="12" role="img" '
        f'aria-label="{escape(heading)}"><rect width="{width}" height="{total}" fill="#fbfaf7"/>'
        f'<text x="16" y="22" font-size="15" font-weight="600" fill="#1c2430">{escape(heading)}'
        f"</text>{body}</svg>\n"
    )


def _drawn(curve: Curve) -> str:
    left, top, right, bottom = _MARGIN
    width, height = _SIZE[0] - left - right, _SIZE[1] - top - bottom
    everything = [*curve.points, *curve.measured]
    first, last = everything[0][0], max(at for at, _ in everything)
    first = min(first, *(at for at, _ in everything))
    highest = max(value for _, value in everything) or 1.0

    def place(at: float, value: float) -> tuple[float, float]:
        x = left + (at - first) / ((last - first) or 1.0) * width
        return x, top + (1 - value / highest) * height

    line = " ".join("{:.1f},{:.1f}".format(*place(at, value)) for at, value in curve.points)
    dots = "".join(
        '<circle cx="{:.1f}" cy="{:.1f}" r="2.5" fill="#a85b00"/>'.format(*place(at, value))
        for at, value in curve.measured
    )
    grid = "".join(
        f'<line x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#d8d5cc"/>'
        f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#5a6472">'
        f"{escape(curve.value(highest * share))}</text>"
        for share in (0, 0.5, 1)
        for y in (top + (1 - share) * height,)
    )
    ticks = "".join(
        f'<text x="{left + share * width:.1f}" y="{top + height + 18}" text-anchor="middle" '
        f'fill="#5a6472">{escape(curve.time(first + share * (last - first)))}</text>'
        for share in (0, 0.25, 0.5, 0.75, 1)
    )
    return (
        f'<text x="{left}" y="10" fill="#1c2430">{escape(curve.title)}</text>{grid}{ticks}'
        f'<polyline points="{line}" fill="none" stroke="#0b6e8a" stroke-width="2"/>{dots}'
    )
