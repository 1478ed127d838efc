"""A page of pictures with the classes that a model predicts for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox.base.findings import Table
from toolbox.report.files import write_text
from toolbox.report.gallery import MOST_BYTES, Picture, Pictures
from toolbox.report.grid import grid
from toolbox.report.page import template

if TYPE_CHECKING:
    from toolbox.base import Dataset

MOST_PICTURES = 200


@dataclass(frozen=True)
class Prediction:
    """A picture, its path, and (label, score as text, in percent) of its classes, best first."""

    picture: Picture
    path: str
    bars: list[tuple[str, str, float]]


def write_page(
    path: Path, dataset: Dataset, indices: list[int], paths: list[str], rows: list[list[tuple[str, float]]], *,
    told: str, left_out: int = 0,
) -> Path:  # fmt: skip
    """Write an HTML file that opens without a network. Returns its path.

    - `indices`: of the pictures in `dataset`; `paths`: what they are called; `rows`: of each (label, probability).
    - `told`: what told the classes; `left_out`: how many pictures could not be read.

    Counts how many pictures each class got, and shows the MOST_PICTURES of which the model is least sure, as many as go
    into MOST_BYTES; it says how many it does not show. Raises ToolboxError when the page cannot be written.
    """
    pictures = Pictures(dataset)
    shown: list[Prediction] = []
    least_sure_first = sorted(range(len(rows)), key=lambda place: rows[place][0][1])
    for place in least_sure_first[:MOST_PICTURES]:
        if pictures.size > MOST_BYTES:
            break
        bars = [(label, f"{score:.1%}", round(100 * score, 1)) for label, score in rows[place]]
        shown.append(Prediction(pictures.get(indices[place]), paths[place], bars))
    now = datetime.now()
    page = template("predictions.html.j2").render(
        told=told,
        shown=shown,
        total=len(rows),
        left_out=left_out,
        counts=grid(count_classes(rows)),
        pictures=list(pictures.held.values()),
        when=f"{now.day} {now:%B %Y, %H:%M}",
        when_iso=now.isoformat("T", "minutes"),
    )
    write_text(path, page, hint="Choose another page.")
    return path


def count_classes(rows: list[list[tuple[str, float]]]) -> Table:
    """How many pictures got each class as their first, the most frequent first, and how sure the model is of them.

    - `rows`: of each picture (label, score), best first.
    """
    counts = Counter(row[0][0] for row in rows)
    sums: Counter[str] = Counter()
    for row in rows:
        sums[row[0][0]] += row[0][1]
    lines = [[label, count, sums[label] / count] for label, count in counts.most_common()]
    return Table("Pictures by predicted class", ["class", "pictures", "mean score"], lines)
