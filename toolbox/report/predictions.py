"""A page of pictures with the classes that a model tells."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from toolbox.report.files import write_text
from toolbox.report.gallery import MOST_BYTES, Picture, Pictures
from toolbox.report.page import template

if TYPE_CHECKING:
    from toolbox.base import Dataset

MOST_PICTURES = 200


@dataclass(frozen=True)
class Told:
    """A picture, its path, and (label, probability as text, in percent) of its classes, best first."""

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

    Shows the first MOST_PICTURES, as many as go into MOST_BYTES, and says how many it does not. Raises ToolboxError
    when the page cannot be written.
    """
    pictures = Pictures(dataset)
    shown: list[Told] = []
    for index, name, row in list(zip(indices, paths, rows, strict=True))[:MOST_PICTURES]:
        if pictures.size > MOST_BYTES:
            break
        bars = [(label, f"{score:.1%}", round(100 * score, 1)) for label, score in row]
        shown.append(Told(pictures.get(index), name, bars))
    now = datetime.now()
    page = template("predictions.html.j2").render(
        told=told, shown=shown, total=len(rows), left_out=left_out, pictures=list(pictures.held.values()),
        when=f"{now.day} {now:%B %Y, %H:%M}", when_iso=now.isoformat("T", "minutes"),
    )  # fmt: skip
    write_text(path, page, hint="Choose another --page.")
    return path
