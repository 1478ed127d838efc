"""Report items of several runs in one drawing or table: by title, run by run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from toolbox.base.report_items import Curve, Histogram, Table
from toolbox.report.charts import Chart, Style, choose_style, draw_curve, draw_histogram, find_highest_share
from toolbox.report.grid import MOST_ROWS, Cell, Grid, column_cells
from toolbox.report.numbers import MISSING, is_number
from toolbox.report.runs import RunRecord
from toolbox.report.series import is_count, is_drawable, name_series
from toolbox.report.table import decimals, difference


def learning_charts(runs: list[RunRecord]) -> tuple[list[Chart], list[Chart]]:
    """(loss and validation metrics, the other logged numbers), each with a line for each run."""
    names = dict.fromkeys(
        name for run in runs for name, points in run.series.items() if points and not is_count(points)
    )
    names = {name: None for name in ("loss", *names) if name in names}
    last = max((points[-1][0] for run in runs for points in run.series.values() if points), default=0)
    main, other = [], []
    for name in names:
        series = {run.label: run.series[name] for run in runs if run.series.get(name)}
        styles = {run.label: choose_style(number) for number, run in enumerate(runs)}
        chart = draw_curve(Curve(name_series(name), series, "step", ""), styles, x_limits=(0, max(last, 1)))
        (main if name == "loss" or name.startswith("val/") else other).append(chart)
    return main, other


def curve_charts(runs: list[RunRecord]) -> list[Chart]:
    """Curves of one title over each other: a color for each run, a dash for each series of it."""
    charts = []
    for title, found in _by_title(runs, Curve).items():
        numbers = {run.label: number for number, run in enumerate(runs)}
        kinds = list(dict.fromkeys(name for curve in found.values() for name in curve.series))
        series: dict[str, list[tuple[float, float]]] = {}
        styles: dict[str, Style] = {}
        for label, curve in found.items():
            for name, points in curve.series.items():
                line = label if len(kinds) == 1 else f"{label}: {name}"
                color, dash = choose_style(numbers[label])
                series[line] = points
                styles[line] = (color, dash if len(kinds) == 1 else kinds.index(name) % 3)
        one = next(iter(found.values()))
        y = one.y if len(kinds) > 1 or one.y else kinds[0]
        chart = Curve(title, series, one.x, y, log_x=one.log_x, note=_note(found, runs, lambda curve: curve.note))
        charts.append(draw_curve(chart, styles))
    return charts


def histogram_charts(runs: list[RunRecord]) -> list[tuple[str, str, list[Chart]]]:
    """(title, note, a drawing for each run), the drawings of one title on the same axes."""
    groups = []
    for title, found in _by_title(runs, Histogram).items():
        ends = [edge for histogram in found.values() for edge in histogram.edges if is_drawable(edge)]
        limits = (min(ends), max(ends)) if ends else None
        top = max(map(find_highest_share, found.values()))
        drawn = [
            draw_histogram(Histogram(label, h.edges, h.series, h.x), x_limits=limits, top=top)
            for label, h in found.items()
        ]
        groups.append((title, _note(found, runs, lambda histogram: histogram.note), drawn))
    return groups


def table_grids(runs: list[RunRecord]) -> list[Grid]:
    """Tables of one title side by side: a row for each name in their first columns, a column for each run."""
    return [
        _side_by_side(title, found, _note(found, runs, lambda table: table.note))
        for title, found in _by_title(runs, Table).items()
        if len(found) > 1
    ]


def _by_title(runs: list[RunRecord], kind: type[Any]) -> dict[str, dict[str, Any]]:
    """{title: {label: report_item}}; a title that a run gives twice counts once."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        for report_item in run.of(kind):
            found.setdefault(report_item.title, {}).setdefault(run.label, report_item)
    return found


def _note(found: dict[str, Any], runs: list[RunRecord], note_of: Callable[[Any], str]) -> str:
    """The note that the runs share, and which of them are missing."""
    notes = {note_of(report_item) for report_item in found.values()}
    said = [next(iter(notes))] if len(notes) == 1 else []
    missing = [run.label for run in runs if run.label not in found]
    return " ".join(filter(None, [*said, f"Not in {', '.join(missing)}." if missing else ""]))


def _side_by_side(title: str, tables: dict[str, Table], note: str) -> Grid:
    first = next(iter(tables.values()))
    width = min(_names_of_rows(table) for table in tables.values())
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
    shown = keys[:MOST_ROWS]
    remarks = [f"{len(keys) - len(shown):,} more rows are in report_items.json."] if len(keys) > len(shown) else []
    columns = [(name, False) for name in first.columns[:width]]
    cells = [[Cell(key[place]) for key in shown] for place in range(width)]
    for name in dict.fromkeys(name for table in tables.values() for name in table.columns[width:]):
        values = {
            label: [_at(rows.get(key), table, name) for key in shown]
            for (label, rows), table in zip(keyed.items(), tables.values(), strict=True)
        }
        every = list(values.values())
        if all(v == every[0] for v in every) and not any(isinstance(x, float) for x in every[0]):
            found = column_cells(every[0])  # a count that all runs share: said once
            columns.append((name, any(cell.number for cell in found)))
            cells.append(found)
            continue
        together = column_cells([value for v in every for value in v])
        for number, label in enumerate(values):
            found = together[number * len(shown) : (number + 1) * len(shown)]
            columns.append((f"{name}, {label}", any(cell.number for cell in found)))
            cells.append(found)
        if len(every) == 2 and any(map(is_number, every[0])):
            places = decimals(*[value for v in every for value in v if is_number(value)])
            columns.append(("difference", True))
            cells.append([Cell(difference(a, b, places) or MISSING, True) for a, b in zip(*every, strict=True)])
    return Grid(title, note, columns, [list(row) for row in zip(*cells, strict=True)], remarks)


def _names_of_rows(table: Table) -> int:
    """How many leading columns hold texts alone: they name the rows. At least the first does."""
    texts = [all(isinstance(value, str) for value in column) for column in zip(*table.rows, strict=True)]
    return max(1, texts.index(False) if False in texts else len(texts))


def _at(row: list[Any] | None, table: Table, name: str) -> Any:
    return row[table.columns.index(name)] if row is not None and name in table.columns else None
