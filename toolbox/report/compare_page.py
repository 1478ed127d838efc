"""`compare.html`: runs side by side, one file that opens without a network."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolbox.errors import ToolboxError
from toolbox.report.charts import choose_style
from toolbox.report.compare import Comparison, Duel
from toolbox.report.files import write_text
from toolbox.report.gallery import MOST_BYTES, Picture, Pictures
from toolbox.report.grid import MOST_ROWS, Cell, Grid, column_cells
from toolbox.report.numbers import MISSING, duration, fixed, is_finite, is_number, memory, scientific
from toolbox.report.overlay import curve_charts, histogram_charts, learning_charts, table_grids
from toolbox.report.page import render_page, template
from toolbox.report.paired import Flip, Paired
from toolbox.report.table import decimals, difference

if TYPE_CHECKING:
    from toolbox.base import Dataset

MOST_FLIPS = 12
SEARCH_SECONDS = 20.0


@dataclass(frozen=True)
class FlipTile:
    """A flipped item on the page: its picture, None where there is none, and its ranks as text."""

    id: str
    group: str
    ranks: str
    picture: Picture | None


@dataclass(frozen=True)
class DuelView:
    """A duel as the page shows it; `ranked`: whether items have ranks, beside being right or wrong."""

    label: str
    why: str
    sentences: list[str]
    groups: Grid | None
    sides: list[tuple[str, int, list[FlipTile]]]
    ranked: bool = True


def write_comparison(folder: str | Path, comparison: Comparison, dataset: Dataset | None, why: str = "") -> Path:
    """Write `folder/compare.html`. Returns its path.

    - `dataset`: what the runs were judged on, for pictures of the items that flipped; None for none.
    - `why`: then the reason, for the reader.

    Raises ToolboxError when the page cannot be written.
    """
    runs, folder = comparison.runs, Path(folder)
    main, other = learning_charts(runs)
    pictures = Pictures(dataset) if dataset is not None else None
    shown = {
        flip.id: flip.position
        for duel in comparison.duels
        if duel.paired
        for side in (duel.paired.lost, duel.paired.gained)
        for flip in side[:MOST_FLIPS]
    }
    places = find_items(dataset, shown) if dataset is not None else {}
    if dataset is not None and shown and not places:
        pictures, why = None, "the dataset of the recipe holds none of these items"
    page = render_page(
        template("compare.html.j2"),
        datetime.now(),
        pictures,
        labels=[(label, *choose_style(number)) for number, label in enumerate(comparison.labels)],
        paths=[str(run.path) for run in runs],
        headline=headline(comparison),
        alarms=comparison.alarms,
        notes=comparison.notes,
        metrics=metrics_grid(comparison),
        costs=costs_grid(comparison),
        settings=_texts(comparison.settings, comparison.labels, "setting"),
        environment=_texts(comparison.environment, comparison.labels, "environment"),
        learning=main,
        other_learning=other,
        curves=curve_charts(runs),
        histograms=histogram_charts(runs),
        tables=table_grids(runs),
        several=len(runs) > 2,
        duels=[_view(comparison.labels[0], duel, places, pictures) for duel in comparison.duels],
        no_pictures=why if shown and pictures is None else "",
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolboxError(
            f"The folder cannot be made: {error.strerror or error}.", where=str(folder), hint="Choose another out."
        ) from error
    path = folder / "compare.html"
    write_text(path, page, hint="Choose another out.")
    return path


def headline(comparison: Comparison) -> tuple[str, list[str]]:
    """(the metric that leads, its value in each run)."""
    best = comparison.runs[0].info.get("best")
    chosen = best.get("metric") if isinstance(best, dict) else None
    names = [name for name, values in comparison.metrics.items() if any(isinstance(v, float) for v in values)]
    name = chosen if chosen in comparison.metrics else next(iter(names), "")
    if not name:
        return "", []
    values = comparison.metrics[name]
    return name[:1].upper() + name[1:], [cell.text for cell in column_cells(values)]


def metrics_grid(comparison: Comparison) -> Grid:
    """A row for each metric: its number in each run, and what each has more than the first."""
    first, *others = comparison.labels
    columns = [("metric", False), *((label, True) for label in comparison.labels)]
    columns += [(f"{label} {chr(0x2212)} {first}" if len(others) > 1 else "difference", True) for label in others]
    rows = []
    for name, values in comparison.metrics.items():
        places = decimals(*values)
        same = all(isinstance(value, int) and value == values[0] for value in values)
        changes = [Cell("" if same else difference(values[0], value, places), True) for value in values[1:]]
        rows.append([Cell(name), *(Cell(fixed(value, places), True) for value in values), *changes])
    return Grid("", columns=columns, rows=rows)


def costs_grid(comparison: Comparison) -> Grid:
    """What the runs took; what no run tells is left out."""
    asked: list[tuple[str, Any]] = [
        ("steps", lambda info: _whole(info.get("steps"))),
        ("best step", lambda info: _whole((info.get("best") or {}).get("step"))),
        ("training", lambda info: _with(duration, info.get("seconds"))),
        ("items per second", lambda info: _with(lambda value: fixed(value, 1), info.get("items_per_second"))),
        ("peak memory", lambda info: _with(memory, info.get("peak_memory_bytes"))),
        ("device", lambda info: str(info.get("device") or "")),
    ]
    rows = [(name, [ask(run.info) for run in comparison.runs]) for name, ask in asked]
    rows.append(("parameters in the checkpoint", [_whole(run.parameters) for run in comparison.runs]))
    return _texts([row for row in rows if any(row[1])], comparison.labels, "", right=True)


def _whole(value: Any) -> str:
    return fixed(value, 0) if is_number(value) else ""


def _with(form: Any, value: Any) -> str:
    return form(value) if is_finite(value) else ""


def _texts(rows: list[tuple[str, list[str]]], labels: list[str], what: str, *, right: bool = False) -> Grid:
    columns = [(what, False), *((label, right) for label in labels)]
    cells = [[Cell(name), *(Cell(text or MISSING, right) for text in texts)] for name, texts in rows[:MOST_ROWS]]
    remarks = [f"{len(rows) - MOST_ROWS:,} more differ."] if len(rows) > MOST_ROWS else []
    return Grid("", columns=columns, rows=cells, remarks=remarks)


def find_items(dataset: Dataset, wanted: dict[str, int], *, seconds: float = SEARCH_SECONDS) -> dict[str, int]:
    """{id: index} of items, as many as are found in `seconds`.

    - `wanted`: {id: where it may be}: items are often judged in the order of the dataset, so that is tried first.
    """
    until = time.monotonic() + seconds
    found = {name: index for name, index in wanted.items() if _id_of(dataset, index) == name}
    index, size = 0, len(dataset)
    while len(found) < len(wanted) and index < size and time.monotonic() < until:
        name = _id_of(dataset, index)
        if name in wanted:
            found.setdefault(name, index)
        index += 1
    return found


def _id_of(dataset: Dataset, index: int) -> str | None:
    """An item's id, None where it cannot be read."""
    try:
        return str(dataset[index]["id"]) if 0 <= index < len(dataset) else None
    except Exception:  # whatever a dataset raises, the page is only without this picture
        return None


