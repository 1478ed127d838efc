"""The axes of a chart: its box, positions of values in it, ticks and their labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from toolbox.report.numbers import format_axis_labels, format_short

Tick = tuple[float, str]
"""Position and label."""

_SMALLEST_SPAN = 1e-30


@dataclass(frozen=True)
class ChartBox:
    """Size of a chart and where its axes lie, in pixels from the upper left corner.

    - `x_ticks`, `y_ticks`: about how many ticks the axes have.
    """

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    x_ticks: int
    y_ticks: int


SMALL_BOX = ChartBox(width=340, height=196, left=50, right=330, top=10, bottom=158, x_ticks=4, y_ticks=4)
LARGE_BOX = ChartBox(width=520, height=268, left=58, right=508, top=12, bottom=220, x_ticks=6, y_ticks=5)


@dataclass(frozen=True)
class Axis:
    """- `place`: from a value to its position; `ticks`: of the whole axis."""

    place: Callable[[float], float]
    ticks: list[Tick]


def make_x_axis(box: ChartBox, ends: tuple[float, float], *, log: bool = False, whole: bool = False) -> Axis:
    """The horizontal axis of a chart.

    - `ends`: its first and its last value; `log`: whether it is logarithmic; `whole`: whether ticks are integers.
    """
    low, high = map(math.log10, ends) if log else ends
    if high - low <= 1e-9 * max(abs(low), abs(high), _SMALLEST_SPAN):
        low, high = low - 0.5, high + 0.5

    def place(x: float) -> float:
        return round(box.left + (box.right - box.left) * ((math.log10(x) if log else x) - low) / (high - low), 1)

    if log:
        return Axis(place, [(place(value), format_short(value)) for value in _choose_log_ticks(low, high)])
    return Axis(place, _label_ticks(choose_ticks(low, high, box.x_ticks, whole=whole), place))


def make_y_axis(box: ChartBox, low: float, high: float) -> Axis:
    """The vertical axis of a chart, from `low` at its bottom to `high` at its top."""

    def place(value: float) -> float:
        return round(box.bottom - (box.bottom - box.top) * (value - low) / (high - low), 1)

    return Axis(place, _label_ticks(choose_ticks(low, high, box.y_ticks), place))


def choose_limits(values: list[float]) -> tuple[float, float]:
    """The ends of a vertical axis: a little air around the values, but none below zero if no value is below."""
    low, high = min(values), max(values)
    span = high - low
    if span <= max(1e-9 * max(abs(low), abs(high)), _SMALLEST_SPAN):
        span = max(abs(high), 1e-6)
    bottom, top = low - 0.08 * span, high + 0.08 * span
    return (max(bottom, 0.0) if low >= 0 else bottom), top


def choose_ticks(low: float, high: float, count: int, *, whole: bool = False) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) in [low, high], about `count` of them."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(power * factor / rough)))
    if whole:
        step = max(1, round(step))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _choose_log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten between 10^low and 10^high, with 2 and 5 times them where there are few, at most about eight."""
    factors = (1, 2, 5) if high - low < 2.5 else (1,)
    stride = max(1, math.ceil((high - low) / 8))
    powers = range(math.floor(low), math.ceil(high) + 1)
    values = [factor * 10.0**power for power in powers if power % stride == 0 for factor in factors]
    return [value for value in values if low - 1e-9 <= math.log10(value) <= high + 1e-9]


def _label_ticks(values: list[float], place: Callable[[float], float]) -> list[Tick]:
    return [(place(value), label) for value, label in zip(values, format_axis_labels(values), strict=True)]
