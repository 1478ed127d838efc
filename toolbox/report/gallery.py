"""The gallery: query pictures with what the model put first, as small pictures inside the page."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from PIL import Image

from toolbox.report.numbers import fixed

if TYPE_CHECKING:
    from toolbox.base import Dataset, Example

MOST_ROWS = 24
MOST_RESULTS = 10
THUMBNAIL = 112
PIXELATED = 64


@dataclass(frozen=True)
class Picture:
    """One picture in the page.

    - `uri`: its data URI, empty when there is none; `note`: then the reason.
    - `pixelated`: small enough to be enlarged pixel by pixel.
    - `name`: of its class, empty when unknown; `index`: in the dataset.
    """

    index: int
    name: str
    uri: str = ""
    pixelated: bool = False
    note: str = ""


@dataclass(frozen=True)
class Result:
    """A picture that was found: whether it is right, and its score as text."""

    picture: Picture
    right: bool
    score: str


@dataclass(frozen=True)
class QueryRow:
    """A query with its results, best first."""

    query: Picture
    results: list[Result]

    @property
    def success(self) -> bool:
        """Whether the first result is right."""
        return bool(self.results) and self.results[0].right

    @property
    def outcome(self) -> str:
        """Where the first right result stands."""
        if not self.results:
            return "no results"
        rank = next((rank for rank, result in enumerate(self.results, 1) if result.right), None)
        return f"match at rank {rank}" if rank else f"no match in the first {len(self.results)}"


@dataclass(frozen=True)
class Gallery:
    """Rows in the order of the page, and the sentence that tells how they were chosen."""

    rows: list[QueryRow]
    sentence: str


def gallery(dataset: Dataset, examples: list[Example], *, split: str = "") -> Gallery:
    """Successes and failures in turn, `MOST_ROWS` queries at most, each picture read and encoded once."""
    failures = [example for example in examples if not _succeeds(example)]
    successes = [example for example in examples if _succeeds(example)]
    mixed = [example for pair in zip_longest(failures, successes) for example in pair if example is not None]
    pictures: dict[int, Picture] = {}

    def picture(index: int) -> Picture:
        if index not in pictures:
            pictures[index] = read_picture(dataset, index)
        return pictures[index]

    def row(example: Example) -> QueryRow:
        found = example.results[:MOST_RESULTS]
        results = [Result(picture(index), bool(right), fixed(float(score), 2)) for index, right, score in found]
        return QueryRow(picture(example.query), results)

    rows = [row(example) for example in mixed[:MOST_ROWS]]
    return Gallery(rows, _sentence(rows, len(dataset), split))


def _succeeds(example: Example) -> bool:
    return bool(example.results) and bool(example.results[0][1])


def _sentence(rows: list[QueryRow], size: int, split: str) -> str:
    wins = sum(row.success for row in rows)
    losses = len(rows) - wins
    chosen = f"{len(rows)} of {size:,} {split} items, chosen by the metric".replace("  ", " ")
    if not wins or not losses:
        return f"{chosen}; the first result is {'right' if wins else 'wrong'} for every one of them."
    return (
        f"{chosen}: {losses} whose first result is wrong and {wins} whose first result is right, "
        "in turn until one kind runs out. Read the rates off the table, not off this selection."
    )


def class_name(dataset: Dataset, index: int) -> str:
    """The name of an item's class, empty where the dataset names none."""
    labels, classes = dataset.labels, dataset.classes
    if labels is None or classes is None:
        return ""
    try:
        label = int(labels[index])
        return str(classes[label]) if label >= 0 else ""
    except (IndexError, KeyError, TypeError, ValueError):
        return ""


def read_picture(dataset: Dataset, index: int) -> Picture:
    """An item as a small picture; one that cannot be had says why instead."""
    name = class_name(dataset, index)
    try:
        image = dataset[index].get("image")
        if image is None:
            return Picture(index, name, note="This item has no picture")
        uri, pixelated = encode(image)
    except Exception as error:  # the run is over: no single picture may cost the user the page
        return Picture(index, name, note=f"{type(error).__name__}: {error}")
    return Picture(index, name, uri, pixelated)


def encode(image: Any) -> tuple[str, bool]:
    """(data URI, whether to enlarge it pixel by pixel) of a PIL image, at most THUMBNAIL pixels wide and high."""
    pixelated = max(image.size) <= PIXELATED
    see_through = image.has_transparency_data
    small = image.convert("RGBA" if see_through else "RGB")
    if not pixelated:
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if pixelated or see_through:
        small.save(buffer, "PNG", optimize=True)
        kind = "png"
    else:
        small.save(buffer, "JPEG", quality=84, optimize=True)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}", pixelated