def _view(first: str, duel: Duel, places: dict[str, int], pictures: Pictures | None) -> DuelView:
    found = duel.paired
    if found is None:
        return DuelView(duel.label, duel.why, [], None, [])
    right = "Right first" if found.ranked else "Right"
    sides = [
        (f"{right} in {label} alone", len(flips), _tiles(flips, places, pictures, ranked=found.ranked))
        for label, flips in ((first, found.lost), (duel.label, found.gained))
    ]
    said = sentences(first, duel.label, found)
    return DuelView(duel.label, "", said, _groups(first, duel.label, found), sides, found.ranked)


def sentences(first: str, second: str, found: Paired) -> list[str]:
    """What the flips say, in words."""
    low, high = found.interval
    right = "right at rank 1" if found.ranked else "right"
    said = [
        f"Of {found.items:,} items {first} has {found.first_hits:,} {right} and {second} "
        f"{found.second_hits:,}: {len(found.lost):,} are right in {first} alone and {len(found.gained):,} in "
        f"{second} alone.",
        f"{found.number[:1].upper()}{found.number[1:]} differs by {_signed(found.difference)}, with a 95 % paired "
        f"bootstrap interval over items from {_signed(low)} to {_signed(high)}; exact McNemar test: p "
        f"{p_text(found.p_value)}.",
    ]
    if found.unfound:
        said.append(f"{found.unfound:,} items found nothing in either run and count as missed in both.")
    return said


def _signed(value: float) -> str:
    return fixed(value, 4, sign=True)


def p_text(value: float) -> str:
    """A p-value after "p": "= 0.031", "< 1e−300"."""
    if value < 1e-300:
        return f"< {scientific(1e-300)}"
    return f"= {fixed(value, 4) if value >= 1e-3 else scientific(value)}"


def _groups(first: str, second: str, found: Paired) -> Grid | None:
    if not found.groups:
        return None
    shown = found.groups[:MOST_ROWS]
    a, b = ([getattr(group, run) / group.items for group in shown] for run in ("first", "second"))
    cells = column_cells([*a, *b])
    changes = [Cell(_signed(y - x), True) for x, y in zip(a, b, strict=True)]
    rows = [
        [
            Cell(group.name),
            Cell(fixed(group.items, 0), True),
            cells[i],
            cells[len(shown) + i],
            changes[i],
            Cell(fixed(group.lost, 0), True),
            Cell(fixed(group.gained, 0), True),
        ]
        for i, group in enumerate(shown)
    ]
    number = found.number
    names = ("super-class", "items", f"{number}, {first}", f"{number}, {second}", "difference", "lost", "gained")
    remarks = [f"{len(found.groups) - len(shown):,} more super-classes are not shown."] if found.groups != shown else []
    return Grid(
        f"{number} by super-class",
        "The one that changed most first.",
        [(name, bool(number)) for number, name in enumerate(names)],
        rows,
        remarks,
    )


def _tiles(flips: list[Flip], places: dict[str, int], pictures: Pictures | None, *, ranked: bool) -> list[FlipTile]:
    tiles = []
    for flip in flips[:MOST_FLIPS]:
        index = places.get(flip.id) if pictures is not None and pictures.size < MOST_BYTES else None
        picture = pictures.get(index) if pictures is not None and index is not None else None
        ranks = f"{_rank(flip.first)} → {_rank(flip.second)}" if ranked else ""
        tiles.append(FlipTile(flip.id, flip.group, ranks, picture))
    return tiles


def _rank(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else "none"
