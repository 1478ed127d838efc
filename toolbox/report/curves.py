"""Learning curves: what metrics.jsonl holds, as small vector drawings that take the page's colors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from toolbox.report.numbers import axis_labels, is_finite, is_number, short

WIDTH, HEIGHT = 340, 196
LEFT, RIGHT, TOP, BOTTOM = 50, 330, 10, 158
MOST_POINTS = 600
MOST_DOTS = 60
MOST_OF_A_GRID = 8
_LARGEST = 1e30  # beyond it, or its inverse, the arithmetic of ranges overflows

Series = list[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One small drawing in a box of WIDTH x HEIGHT.

    - `lines`: SVG paths, one for each stretch without a gap; `dots`: (x, y, tooltip).
    - `x_ticks`, `y_ticks`: (position, label); `best`: x of the best checkpoint, None if it is not in the picture.
    - `caption`: first and last value; `gaps`: how many values could not be drawn.
    """

    name: str
    caption: str
    lines: list[str] = field(default_factory=list)
    dots: list[tuple[float, float, str]] = field(default_factory=list)
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    best: float | None = None
    gaps: int = 0


def read_series(path: Path) -> dict[str, Series]:
    """{name: [(step, value)]} of a metrics.jsonl, by step; empty without the file. A torn line is left out."""
    found: dict[str, dict[int, float]] = {}
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    for line in text.splitlines():
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        values.pop("epoch", None)
        for name, value in values.items():
            if is_number(value) or value is None:
                found.setdefault(name, {})[step] = math.nan if value is None else value
    return {name: sorted(points.items()) for name, points in found.items()}


def panels(series: dict[str, Series], best_step: int | None = None) -> tuple[list[Panel], list[Panel]]:
    """(main panels: loss, learning rate, validation metrics; the other logged numbers).

    Bounds have no panel, and what was validated once has none: it is no curve. Of a large grid ("val/linear/cls/0.01")
    the panels are among the others.
    """
    last = max((points[-1][0] for points in series.values()), default=0)
    bounds = {f"{name}_{end}" for name in series for end in ("low", "high") if name.startswith("val/")}
    drawn = {
        name: panel(name, points, last, best_step)
        for name, points in series.items()
        if not is_count(points) and name not in bounds and not (name.startswith("val/") and len(points) == 1)
    }
    grid = [name for name in drawn if name.count("/") > 1]
    judged = [name for name in drawn if name.startswith("val/") and not (name in grid and len(grid) > MOST_OF_A_GRID)]
    main = [name for name in ("loss", "lr") if name in drawn] + judged
    return [drawn[name] for name in main], [drawn[name] for name in drawn if name not in main]


def is_count(points: Series) -> bool:
    """The same integer at every evaluation (queries, classes): nothing to draw."""
    return len({value for _, value in points}) == 1 and isinstance(points[0][1], int)


def panel(name: str, points: Series, last_step: int, best_step: int | None = None) -> Panel:
    """The drawing of one series; `last_step` ends the x axis, so that all panels share it."""
    title = {"lr": "learning rate"}.get(name, name.replace("_", " "))
    usable = [value for _, value in points if drawable(value)]
    if not usable:
        return Panel(title, "no finite value", gaps=len(points))
    low, high = limits(usable)
    x_high = max(last_step, 1)

    def x(step: float) -> float:
        return round(LEFT + (RIGHT - LEFT) * step / x_high, 1)

    def y(value: float) -> float:
        return round(BOTTOM - (BOTTOM - TOP) * (value - low) / (high - low), 1)

    found = stretches(thinned(points))
    few = len(points) <= MOST_DOTS and (name.startswith("val/") or len(points) <= 12)
    dotted = [p for p in points if drawable(p[1])] if few else [s[0] for s in found if len(s) == 1]
    return Panel(
        title,
        short(usable[0]) if len(usable) == 1 else f"{short(usable[0])} → {short(usable[-1])}",
        ["M" + "L".join(f"{x(step)} {y(value)}" for step, value in s) for s in found if len(s) > 1],
        [(x(step), y(value), f"step {step:,}: {short(value)}") for step, value in dotted],
        labelled(ticks(0, x_high, 4, whole=True), x),
        labelled(ticks(low, high, 4), y),
        x(best_step) if best_step is not None and 0 <= best_step <= x_high else None,
        len(points) - len(usable),
    )


def limits(values: list[float]) -> tuple[float, float]:
    """The ends of the y axis: a little air around the values, but none below zero if no value is below."""
    low, high = min(values), max(values)
    span = high - low
    if span <= max(1e-9 * max(abs(low), abs(high)), 1 / _LARGEST):
        span = max(abs(high), 1e-6)
    bottom, top = low - 0.08 * span, high + 0.08 * span
    return (max(bottom, 0.0) if low >= 0 else bottom), top


def ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) in [low, high], about `count` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(power * factor / rough)))
    if whole:
        step = max(1, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def labelled(values: list[float], place: Callable[[float], float]) -> list[tuple[float, str]]:
    """Ticks as (position, label)."""
    return [(place(value), label) for value, label in zip(values, axis_labels(values), strict=True)]


def drawable(value: float) -> bool:
    """Whether a value has a place in a drawing."""
    return is_finite(value) and abs(value) < _LARGEST


def stretches(points: Series) -> list[Series]:
    """Split where a value cannot be drawn, so that no line hides it."""
    found: list[Series] = [[]]
    for step, value in points:
        if drawable(value):
            found[-1].append((step, value))
        elif found[-1]:
            found.append([])
    return [stretch for stretch in found if stretch]


def thinned(points: Series) -> Series:
    """At most about MOST_POINTS points: the lowest, the highest and any undrawable one of each bucket stay."""
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(len(points) / (MOST_POINTS // 2))
    kept: Series = []
    for start in range(0, len(points), size):
        bucket = points[start : start + size]
        usable = [point for point in bucket if drawable(point[1])]
        chosen = {min(usable, key=lambda p: p[1]), max(usable, key=lambda p: p[1])} if usable else set()
        broken = [point for point in bucket if not drawable(point[1])][:1]
        kept += sorted([*chosen, *broken], key=lambda p: p[0])
    return kept
