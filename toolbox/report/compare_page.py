"""`compare.html`: runs side by side, one file that opens without a network."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.errors import ToolboxError
from toolbox.report.charts import choose_style
from toolbox.report.compare import Comparison, RunPair
from toolbox.report.gallery import MOST_BYTES, Thumbnail, ThumbnailSheet
from toolbox.report.grid import MOST_ROWS, Cell, Grid, make_column_cells
from toolbox.report.numbers import (
    MISSING,
    format_duration,
    format_fixed,
    format_known,
    format_memory,
    format_scientific,
    is_number,
)
from toolbox.report.overlay import draw_curves, draw_histograms, draw_learning_charts, make_table_grids
from toolbox.report.page import load_template, write_page
from toolbox.report.paired import Flip, PairedOutcomes
from toolbox.report.table import choose_decimals, format_difference

if TYPE_CHECKING:
    from toolbox.base import Dataset

MOST_FLIPS = 12
SEARCH_SECONDS = 20.0


@dataclass(frozen=True)
class FlipTile:
    """A flipped item on the page: its image, None where there is none, and its ranks as text."""

    id: str
    group: str
    ranks: str
    image: Thumbnail | None


@dataclass(frozen=True)
class RunPairView:
    """A pair as the page shows it; `ranked`: whether items have ranks, beside being right or wrong."""

    label: str
    why: str
    sentences: list[str]
    groups: Grid | None
    sides: list[tuple[str, int, list[FlipTile]]]
    ranked: bool = True


def write_comparison(folder: str | Path, comparison: Comparison, dataset: Dataset | None, why: str = "") -> Path:
    """Write `folder/compare.html`. Returns its path.

    - `dataset`: what the runs were evaluated on, for images of the items that flipped; None for none.
    - `why`: then the reason, for the reader.

    Raises ToolboxError when the page cannot be written.
    """
    runs, folder = comparison.runs, Path(folder)
    main, other = draw_learning_charts(runs)
    images = ThumbnailSheet(dataset) if dataset is not None else None
    positions = {
        flip.id: flip.position
        for pair in comparison.pairs
        if pair.outcomes
        for side in (pair.outcomes.lost, pair.outcomes.gained)
        for flip in side[:MOST_FLIPS]
    }
    indices = find_items(dataset, positions) if dataset is not None else {}
    if dataset is not None and positions and not indices:
        images, why = None, "the dataset of the recipe holds none of these items"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolboxError(
            f"The folder cannot be made: {error.strerror or error}.", where=str(folder), hint="Choose another out."
        ) from error
    path = folder / "compare.html"
    write_page(
        path,
        load_template("compare.html.j2"),
        datetime.now(),
        images,
        hint="Choose another out.",
        labels=[(label, *choose_style(number)) for number, label in enumerate(comparison.labels)],
        paths=[str(run.path) for run in runs],
        headline=choose_headline(comparison),
        alarms=comparison.alarms,
        notes=comparison.notes,
        metrics=make_metrics_grid(comparison),
        costs=make_costs_grid(comparison),
        settings=_make_text_grid(comparison.settings, comparison.labels, "setting"),
        environment=_make_text_grid(comparison.environment, comparison.labels, "environment"),
        learning=main,
        other_learning=other,
        curves=draw_curves(runs),
        histograms=draw_histograms(runs),
        tables=make_table_grids(runs),
        several=len(runs) > 2,
        pairs=[_make_view(comparison.labels[0], pair, indices, images) for pair in comparison.pairs],
        no_images=why if positions and images is None else "",
    )
    return path


def choose_headline(comparison: Comparison) -> tuple[str, list[str]]:
    """(the metric that leads, its value in each run)."""
    best = comparison.runs[0].info.get("best")
    chosen = best.get("metric") if isinstance(best, dict) else None
    names = [name for name, values in comparison.metrics.items() if any(isinstance(v, float) for v in values)]
    name = chosen if chosen in comparison.metrics else next(iter(names), "")
    if not name:
        return "", []
    values = comparison.metrics[name]
    return name[:1].upper() + name[1:], [cell.text for cell in make_column_cells(values)]


def make_metrics_grid(comparison: Comparison) -> Grid:
    """A row for each metric: its number in each run, and what each has more than the first."""
    first, *others = comparison.labels
    columns = [("metric", False), *((label, True) for label in comparison.labels)]
    columns += [(f"{label} {chr(0x2212)} {first}" if len(others) > 1 else "difference", True) for label in others]
    rows = []
    for name, values in comparison.metrics.items():
        places = choose_decimals(*values)
        same = all(isinstance(value, int) and value == values[0] for value in values)
        changes = [Cell("" if same else format_difference(values[0], value, places), True) for value in values[1:]]
        rows.append([Cell(name), *(Cell(format_fixed(value, places), True) for value in values), *changes])
    return Grid("", columns=columns, rows=rows)


def make_costs_grid(comparison: Comparison) -> Grid:
    """What the runs took; what no run says is left out."""
    format_rate = partial(format_fixed, decimals=1)
    columns: list[tuple[str, Any]] = [
        ("steps", lambda info: _format_whole(info.get("steps"))),
        ("best step", lambda info: _format_whole((info.get("best") or {}).get("step"))),
        ("training", lambda info: format_known(format_duration, info.get("seconds"))),
        ("items per second", lambda info: format_known(format_rate, info.get("items_per_second"))),
        ("peak memory", lambda info: format_known(format_memory, info.get("peak_memory_bytes"))),
        ("device", lambda info: str(info.get("device") or "")),
    ]
    rows = [(name, [read(run.info) for run in comparison.runs]) for name, read in columns]
    rows.append(("parameters in the checkpoint", [_format_whole(run.parameters) for run in comparison.runs]))
    return _make_text_grid([row for row in rows if any(row[1])], comparison.labels, "", right=True)


def _format_whole(value: Any) -> str:
    return format_fixed(value, 0) if is_number(value) else ""


def _make_text_grid(rows: list[tuple[str, list[str]]], labels: list[str], title: str, *, right: bool = False) -> Grid:
    columns = [(title, False), *((label, right) for label in labels)]
    cells = [[Cell(name), *(Cell(text or MISSING, right) for text in texts)] for name, texts in rows[:MOST_ROWS]]
    remarks = [f"{len(rows) - MOST_ROWS:,} more differ."] if len(rows) > MOST_ROWS else []
    return Grid("", columns=columns, rows=cells, remarks=remarks)


def find_items(dataset: Dataset, positions: dict[str, int], *, seconds: float = SEARCH_SECONDS) -> dict[str, int]:
    """{id: index} of items, as many as are found in `seconds`.

    - `positions`: {id: where it may be}: items are often evaluated in the order of the dataset, so that is tried first.
    """
    until = time.monotonic() + seconds
    indices = {name: index for name, index in positions.items() if _read_id(dataset, index) == name}
    index, size = 0, len(dataset)
    while len(indices) < len(positions) and index < size and time.monotonic() < until:
        name = _read_id(dataset, index)
        if name in positions:
            indices.setdefault(name, index)
        index += 1
    return indices


def _read_id(dataset: Dataset, index: int) -> str | None:
    """An item's id, None where it cannot be read."""
    try:
        return str(dataset[index]["id"]) if 0 <= index < len(dataset) else None
    except Exception:  # whatever a dataset raises, the page is only without this image
        return None


