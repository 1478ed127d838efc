"""Curves of several series and histograms, as vector drawings that take the page's colors."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter

from toolbox.base.report_items import Curve, Histogram
from toolbox.report.axes import LARGE_BOX, Axis, ChartBox, Tick, choose_limits, make_x_axis, make_y_axis
from toolbox.report.numbers import format_short
from toolbox.report.series import Series, is_drawable, split_at_gaps, thin_series

COLORS = 6
MOST_SERIES = 12
MOST_DOTS = 30

Style = tuple[int, int]
"""Color and dash of a line."""


@dataclass(frozen=True)
class Line:
    """One series in a chart.

    - `color`: 1 to COLORS, 0 for that of the page.
    - `dash`: 0 for a whole line, and up to 2, so that lines of one color differ.
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
    """One drawing in a box.

    - `lines`: its series; `x`, `y`: what the axes show; `x_ticks`, `y_ticks`: (position, label).
    - `caption`: what stands beside the title; `marked_x`: position of a dashed line from bottom to top, None for none.
    - `remarks`: what could not be drawn, and why; a chart without lines has one, or a caption that says it.
    """

    title: str
    note: str = ""
    x: str = ""
    y: str = ""
    lines: list[Line] = field(default_factory=list)
    x_ticks: list[Tick] = field(default_factory=list)
    y_ticks: list[Tick] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    caption: str = ""
    marked_x: float | None = None
    box: ChartBox = LARGE_BOX


def choose_style(number: int) -> Style:
    """The color and dash of the series of this number, counted from 0."""
    return number % COLORS + 1, number // COLORS % 3


def draw_curve(
    curve: Curve,
    styles: dict[str, Style] | None = None,
    *,
    x_limits: tuple[float, float] | None = None,
    marked_x: float | None = None,
    box: ChartBox = LARGE_BOX,
    most_dots: int = MOST_DOTS,
) -> Chart:
    """The chart of a curve.

    - `styles`: {series: (color, dash)}; default: in turn.
    - `x_limits`: ends of the x axis; default: the first and the last x.
    - `marked_x`: the x of a dashed line, drawn where it lies within the axis.
    - `box`: size and axes; `most_dots`: a series of more points has dots only where no line reaches.
    """
    remarks, names = _choose_series(curve.series)
    points = {
        name: sorted(
            ((x, y) for x, y in curve.series[name] if is_drawable(x) and (x > 0 or not curve.log_x)), key=itemgetter(0)
        )
        for name in names
    }
    values = [value for series in points.values() for _, value in series if is_drawable(value)]
    if gaps := sum(len(curve.series[name]) for name in names) - len(values):
        why = "is not finite or has no place on a logarithmic axis" if curve.log_x else "is not finite"
        remarks.append(f"{gaps:,} of the points cannot be drawn: a number {why}.")
    if not values:
        return Chart(curve.title, curve.note, remarks=["There is no value to draw.", *remarks], box=box)
    xs = [x for series in points.values() for x, _ in series]
    low, high = x_limits or (min(xs), max(xs))
    x_axis = make_x_axis(box, (low, high), log=curve.log_x, whole=all(float(x).is_integer() for x in xs))
    y_axis = make_y_axis(box, *choose_limits(values))
    lines = []
    for number, name in enumerate(names):
        label = f"{name}, {curve.x}" if name else curve.x
        style = (styles or {}).get(name, choose_style(number))
        lines.append(_draw_line(name, label, points[name], style, (x_axis, y_axis), most_dots))
    return Chart(
        curve.title,
        curve.note,
        curve.x,
        curve.y,
        lines,
        x_axis.ticks,
        y_axis.ticks,
        remarks,
        caption=_make_caption(curve.title, curve.y),
        marked_x=x_axis.place(marked_x) if marked_x is not None and low <= marked_x <= high else None,
        box=box,
    )


def _draw_line(name: str, label: str, points: Series, style: Style, axes: tuple[Axis, Axis], most_dots: int) -> Line:
    """The line of a series, with dots where it has few points or no line reaches."""
    x_axis, y_axis = axes
    stretches = split_at_gaps(thin_series(points))
    paths = ["L".join(f"{x_axis.place(x)} {y_axis.place(y)}" for x, y in part) for part in stretches if len(part) > 1]
    dotted = [part[0] for part in stretches if len(part) == 1]
    if len(points) <= most_dots:
        dotted = [point for point in points if is_drawable(point[1])]
    dots = [(x_axis.place(x), y_axis.place(y), f"{label} {_format_x(x)}: {format_short(y)}") for x, y in dotted]
    return Line(name, *style, [f"M{path}" for path in paths], dots=dots)


def draw_histogram(
    histogram: Histogram, *, x_limits: tuple[float, float] | None = None, top: float | None = None
) -> Chart:
    """The chart of a histogram, its series over each other.

    - `x_limits`, `top`: ends of the axes, so that several charts share them; default: those of this one.
    """
    remarks, names = _choose_series(histogram.series)
    edges, box = histogram.edges, LARGE_BOX
    if problem := _describe_shape_problem(histogram, names):
        return Chart(histogram.title, histogram.note, remarks=[problem, *remarks])
    top = top or find_highest_share(histogram) or 1.0
    x_axis = make_x_axis(box, x_limits or (edges[0], edges[-1]))
    y_axis = make_y_axis(box, 0.0, 1.05 * top)
    lines = []
    for number, name in enumerate(names):
        shares = [share if is_drawable(share) and share > 0 else 0.0 for share in histogram.series[name]]
        bars = "".join(
            f"V{y_axis.place(share)}H{x_axis.place(edge)}" for share, edge in zip(shares, edges[1:], strict=True)
        )
        outline = f"M{x_axis.place(edges[0])} {box.bottom}{bars}V{box.bottom}"
        lines.append(Line(name, *choose_style(number), [outline], area=outline + "Z"))
    return Chart(
        histogram.title,
        histogram.note,
        histogram.x,
        "share",
        lines,
        x_axis.ticks,
        y_axis.ticks,
        remarks,
        caption=_make_caption(histogram.title, "share"),
        box=box,
    )


def find_highest_share(histogram: Histogram) -> float:
    """The largest share of all series, 0 when there is none."""
    shares = [share for series in histogram.series.values() for share in series if is_drawable(share)]
    return max(shares, default=0.0)


def _describe_shape_problem(histogram: Histogram, names: list[str]) -> str:
    """Why a histogram cannot be drawn, empty when it can."""
    edges = histogram.edges
    if len(edges) < 2 or not all(map(is_drawable, edges)) or any(a >= b for a, b in pairwise(edges)):
        return "It cannot be drawn: its edges are not two or more rising numbers."
    for name in names:
        shares = len(histogram.series[name])
        if shares != len(edges) - 1:
            return f"It cannot be drawn: {name!r} has {shares} shares for {len(edges) - 1} bins."
    return "" if names else "There is no value to draw."


def _choose_series(series: dict[str, list]) -> tuple[list[str], list[str]]:
    """(what to say about series that are left out, the names of those that are drawn)."""
    names = list(series)
    extra = len(names) - MOST_SERIES
    return ([f"{extra} more series are in report_items.json."] if extra > 0 else []), names[:MOST_SERIES]


def _format_x(x: float) -> str:
    return f"{x:,.0f}" if float(x).is_integer() and abs(x) < 1e15 else format_short(x)


def _make_caption(title: str, y: str) -> str:
    return y if y != title else ""
