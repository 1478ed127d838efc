"""The drawing of a matrix as SVG: a cell for each number, the larger the stronger its color."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolbox.base.report_items import Matrix
from toolbox.report.numbers import format_fixed, is_finite
from toolbox.report.table import choose_decimals

MOST_NAMES = 40
"""How many rows and columns are drawn."""

MOST_TEXTS = 12
"""Up to how many columns the numbers stand in their cells."""

STRONG = 0.68
"""From here on light letters can be read better, in light and in dark."""

LONGEST = 18
CELL, NAME = 22, 6.2


@dataclass(frozen=True)
class MatrixCell:
    """One cell.

    - `x`, `y`: its upper left corner; `share`: the strength of its color, 0 to 1; `tip`: what it says when pointed at.
    - `text`: what stands in it; `strong`: whether its color needs light letters.
    """

    x: float
    y: float
    share: float
    tip: str
    text: str = ""
    strong: bool = False


@dataclass(frozen=True)
class MatrixDrawing:
    """One drawing of `width` x `height`, its cells `side` wide.

    - `rows`, `columns`: (position, short name, whole name); `left`, `top`: where the cells begin.
    - `remarks`: what is not drawn, and why; a drawing without squares has one.
    """

    title: str
    note: str = ""
    x: str = ""
    y: str = ""
    side: float = CELL
    left: float = 0
    top: float = 0
    width: float = 0
    height: float = 0
    rows: list[tuple[float, str, str]] = field(default_factory=list)
    columns: list[tuple[float, str, str]] = field(default_factory=list)
    squares: list[MatrixCell] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def draw_matrix(matrix: Matrix) -> MatrixDrawing:
    """The drawing of a matrix: its first MOST_NAMES rows and columns. Zero, or the least, has no color."""
    rows, columns = matrix.rows[:MOST_NAMES], matrix.columns[:MOST_NAMES]
    if [len(row) for row in matrix.values] != [len(matrix.columns)] * len(matrix.rows):
        return MatrixDrawing(
            matrix.title, matrix.note, remarks=["It cannot be drawn: its values, rows and columns differ in length."]
        )
    if not rows or not columns:
        return MatrixDrawing(matrix.title, matrix.note, remarks=["There is no value to draw."])
    values = [list(row[: len(columns)]) for row in matrix.values[: len(rows)]]
    finite = [value for row in values for value in row if is_finite(value)]
    low, high = min([0.0, *finite]), max([0.0, *finite])
    places = choose_decimals(*[value for value in finite if value]) if finite else 0
    texts = len(columns) <= MOST_TEXTS
    side = CELL * 2 if texts else CELL
    left = 24 + NAME * max(len(_shorten_name(name)) for name in rows)
    top = 24 + NAME * max(len(_shorten_name(name)) for name in columns)
    squares = []
    for y, (row, name) in enumerate(zip(values, rows, strict=True)):
        for x, (value, other) in enumerate(zip(row, columns, strict=True)):
            share = round((value - low) / ((high - low) or 1), 3) if is_finite(value) else 0.0
            tip = f"{matrix.y} {name}, {matrix.x} {other}: {format_fixed(value, places)}"
            text = format_fixed(value, min(places, 2)) if texts and value else ""
            squares.append(MatrixCell(left + x * side, top + y * side, share, tip, text, share > STRONG))
    remarks = []
    hidden = len(matrix.rows) - len(rows), len(matrix.columns) - len(columns)
    if any(hidden):
        remarks.append(f"{hidden[0]:,} more rows and {hidden[1]:,} more columns are in report_items.json.")
    if odd := sum(map(len, values)) - len(finite):
        remarks.append(f"{odd:,} of the values are not finite: their cells are empty.")
    return MatrixDrawing(
        matrix.title,
        matrix.note,
        matrix.x,
        matrix.y,
        side,
        left,
        top,
        left + side * len(columns) + 4,
        top + side * len(rows) + 4,
        [(top + (place + 0.5) * side, _shorten_name(name), name) for place, name in enumerate(rows)],
        [(left + (place + 0.5) * side, _shorten_name(name), name) for place, name in enumerate(columns)],
        squares,
        remarks,
    )


def _shorten_name(name: str) -> str:
    """What names begin with is often the same: their ends tell them apart."""
    half = LONGEST // 2
    return name if len(name) <= LONGEST else f"{name[: half - 1].rstrip()}…{name[-half:].lstrip()}"
