"""A page of images with the classes that a model predicts for them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import toolbox
from toolbox.base import Table

if TYPE_CHECKING:
    from toolbox.base import Dataset

MOST_PICTURES = 200
TEMPLATE = Path(__file__).with_name("predictions.html.j2")


@dataclass(frozen=True)
class Prediction:
    """A picture of a page, its path, and (label, score as text, in percent) of its classes, best first."""

    picture: Any
    path: str
    bars: list[tuple[str, str, float]]


def write_page(
    path: Path,
    dataset: Dataset,
    indices: list[int],
    paths: list[str],
    rows: list[list[tuple[str, float]]],
    *,
    model: str,
    left_out: int = 0,
) -> Path:
    """Write an HTML file that opens without a network. Returns its path.

    - `indices`: of the images in `dataset`; `paths`: what they are called; `rows`: of each (label, probability).
    - `model`: what predicts the classes; `left_out`: how many images could not be read.

    Counts how many images each class got, and shows the MOST_PICTURES of which the model is least sure, as many as go
    into a page; it says how many it does not show. Raises ToolboxError when the page cannot be written.
    """
    page = toolbox.HtmlPage(TEMPLATE, dataset)
    shown: list[Prediction] = []
    least_sure_first = sorted(range(len(rows)), key=lambda place: rows[place][0][1])
    for place in least_sure_first[:MOST_PICTURES]:
        if page.is_full:
            break
        bars = [(label, f"{score:.1%}", round(100 * score, 1)) for label, score in rows[place]]
        shown.append(Prediction(page.add_picture(indices[place]), paths[place], bars))
    page.write(path, model=model, shown=shown, total=len(rows), left_out=left_out, counts=count_classes(rows))
    return path


def count_classes(rows: list[list[tuple[str, float]]]) -> Table:
    """How many images got each class as their first, the most frequent first, and how sure the model is of them.

    - `rows`: of each image (label, score), best first.
    """
    counts = Counter(row[0][0] for row in rows)
    sums: Counter[str] = Counter()
    for row in rows:
        sums[row[0][0]] += row[0][1]
    lines = [[label, count, sums[label] / count] for label, count in counts.most_common()]
    return Table("Pictures by predicted class", ["class", "pictures", "mean score"], lines)
