"""Report items of several runs in one drawing or table: by title, run by run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolbox.base.report_items import Curve, Histogram, Table
from toolbox.report.charts import Chart, Style, choose_style, draw_curve, draw_histogram, find_highest_share
from toolbox.report.grid import MOST_ROWS, Cell, Grid, make_column_cells
from toolbox.report.numbers import MISSING, is_number
from toolbox.report.runs import RunRecord
from toolbox.report.series import is_count, is_drawable, name_series
from toolbox.report.table import choose_decimals, format_difference


def draw_learning_charts(runs: list[RunRecord]) -> tuple[list[Chart], list[Chart]]:
    """(loss and validation metrics, the other logged numbers), each with a line for each run."""
    names = dict.fromkeys(
        name for run in runs for name, points in run.series.items() if points and not is_count(points)
    )
    names = {name: None for name in ("loss", *names) if name in names}
    last = max((points[-1][0] for run in runs for points in run.series.values() if points), default=0)
    main: list[Chart] = []
    other: list[Chart] = []
    for name in names:
        series = {run.label: run.series[name] for run in runs if run.series.get(name)}
        styles = {run.label: choose_style(number) for number, run in enumerate(runs)}
        chart = draw_curve(Curve(name_series(name), series, "step", ""), styles, x_limits=(0, max(last, 1)))
        (main if name == "loss" or name.startswith("val/") else other).append(chart)
    return main, other


def draw_curves(runs: list[RunRecord]) -> list[Chart]:
    """Curves of one title over each other: a color for each run, a dash for each series of it."""
    charts = []
    for title, curves in _group_by_title(runs, Curve).items():
        numbers = {run.label: number for number, run in enumerate(runs)}
        names = list(dict.fromkeys(name for curve in curves.values() for name in curve.series))
        series: dict[str, list[tuple[float, float]]] = {}
        styles: dict[str, Style] = {}
        for label, curve in curves.items():
            for name, points in curve.series.items():
                line = label if len(names) == 1 else f"{label}: {name}"
                color, dash = choose_style(numbers[label])
                series[line] = points
                styles[line] = (color, dash if len(names) == 1 else names.index(name) % 3)
        first = next(iter(curves.values()))
        y = first.y if len(names) > 1 or first.y else names[0]
        note = _make_note(curves, runs, lambda curve: curve.note)
        charts.append(draw_curve(Curve(title, series, first.x, y, log_x=first.log_x, note=note), styles))
    return charts


def draw_histograms(runs: list[RunRecord]) -> list[tuple[str, str, list[Chart]]]:
    """(title, note, a drawing for each run), the drawings of one title on the same axes."""
    groups = []
    for title, histograms in _group_by_title(runs, Histogram).items():
        ends = [edge for histogram in histograms.values() for edge in histogram.edges if is_drawable(edge)]
        limits = (min(ends), max(ends)) if ends else None
        top = max(map(find_highest_share, histograms.values()))
        charts = [
            draw_histogram(Histogram(label, histogram.edges, histogram.series, histogram.x), x_limits=limits, top=top)
            for label, histogram in histograms.items()
        ]
        groups.append((title, _make_note(histograms, runs, lambda histogram: histogram.note), charts))
    return groups


def make_table_grids(runs: list[RunRecord]) -> list[Grid]:
    """Tables of one title side by side: a row for each name in their first columns, a column for each run."""
    return [
        _join_tables(title, tables, _make_note(tables, runs, lambda table: table.note))
        for title, tables in _group_by_title(runs, Table).items()
        if len(tables) > 1
    ]


def _group_by_title(runs: list[RunRecord], kind: type[Any]) -> dict[str, dict[str, Any]]:
    """{title: {label: report_item}}; a title that a run gives twice counts once."""
    items_of: dict[str, dict[str, Any]] = {}
    for run in runs:
        for item in run.select_items(kind):
            items_of.setdefault(item.title, {}).setdefault(run.label, item)
    return items_of


def _make_note(items: dict[str, Any], runs: list[RunRecord], read_note: Callable[[Any], str]) -> str:
    """The note that the runs share, and which of them are missing."""
    notes = {read_note(item) for item in items.values()}
    shared = next(iter(notes)) if len(notes) == 1 else ""
    missing = [run.label for run in runs if run.label not in items]
    return " ".join(filter(None, [shared, f"Not in {', '.join(missing)}." if missing else ""]))


def _join_tables(title: str, tables: dict[str, Table], note: str) -> Grid:
    first = next(iter(tables.values()))
    width = min(_count_name_columns(table) for table in tables.values())
    keyed = {label: {tuple(map(str, row[:width])): row for row in table.rows} for label, table in tables.items()}
    problem = ""
    if any(len(keyed[label]) < len(table.rows) for label, table in tables.items()):
        problem = "its first columns do not name each row once"
    elif any(len(set(table.columns)) < len(table.columns) for table in tables.values()):
        problem = "two of its columns have one name"
    elif len({tuple(table.columns[:width]) for table in tables.values()}) > 1:
        problem = "its first columns differ"
    if problem:
        return Grid(title, note, remarks=[f"It is not shown side by side: {problem}."])
    keys = list(dict.fromkeys(key for rows in keyed.values() for key in rows))
    kept = keys[:MOST_ROWS]
    remarks = [f"{len(keys) - len(kept):,} more rows are in report_items.json."] if len(keys) > len(kept) else []
    columns = [(name, False) for name in first.columns[:width]]
    cells = [[Cell(key[place]) for key in kept] for place in range(width)]
    for name in dict.fromkeys(name for table in tables.values() for name in table.columns[width:]):
        values = {
            label: [dict(zip(table.columns, keyed[label].get(key, ()), strict=False)).get(name) for key in kept]
            for label, table in tables.items()
        }
        every = list(values.values())
        if all(v == every[0] for v in every) and not any(isinstance(x, float) for x in every[0]):
            column = make_column_cells(every[0])  # a count that all runs share: said once
            columns.append((name, any(cell.number for cell in column)))
            cells.append(column)
            continue
        together = make_column_cells([value for v in every for value in v])
        for number, label in enumerate(values):
            column = together[number * len(kept) : (number + 1) * len(kept)]
            columns.append((f"{name}, {label}", any(cell.number for cell in column)))
            cells.append(column)
        if len(every) == 2 and any(map(is_number, every[0])):
            places = choose_decimals(*[value for v in every for value in v if is_number(value)])
            columns.append(("difference", True))
            cells.append([Cell(format_difference(a, b, places) or MISSING, True) for a, b in zip(*every, strict=True)])
    return Grid(title, note, columns, [list(row) for row in zip(*cells, strict=True)], remarks)


def _count_name_columns(table: Table) -> int:
    """How many leading columns hold texts alone: they name the rows. At least the first does."""
    texts = [all(isinstance(value, str) for value in column) for column in zip(*table.rows, strict=True)]
    return max(1, texts.index(False) if False in texts else len(texts))
