"""Tables that metrics give, ready to print: numbers aligned, shares with a bar."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from toolbox.base.report_items import Table
from toolbox.report.numbers import MISSING, format_fixed, is_finite, is_number
from toolbox.report.table import choose_decimals

MOST_ROWS = 200


@dataclass(frozen=True)
class Cell:
    """- `text`: what stands there; `number`: whether it is one; `bar`: a share in percent, None without a bar."""

    text: str
    number: bool = False
    bar: float | None = None


@dataclass(frozen=True)
class Grid:
    """- `columns`: (name, whether it holds numbers); `rows`: cells; `remarks`: what is not shown, and why."""

    title: str
    note: str = ""
    columns: list[tuple[str, bool]] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def make_grid(table: Table) -> Grid:
    """A table of MOST_ROWS rows at most; a column of shares (fractions between 0 and 1) gets bars."""
    if uneven := [row for row in table.rows if len(row) != len(table.columns)]:
        what = f"a row holds {len(uneven[0])} values for {len(table.columns)} columns"
        return Grid(table.title, table.note, remarks=[f"It cannot be shown: {what}."])
    if not table.rows:
        return Grid(table.title, table.note, remarks=["It has no rows."])
    kept = table.rows[:MOST_ROWS]
    columns = [make_column_cells(list(values)) for values in zip(*kept, strict=True)]
    remarks = [f"{len(table.rows) - MOST_ROWS:,} more rows are in report_items.json."] if kept != table.rows else []
    return Grid(
        table.title,
        table.note,
        [(str(name), any(cell.number for cell in cells)) for name, cells in zip(table.columns, columns, strict=True)],
        [list(row) for row in zip(*columns, strict=True)],
        remarks,
    )


def make_column_cells(values: list[Any]) -> list[Cell]:
    """The cells of one column, its numbers with equally many decimals."""
    numbers = [value for value in values if is_number(value)]
    places = choose_decimals(*numbers)
    present = [value for value in values if value is not None]
    shares = (
        numbers == present
        and any(isinstance(value, float) for value in numbers)
        and all(0 <= value <= 1 for value in numbers if is_finite(value))
    )
    return [
        Cell(format_fixed(value, places), True, round(100 * value, 1) if shares and is_finite(value) else None)
        if is_number(value)
        else Cell(MISSING if value is None else str(value), value is None and bool(numbers))
        for value in values
    ]
