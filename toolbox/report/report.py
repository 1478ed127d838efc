"""Writes a run's report.html from what the run left in its folder."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.base.report_items import Curve, Gallery, Histogram, Matrix, Outcomes, ReportItem, Table
from toolbox.errors import ToolboxError
from toolbox.recipe_text import read_recipe
from toolbox.report.charts import Chart, draw_curve, draw_histogram
from toolbox.report.facts import list_facts
from toolbox.report.files import read_text, write_text
from toolbox.report.gallery import Pictures, show_galleries
from toolbox.report.grid import Grid, grid
from toolbox.report.learning_curves import draw_learning_curves
from toolbox.report.matrix import Drawing, matrix_drawing
from toolbox.report.numbers import MISSING, duration, fixed, is_finite, memory
from toolbox.report.page import render_page, template
from toolbox.report.recipe import find_evaluated_split
from toolbox.report.report_items import as_saved
from toolbox.report.series import read_series
from toolbox.report.table import headline, is_unchanged, rows, without_settings

if TYPE_CHECKING:
    from toolbox.base import Dataset

_RUN_FILES = ("train_results.json", "metrics.jsonl", "config.py")


def write_report(
    work_dir: Path, results: dict[str, Any] | None, report_items: tuple[Dataset, list[ReportItem]] | None
) -> Path:
    """Write `work_dir/report.html`: one file that opens without a network. Returns its path.

    - `work_dir`: the run's folder; config.py, environment.json and metrics.jsonl are read where they exist.
    - `results`: what train_results.json holds, whole or in part; None when the run came to none.
    - `report_items`: a dataset and what metrics found in it, whose indices are of that dataset; None for nothing.

    What is missing is left out or named on the page. Raises ToolboxError when the page cannot be written.
    """
    work_dir = Path(work_dir)
    results = without_settings(results or {})
    dataset, given = report_items or (None, [])
    usable, remarks = _sorted_out(given)
    config = read_text(work_dir / "config.py")
    recipe = _read_recipe(config)
    split = results.get("split") or find_evaluated_split(recipe)
    split = {"val": "validation"}.get(split, split)
    best = results.get("best") or {}
    series = read_series(work_dir / "metrics.jsonl")
    measured = {name: points for name, points in series.items() if name.removeprefix("val/") not in results["chosen"]}
    main, other = draw_learning_curves(measured, best.get("step"))
    table = rows(*(results.get(name) for name in ("before", "after", "pixels", "better", "before_head")))
    unchanged = is_unchanged(results.get("before"), results.get("after"))
    shown = headline(results, items=len(dataset) if dataset is not None else None, split=split)
    pictures = Pictures(dataset) if dataset is not None else None
    galleries = [report_item for report_item in usable if isinstance(report_item, Gallery)]
    page = render_page(
        template("report.html.j2"),
        _date(work_dir),
        pictures,
        name=work_dir.resolve().name,
        pixels=bool(results.get("pixels")),
        features=bool(results.get("before_head")),
        headline=shown,
        facts=list_facts(recipe, results),
        rows=table,
        unchanged=unchanged,
        tracks=any(row.span for row in table) and not unchanged,
        intervals=any(row.interval for row in table),
        missing=MISSING,
        explained=bool(results.get("before") and results.get("after")),
        learning=main,
        other_learning=other,
        best_step=best.get("step"),
        found=blocks(usable),
        remarks=remarks,
        galleries=show_galleries(pictures, galleries, split=split) if pictures and galleries else [],
        config=config,
        environment=_pretty(read_text(work_dir / "environment.json")),
        costs=costs(results),
    )
    path = work_dir / "report.html"
    write_text(
        path,
        page,
        hint="The run's numbers are safe in train_results.json. Free some space or make the folder writable.",
    )
    return path


def blocks(report_items: list[ReportItem]) -> list[tuple[str, list[Chart | Grid | Drawing]]]:
    """Drawings and tables in the metrics' order, as (kind, those that follow each other)."""
    kinds = {Chart: "charts", Grid: "tables", Drawing: "matrices"}
    drawn: list[Chart | Grid | Drawing] = []
    for report_item in report_items:
        if isinstance(report_item, Curve):
            drawn.append(draw_curve(report_item))
        elif isinstance(report_item, Histogram):
            drawn.append(draw_histogram(report_item))
        elif isinstance(report_item, Table):
            drawn.append(grid(report_item))
        elif isinstance(report_item, Matrix):
            drawn.append(matrix_drawing(report_item))
    return [(kind, list(members)) for kind, members in groupby(drawn, lambda d: kinds[type(d)])]


def _sorted_out(report_items: list[ReportItem]) -> tuple[list[ReportItem], list[str]]:
    """(report items that can be shown, what to say about the others)."""
    usable, remarks = [], []
    for report_item in report_items:
        try:
            usable.append(as_saved(report_item))
        except ToolboxError as error:  # the run is over: no single report item may cost the user the page
            remarks.append(f"Not shown: {error}")
    for outcomes in (report_item for report_item in usable if isinstance(report_item, Outcomes)):
        count = len(outcomes.ids)
        remarks.append(f"report_items.json also holds {outcomes.title!r} of {count:,} items, for `compare`.")
    return usable, remarks


def costs(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run took, as (what, how much), leaving out what is not known."""
    seconds, waited = results.get("seconds"), results.get("data_wait_seconds")
    found = []
    if is_finite(results.get("steps")):
        found.append(("steps", f"{results['steps']:,}"))
    if is_finite(seconds):
        found.append(("training", duration(seconds)))
    if is_finite(results.get("items_per_second")):
        found.append(("items per second", fixed(results["items_per_second"], 1)))
    if is_finite(seconds) and is_finite(waited) and seconds > 0:
        found.append(("waiting for data", f"{waited / seconds:.1%}"))
    if is_finite(results.get("peak_memory_bytes")):
        found.append(("peak memory", memory(results["peak_memory_bytes"])))
    if results.get("device"):
        threads = results.get("threads")
        found.append(("device", f"{results['device']}, {threads} threads" if threads else str(results["device"])))
    if results.get("unreadable_items"):
        found.append(("unreadable items left out", f"{results['unreadable_items']:,}"))
    return found


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _read_recipe(config: str) -> dict[str, Any]:
    """The recipe that a config.py says; empty where it cannot be read as data."""
    try:
        return read_recipe(config)
    except ValueError:
        return {}


def _date(work_dir: Path) -> datetime:
    """When the run last wrote its results; now, if it wrote nothing."""
    for name in _RUN_FILES:
        try:
            return datetime.fromtimestamp((work_dir / name).stat().st_mtime)
        except OSError:
            continue
    return datetime.now()