def _make_view(first: str, pair: RunPair, indices: dict[str, int], images: ThumbnailSheet | None) -> RunPairView:
    outcomes = pair.outcomes
    if outcomes is None:
        return RunPairView(pair.label, pair.why, [], None, [])
    right = "Right first" if outcomes.ranked else "Right"
    sides = [
        (f"{right} in {label} alone", len(flips), _make_tiles(flips, indices, images, ranked=outcomes.ranked))
        for label, flips in ((first, outcomes.lost), (pair.label, outcomes.gained))
    ]
    texts = describe_outcomes(first, pair.label, outcomes)
    return RunPairView(pair.label, "", texts, _make_group_grid(first, pair.label, outcomes), sides, outcomes.ranked)


def describe_outcomes(first: str, second: str, outcomes: PairedOutcomes) -> list[str]:
    """What the flips say, in words."""
    low, high = outcomes.interval
    right = "right at rank 1" if outcomes.ranked else "right"
    number = f"{outcomes.number[:1].upper()}{outcomes.number[1:]}"
    texts = [
        f"Of {outcomes.items:,} items {first} has {outcomes.first_hits:,} {right} and {second} "
        f"{outcomes.second_hits:,}: {len(outcomes.lost):,} are right in {first} alone and {len(outcomes.gained):,} in "
        f"{second} alone.",
        f"{number} differs by {_format_signed(outcomes.difference)}, with a 95 % paired bootstrap interval over items "
        f"from {_format_signed(low)} to {_format_signed(high)}; exact McNemar test: p "
        f"{format_p_value(outcomes.p_value)}.",
    ]
    if outcomes.unfound:
        texts.append(f"{outcomes.unfound:,} items found nothing in either run and count as missed in both.")
    return texts


def _format_signed(value: float) -> str:
    return format_fixed(value, 4, sign=True)


def format_p_value(value: float) -> str:
    """A p-value after "p": "= 0.031", "< 1e−300"."""
    if value < 1e-300:
        return f"< {format_scientific(1e-300)}"
    return f"= {format_fixed(value, 4) if value >= 1e-3 else format_scientific(value)}"


def _make_group_grid(first: str, second: str, outcomes: PairedOutcomes) -> Grid | None:
    if not outcomes.groups:
        return None
    groups = outcomes.groups[:MOST_ROWS]
    a, b = ([getattr(group, run) / group.items for group in groups] for run in ("first", "second"))
    cells = make_column_cells([*a, *b])
    changes = [Cell(_format_signed(y - x), True) for x, y in zip(a, b, strict=True)]
    rows = [
        [
            Cell(group.name),
            Cell(format_fixed(group.items, 0), True),
            cells[i],
            cells[len(groups) + i],
            changes[i],
            Cell(format_fixed(group.lost, 0), True),
            Cell(format_fixed(group.gained, 0), True),
        ]
        for i, group in enumerate(groups)
    ]
    number = outcomes.number
    names = ("super-class", "items", f"{number}, {first}", f"{number}, {second}", "difference", "lost", "gained")
    remarks = (
        [f"{len(outcomes.groups) - len(groups):,} more super-classes are not shown."]
        if outcomes.groups != groups
        else []
    )
    return Grid(
        f"{number} by super-class",
        "The one that changed most first.",
        [(name, bool(number)) for number, name in enumerate(names)],
        rows,
        remarks,
    )


def _make_tiles(
    flips: list[Flip], indices: dict[str, int], images: ThumbnailSheet | None, *, ranked: bool
) -> list[FlipTile]:
    tiles = []
    for flip in flips[:MOST_FLIPS]:
        index = indices.get(flip.id) if images is not None and images.size < MOST_BYTES else None
        image = images.get(index) if images is not None and index is not None else None
        ranks = f"{_format_rank(flip.first)} → {_format_rank(flip.second)}" if ranked else ""
        tiles.append(FlipTile(flip.id, flip.group, ranks, image))
    return tiles


def _format_rank(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "none"
