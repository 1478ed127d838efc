"""Writes a run's report.html from what the run left in its folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.base.report_items import Curve, Gallery, Histogram, Matrix, Outcomes, ReportItem, Table
from toolbox.errors import ToolboxError
from toolbox.recipe_text import read_recipe
from toolbox.report.charts import Chart, draw_curve, draw_histogram
from toolbox.report.gallery import ThumbnailSheet, lay_out_galleries
from toolbox.report.grid import Grid, make_grid
from toolbox.report.learning_curves import draw_learning_curves
from toolbox.report.matrix import MatrixDrawing, draw_matrix
from toolbox.report.numbers import MISSING, format_duration, format_fixed, format_known, format_memory, is_finite
from toolbox.report.page import load_template, write_page
from toolbox.report.recipe import find_evaluated_split, list_facts
from toolbox.report.report_items import normalize_report_item
from toolbox.report.series import read_series, read_text
from toolbox.report.table import is_unchanged, make_headline, make_rows, separate_settings

if TYPE_CHECKING:
    from toolbox.base import Dataset

_DRAW: dict[type, tuple[str, Callable[[Any], Chart | Grid | MatrixDrawing]]] = {
    Curve: ("charts", draw_curve),
    Histogram: ("charts", draw_histogram),
    Table: ("tables", make_grid),
    Matrix: ("matrices", draw_matrix),
}
"""What a kind of report item becomes, and what makes it."""

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
    results = separate_settings(results or {})
    dataset, items = report_items or (None, [])
    usable, remarks = _select_usable(items)
    config = read_text(work_dir / "config.py")
    try:
        recipe = read_recipe(config)
    except ValueError:  # the page shows its text, whatever it is
        recipe = {}
    split = results.get("split") or find_evaluated_split(recipe)
    split = {"val": "validation"}.get(split, split)
    best = results.get("best") or {}
    series = read_series(work_dir / "metrics.jsonl")
    measured = {name: points for name, points in series.items() if name.removeprefix("val/") not in results["chosen"]}
    main, other = draw_learning_curves(measured, best.get("step"))
    table = make_rows(*(results.get(name) for name in ("before", "after", "pixels", "better", "before_head")))
    unchanged = is_unchanged(results.get("before"), results.get("after"))
    images = ThumbnailSheet(dataset) if dataset is not None else None
    galleries = [report_item for report_item in usable if isinstance(report_item, Gallery)]
    path = work_dir / "report.html"
    write_page(
        path,
        load_template("report.html.j2"),
        _find_date(work_dir),
        images,
        hint="The run's numbers are safe in train_results.json. Free some space or make the folder writable.",
        name=work_dir.resolve().name,
        pixels=bool(results.get("pixels")),
        features=bool(results.get("before_head")),
        headline=make_headline(results, items=len(dataset) if dataset is not None else None, split=split),
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
        report_items=draw_report_items(usable),
        remarks=remarks,
        galleries=lay_out_galleries(images, galleries, split=split) if images and galleries else [],
        config=config,
        environment=_format_json(read_text(work_dir / "environment.json")),
        costs=list_costs(results),
    )
    return path


def draw_report_items(report_items: list[ReportItem]) -> list[tuple[str, list[Chart | Grid | MatrixDrawing]]]:
    """Drawings and tables in the metrics' order, as (kind, those that follow each other)."""
    drawn = [(*_DRAW[type(item)], item) for item in report_items if type(item) in _DRAW]
    return [(kind, [draw(item) for _, draw, item in members]) for kind, members in groupby(drawn, itemgetter(0))]


def _select_usable(report_items: list[ReportItem]) -> tuple[list[ReportItem], list[str]]:
    """(report items that can be shown, what to say about the others)."""
    usable, remarks = [], []
    for report_item in report_items:
        try:
            usable.append(normalize_report_item(report_item))
        except ToolboxError as error:  # the run is over: no single report item may cost the user the page
            remarks.append(f"Not shown: {error}")
    for outcomes in (report_item for report_item in usable if isinstance(report_item, Outcomes)):
        count = len(outcomes.ids)
        remarks.append(f"report_items.json also holds {outcomes.title!r} of {count:,} items, for `compare`.")
    return usable, remarks


def list_costs(results: dict[str, Any]) -> list[tuple[str, str]]:
    """What the run took, as (what, how much), leaving out what is not known."""
    seconds, waited, unread = (results.get(key) for key in ("seconds", "data_wait_seconds", "unreadable_items"))
    threads = f", {results['threads']} threads" if results.get("threads") else ""
    is_timed = is_finite(seconds) and is_finite(waited) and seconds > 0
    rows = [
        ("steps", format_known("{:,}".format, results.get("steps"))),
        ("training", format_known(format_duration, seconds)),
        ("items per second", format_known(partial(format_fixed, decimals=1), results.get("items_per_second"))),
        ("waiting for data", f"{results['data_wait_seconds'] / results['seconds']:.1%}" if is_timed else ""),
        ("peak memory", format_known(format_memory, results.get("peak_memory_bytes"))),
        ("device", f"{results['device']}{threads}" if results.get("device") else ""),
        ("unreadable items left out", f"{unread:,}" if unread else ""),
        ("texts cut at their end", format_known("{:,}".format, results.get("cut_texts") or None)),
    ]
    return [(name, text) for name, text in rows if text]


def _format_json(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    except ValueError:
        return text


def _find_date(work_dir: Path) -> datetime:
    """When the run last wrote its results; now, if it wrote nothing."""
    for name in _RUN_FILES:
        try:
            return datetime.fromtimestamp((work_dir / name).stat().st_mtime)
        except OSError:
            continue
    return datetime.now()
