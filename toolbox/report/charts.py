"""Curves of several series and histograms, as vector drawings that take the page's colors."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

from toolbox.base.findings import Curve, Histogram
from toolbox.report.curves import drawable, labelled, limits, stretches, thinned, ticks
from toolbox.report.numbers import is_number, short

WIDTH, HEIGHT = 520, 268
LEFT, RIGHT, TOP, BOTTOM = 58, 508, 12, 220
COLORS = 6
MOST_SERIES = 12
MOST_DOTS = 30

Style = tuple[int, int]
Spot = tuple[float, str]


@dataclass(frozen=True)
class Line:
    """One series in a drawing.

    - `color`: 1 to COLORS; `dash`: 0 for a whole line, and up to 2, so that lines of one color differ.
    - `paths`: SVG paths, one for each stretch without a gap; `area`: the path to fill, empty for none.
    - `dots`: (x, y, tooltip).
    """

    name: str
    color: int
    dash: int
    paths: list[str] = field(default_factory=list)
    area: str = ""
    dots: list[tuple[float, float, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """One drawing in a box of WIDTH x HEIGHT.

    - `lines`: its series; `x`, `y`: what the axes show; `x_ticks`, `y_ticks`: (position, label).
    - `remarks`: what could not be drawn, and why; a drawing without lines has one.
    """

    title: str
    note: str = ""
    x: str = ""
    y: str = ""
    lines: list[Line] = field(default_factory=list)
    x_ticks: list[Spot] = field(default_factory=list)
    y_ticks: list[Spot] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def style_of(number: int) -> Style:
    """The color and dash of the series of this number, counted from 0."""
    return number % COLORS + 1, number // COLORS % 3


def curve_chart(
    curve: Curve, styles: dict[str, Style] | None = None, *, x_limits: tuple[float, float] | None = None
) -> Chart:
    """The drawing of a curve.

    - `styles`: {series: (color, dash)}; default: in turn.
    - `x_limits`: ends of the x axis; default: the first and the last x.
    """
    remarks, names = _names(curve.series)
    points = {name: sorted((p for p in curve.series[name] if _placed(p[0], curve.log_x)), key=_x) for name in names}
    values = [value for series in points.values() for _, value in series if drawable(value)]
    gaps = sum(len(curve.series[name]) for name in names) - len(values)
    if gaps:
        why = "is not finite or has no place on a logarithmic axis" if curve.log_x else "is not finite"
        remarks.append(f"{gaps:,} of the points cannot be drawn: a number {why}.")
    if not values:
        return Chart(curve.title, curve.note, remarks=["There is no value to draw.", *remarks])
    place_x, x_ticks = _x_axis(
        x_limits or (min(s[0][0] for s in points.values() if s), max(s[-1][0] for s in points.values() if s)),
        curve.log_x, whole=all(float(x).is_integer() for s in points.values() for x, _ in s),
    )  # fmt: skip
    place_y, y_ticks = _y_axis(*limits(values))
    lines = []
    for number, name in enumerate(names):
        found = stretches(thinned(points[name]))
        few = len(points[name]) <= MOST_DOTS
        dotted = [p for p in points[name] if drawable(p[1])] if few else [s[0] for s in found if len(s) == 1]
        lines.append(Line(
            name, *(styles or {}).get(name, style_of(number)),
            ["M" + "L".join(f"{place_x(x)} {place_y(y)}" for x, y in s) for s in found if len(s) > 1],
            dots=[(place_x(x), place_y(y), f"{name}, {curve.x} {short(x)}: {short(y)}") for x, y in dotted],
        ))  # fmt: skip
    return Chart(curve.title, curve.note, curve.x, curve.y, lines, x_ticks, y_ticks, remarks)


def histogram_chart(
    histogram: Histogram, *, x_limits: tuple[float, float] | None = None, top: float | None = None
) -> Chart:
    """The drawing of a histogram, its series over each other.

    - `x_limits`, `top`: ends of the axes, so that several drawings share them; default: those of this one.
    """
    remarks, names = _names(histogram.series)
    edges = histogram.edges
    problem = _misshapen(histogram, names)
    if problem:
        return Chart(histogram.title, histogram.note, remarks=[problem, *remarks])
    top = top or highest(histogram) or 1.0
    place_x, x_ticks = _x_axis(x_limits or (edges[0], edges[-1]), log=False)
    place_y, y_ticks = _y_axis(0.0, 1.05 * top)
    lines = []
    for number, name in enumerate(names):
        shares = [share if drawable(share) and share > 0 else 0.0 for share in histogram.series[name]]
        steps = "".join(f"V{place_y(share)}H{place_x(edge)}" for share, edge in zip(shares, edges[1:], strict=True))
        outline = f"M{place_x(edges[0])} {BOTTOM}{steps}V{BOTTOM}"
        lines.append(Line(name, *style_of(number), [outline], area=outline + "Z"))
    return Chart(histogram.title, histogram.note, histogram.x, "share", lines, x_ticks, y_ticks, remarks)


def highest(histogram: Histogram) -> float:
    """The largest share of all series, 0 when there is none."""
    return max((share for shares in histogram.series.values() for share in shares if drawable(share)), default=0.0)


def _misshapen(histogram: Histogram, names: list[str]) -> str:
    """Why a histogram cannot be drawn, empty when it can."""
    edges = histogram.edges
    if len(edges) < 2 or not all(map(drawable, edges)) or any(a >= b for a, b in pairwise(edges)):
        return "It cannot be drawn: its edges are not two or more rising numbers."
    wrong = [name for name in names if len(histogram.series[name]) != len(edges) - 1]
    if wrong:
        return (
            f"It cannot be drawn: {wrong[0]!r} has {len(histogram.series[wrong[0]])} shares for {len(edges) - 1} bins."
        )
    return "" if names else "There is no value to draw."


def _names(series: dict[str, list]) -> tuple[list[str], list[str]]:
    """(what to say about series that are left out, the names of those that are drawn)."""
    names = list(series)
    extra = len(names) - MOST_SERIES
    return ([f"{extra} more series are in findings.json."] if extra > 0 else []), names[:MOST_SERIES]


def _x(point: tuple[float, float]) -> float:
    return point[0]


def _placed(x: float, log: bool) -> bool:
    return is_number(x) and drawable(x) and (x > 0 or not log)


def _x_axis(
    ends: tuple[float, float], log: bool, *, whole: bool = False
) -> tuple[Callable[[float], float], list[Spot]]:
    """(x to position, ticks)."""
    low, high = map(math.log10, ends) if log else ends
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-30):
        low, high = low - 0.5, high + 0.5

    def place(x: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * ((math.log10(x) if log else x) - low) / (high - low), 1)

    if log:
        return place, [(place(value), short(value)) for value in _log_ticks(low, high)]
    return place, labelled(ticks(low, high, 6, whole=whole), place)


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between 10^low and 10^high, with 2 and 5 times them where there are few, at most about eight."""
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    stride = max(1, math.ceil((high - low) / 8))
    powers = range(math.floor(low), math.ceil(high) + 1)
    found = [factor * 10.0**power for power in powers if power % stride == 0 for factor in factors]
    return [value for value in found if low - 1e-9 <= math.log10(value) <= high + 1e-9]


def _y_axis(low: float, high: float) -> tuple[Callable[[float], float], list[Spot]]:
    def place(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 1)

    return place, labelled(ticks(low, high, 5), place)
