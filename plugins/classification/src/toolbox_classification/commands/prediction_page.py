"""A page of images with the classes that a model predicts for them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import toolbox
from toolbox.base import Table

if TYPE_CHECKING:
    from toolbox.base import Dataset

MOST_IMAGES = 200
TEMPLATE = Path(__file__).with_name("predictions.html.j2")


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

    - `indices`: of the images in `dataset`; `paths`: their names; `rows`: for each image (label, probability).
    - `model`: what predicts the classes; `left_out`: how many images could not be read.

    The page has the number of images by predicted class, and those MOST_IMAGES of which the model is least sure, as
    many as go into a page; it says how many it does not show. Raises ToolboxError when the page cannot be written.
    """
    page = toolbox.HtmlPage(TEMPLATE, dataset)
    predictions = []
    least_sure_first = sorted(range(len(rows)), key=lambda place: rows[place][0][1])
    for place in least_sure_first[:MOST_IMAGES]:
        if page.is_full:
            break
        bars = [(label, f"{score:.1%}", round(100 * score, 1)) for label, score in rows[place]]
        predictions.append({"image": page.add_image(indices[place]), "path": paths[place], "bars": bars})
    counts, total = count_classes(rows), len(rows)
    page.write(path, model=model, predictions=predictions, counts=counts, total=total, left_out=left_out)
    return path


def count_classes(rows: list[list[tuple[str, float]]]) -> Table:
    """A table of the images by predicted class, the most frequent class first, with the mean score of each class.

    - `rows`: for each image (label, score), best first.
    """
    counts = Counter(row[0][0] for row in rows)
    sums = dict.fromkeys(counts, 0.0)
    for row in rows:
        sums[row[0][0]] += row[0][1]
    lines = [[label, count, sums[label] / count] for label, count in counts.most_common()]
    return Table("Images by predicted class", ["class", "images", "mean score"], lines)
