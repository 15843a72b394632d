"""Curves over time: as text for a terminal, and as SVG or PNG for everything else."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Final, Literal

from shared.errors import Misconfigured

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_MARGIN: Final = (84, 20, 44, 40)
_SIZE: Final = (760, 230)
_HEADING: Final = 34
_PAPER: Final = "#fbfaf7"
_INK: Final = "#1c2430"
_SOFT: Final = "#5a6472"
_GRID: Final = "#d8d5cc"
_CURVE: Final = "#0b6e8a"
_MEASURED: Final = "#a85b00"
_PNG_SCALE: Final = 2


@dataclass(frozen=True, slots=True)
class Curve:
    """Points of time in seconds and values, and how both are written."""

    title: str
    points: Sequence[tuple[float, float]]
    value: Callable[[float], str]
    time: Callable[[float], str]
    measured: Sequence[tuple[float, float]] = ()
    """Points beside the curve, drawn as dots."""


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text that begins at, is centred on or ends at a point of its base line."""

    x: float
    y: float
    text: str
    colour: str
    size: int = 12
    anchor: Literal["start", "middle", "end"] = "start"


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points."""

    points: Sequence[tuple[float, float]]
    colour: str
    width: int = 1


@dataclass(frozen=True, slots=True)
class Dot:
    """Something that was measured."""

    x: float
    y: float
    radius: float = 2.5


Shape = Text | Line | Dot


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
    width, height = _size(curves)
    body = "".join(map(_as_element, _shapes(curves, heading)))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui,sans-serif" role="img" aria-label="{escape(heading)}">'
        f'<rect width="{width}" height="{height}" fill="{_PAPER}"/>{body}</svg>\n'
    )


def as_png(curves: Sequence[Curve], heading: str) -> bytes:
    """Draw the same as pixels, for where no SVG is shown.

    Raises:
        Misconfigured: what draws it is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise Misconfigured(
            "PNG needs Pillow, which is not installed: pip install 'pillow>=12', or draw an SVG."
        ) from error
    width, height = _size(curves)
    scale = _PNG_SCALE
    picture = Image.new("RGB", (width * scale, height * scale), _PAPER)
    drawing = ImageDraw.Draw(picture)
    for shape in _shapes(curves, heading):
        match shape:
            case Text():
                anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
                font = ImageFont.load_default(shape.size * scale)
                place = (shape.x * scale, shape.y * scale)
                drawing.text(place, shape.text, shape.colour, font, anchor=anchor)
            case Line():
                points = [(x * scale, y * scale) for x, y in shape.points]
                drawing.line(points, shape.colour, shape.width * scale, joint="curve")
            case Dot():
                centre = (shape.x * scale, shape.y * scale)
                drawing.circle(centre, shape.radius * scale, _MEASURED)
    found = BytesIO()
    picture.save(found, "PNG", optimize=True)
    return found.getvalue()


def _size(curves: Sequence[Curve]) -> tuple[int, int]:
    return _SIZE[0], _SIZE[1] * len(curves) + _HEADING


def _as_element(shape: Shape) -> str:
    match shape:
        case Text():
            return (
                f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size}" '
                f'text-anchor="{shape.anchor}" fill="{shape.colour}">{escape(shape.text)}</text>'
            )
        case Line():
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
            return (
                f'<polyline points="{points}" fill="none" stroke="{shape.colour}" '
                f'stroke-width="{shape.width}"/>'
            )
        case Dot():
            return (
                f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius}" '
                f'fill="{_MEASURED}"/>'
            )


def _shapes(curves: Sequence[Curve], heading: str) -> Iterator[Shape]:
    yield Text(16, 22, heading, _INK, size=15)
    for number, curve in enumerate(curves):
        yield from _drawn(curve, _HEADING + number * _SIZE[1])


def _drawn(curve: Curve, begins: int) -> Iterator[Shape]:
    left, above, right, bottom = _MARGIN
    top = begins + above
    width, height = _SIZE[0] - left - right, _SIZE[1] - above - bottom
    everything = [*curve.points, *curve.measured]
    first, last = min(at for at, _ in everything), max(at for at, _ in everything)
    highest = max(value for _, value in everything) or 1.0

    def place(at: float, value: float) -> tuple[float, float]:
        x = left + (at - first) / ((last - first) or 1.0) * width
        return x, top + (1 - value / highest) * height

    yield Text(left, begins + 10, curve.title, _INK)
    for share in (0, 0.5, 1):
        y = top + (1 - share) * height
        yield Line([(left, y), (left + width, y)], _GRID)
        yield Text(left - 8, y + 4, curve.value(highest * share), _SOFT, anchor="end")
    for share in (0, 0.25, 0.5, 0.75, 1):
        time = curve.time(first + share * (last - first))
        yield Text(left + share * width, top + height + 18, time, _SOFT, anchor="middle")
    yield Line([place(*point) for point in curve.points], _CURVE, 2)
    for point in curve.measured:
        yield Dot(*place(*point))
