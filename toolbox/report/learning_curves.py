"""The charts of what a run logged: one for each number of metrics.jsonl."""

from __future__ import annotations

from dataclasses import replace

from toolbox.base.report_items import Curve
from toolbox.report.axes import SMALL_BOX
from toolbox.report.charts import Chart, draw_curve
from toolbox.report.numbers import format_short
from toolbox.report.series import Series, is_count, is_drawable, name_series

MOST_OF_A_GRID = 8
PAGE_STYLE = (0, 0)
"""Of a line that is alone in its chart."""

MOST_DOTS, MOST_TRAINING_DOTS = 60, 12


def draw_learning_curves(series: dict[str, Series], best_step: int | None = None) -> tuple[list[Chart], list[Chart]]:
    """(main charts: loss, learning rate, validation metrics; those of the other logged numbers).

    Bounds have no chart, and what was validated once has none: it is no curve. Of a large grid ("val/linear/cls/0.01")
    the charts are among the others.
    """
    last_step = max((points[-1][0] for points in series.values()), default=0)
    bounds = {f"{name}_{end}" for name in series for end in ("low", "high") if name.startswith("val/")}
    charts = {
        name: draw_learning_curve(name, points, last_step, best_step)
        for name, points in series.items()
        if not is_count(points) and name not in bounds and not (name.startswith("val/") and len(points) == 1)
    }
    grid = [name for name in charts if name.count("/") > 1]
    in_large_grid = set(grid) if len(grid) > MOST_OF_A_GRID else set()
    validation = [name for name in charts if name.startswith("val/") and name not in in_large_grid]
    main = [name for name in ("loss", "lr") if name in charts] + validation
    return [charts[name] for name in main], [charts[name] for name in charts if name not in main]


def draw_learning_curve(name: str, points: Series, last_step: float, best_step: int | None = None) -> Chart:
    """The chart of one logged number; `last_step` ends the x axis, so that all charts of a run share it."""
    values = [value for _, value in points if is_drawable(value)]
    chart = draw_curve(
        Curve(name_series(name), {"": points}, "step", ""),
        {"": PAGE_STYLE},
        x_limits=(0, max(last_step, 1)),
        marked_x=best_step,
        box=SMALL_BOX,
        most_dots=MOST_DOTS if name.startswith("val/") else MOST_TRAINING_DOTS,
    )
    gaps = len(points) - len(values)
    return replace(
        chart,
        caption=_describe_course(values),
        remarks=[f"{gaps} {'value is' if gaps == 1 else 'values are'} not finite and left out."] if gaps else [],
    )


def _describe_course(values: list[float]) -> str:
    if not values:
        return "no finite value"
    return format_short(values[0]) if len(values) == 1 else f"{format_short(values[0])} → {format_short(values[-1])}"
