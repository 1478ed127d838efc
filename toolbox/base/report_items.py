"""Report items: the tables, charts and images of a metric. Plain data, which a report draws and JSON holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Example:
    """One item that the report shows.

    - `query`: its dataset index, or a text.
    - `results`: (dataset index or text, whether it is right, score) of the best results, best first.
    - `note`: why it is shown, e.g. "first match at rank 812".
    """

    query: int | str
    results: list[tuple[int | str, bool, float]]
    note: str = ""


@dataclass
class Gallery:
    """Items with the results that the model ranked first; `note` says how the items were chosen."""

    title: str
    examples: list[Example]
    note: str = ""


@dataclass
class Table:
    """- `columns`: their names; `rows`: strings and numbers, one for each column (None: nothing)."""

    title: str
    columns: list[str]
    rows: list[list[Any]]
    note: str = ""


@dataclass
class Curve:
    """Lines over one axis.

    - `series`: {name: [(x, y), ...]} by x; `x`, `y`: what the axes show; `log_x`: a logarithmic x axis.
    """

    title: str
    series: dict[str, list[tuple[float, float]]]
    x: str
    y: str
    log_x: bool = False
    note: str = ""


@dataclass
class Histogram:
    """How values are distributed.

    - `edges`: n + 1 bounds of n bins; `series`: {name: n shares, together 1}; `x`: what is counted.
    """

    title: str
    edges: list[float]
    series: dict[str, list[float]]
    x: str
    note: str = ""


@dataclass
class Matrix:
    """A table of numbers as an image, such as a confusion matrix.

    - `rows`, `columns`: their names; `values`: one list a row; `x`, `y`: what columns and rows stand for.
    """

    title: str
    rows: list[str]
    columns: list[str]
    values: list[list[float]]
    x: str
    y: str
    note: str = ""


@dataclass
class Outcomes:
    """One number for each item, by which two runs are compared item by item.

    - `ids`: of the items; `values`: their numbers, e.g. the rank of the first match; `groups`: their super-classes.
    - `mean`: where the values are 1 for right and 0 for wrong, which of the metric's numbers is their mean, e.g.
      "top1"; empty for ranks.
    """

    title: str
    ids: list[str]
    values: list[float]
    groups: list[str] = field(default_factory=list)
    mean: str = ""


ReportItem = Gallery | Table | Curve | Histogram | Matrix | Outcomes
