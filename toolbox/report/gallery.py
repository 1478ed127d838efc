"""Galleries: queries with what the model put first, as small images or texts inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from PIL import Image

from toolbox.report.numbers import format_fixed

if TYPE_CHECKING:
    from toolbox.base import Dataset
    from toolbox.base.report_items import Gallery

MOST_ROWS = 24
MOST_RESULTS = 10
MOST_ROWS_TOGETHER = 120
MOST_BYTES = 4_800_000
THUMBNAIL = 112
PIXELATED = 64
LONGEST_TEXT = 160


@dataclass(frozen=True)
class Thumbnail:
    """One image, or a text in the place of one, in the page.

    - `uri`: its data URI, empty when there is none; `text`: what is shown then; `note`: the reason where nothing is.
    - `pixelated`: small enough to be enlarged pixel by pixel.
    - `name`: of its class, empty when unknown; `index`: in the dataset, -1 for a text that is no item.
    """

    index: int
    name: str
    uri: str = ""
    pixelated: bool = False
    note: str = ""
    text: str = ""

    @property
    def title(self) -> str:
        """What it is called: its class, its text or its place in the dataset."""
        return self.name or self.text or f"item {self.index}"


@dataclass
class ThumbnailSheet:
    """The images of a page: each is read, encoded and written once, however many places show it.

    - `held`: {dataset index: image}; `size`: bytes of all.
    """

    dataset: Dataset
    held: dict[int, Thumbnail] = field(default_factory=dict)
    size: int = 0

    def get(self, shown: int | str) -> Thumbnail:
        """The image of an item, or a text."""
        if isinstance(shown, str):
            return Thumbnail(-1, "", text=shorten_text(shown))
        if shown not in self.held:
            self.held[shown] = read_thumbnail(self.dataset, shown)
            self.size += len(self.held[shown].uri)
        return self.held[shown]

    def drop(self, indices: Iterable[int]) -> None:
        """Take back images that nothing shows."""
        for index in indices:
            self.size -= len(self.held.pop(index).uri)


@dataclass(frozen=True)
class GalleryResult:
    """An image or a text that was found: whether it is right, and its score as text."""

    image: Thumbnail
    right: bool
    score: str


@dataclass(frozen=True)
class QueryRow:
    """A query with its results, best first; `note`: why it is shown, empty when nothing says so."""

    query: Thumbnail
    results: list[GalleryResult]
    note: str = ""

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


@dataclass
class GalleryView:
    """A gallery as the page shows it: rows in the metric's order, and the sentence that tells how they were chosen."""

    title: str
    rows: list[QueryRow] = field(default_factory=list)
    sentence: str = ""

    @property
    def with_results(self) -> bool:
        """Whether its items were asked for others; else they are shown for themselves."""
        return not self.rows or any(row.results for row in self.rows)

    @property
    def unit(self) -> str:
        """What its rows are called."""
        singular, plural = ("query", "queries") if self.with_results else ("item", "items")
        return singular if len(self.rows) == 1 else plural


def lay_out_galleries(images: ThumbnailSheet, galleries: list[Gallery], *, split: str = "") -> list[GalleryView]:
    """What fits on a page: rows of all galleries in turn, so that each shows about as many.

    A gallery shows MOST_ROWS rows at most, all of them MOST_ROWS_TOGETHER, their images MOST_BYTES. The sentences
    count what is not shown.
    """
    views = [GalleryView(gallery.title) for gallery in galleries]
    turns = (
        (view, gallery.examples[turn])
        for turn in range(MOST_ROWS)
        for view, gallery in zip(views, galleries, strict=True)
        if turn < len(gallery.examples)
    )
    for number, (view, example) in enumerate(turns):
        if number >= MOST_ROWS_TOGETHER:
            break
        before = set(images.held)
        results = [
            GalleryResult(images.get(shown), bool(right), format_fixed(float(score), 2))
            for shown, right, score in example.results[:MOST_RESULTS]
        ]
        row = QueryRow(images.get(example.query), results, example.note)
        if number and images.size > MOST_BYTES:
            images.drop(images.held.keys() - before)
            break
        view.rows.append(row)
    for view, gallery in zip(views, galleries, strict=True):
        view.sentence = _describe_selection(view.rows, gallery, len(images.dataset), split)
    return views


def _describe_selection(rows: list[QueryRow], gallery: Gallery, size: int, split: str) -> str:
    if not gallery.examples:
        return " ".join(filter(None, (gallery.note, "Nothing to show.")))
    wins = sum(row.success for row in rows)
    count = f"{len(rows)} of {size:,} {split} items".replace("  ", " ")
    if len(rows) < len(gallery.examples):
        count += f" ({len(gallery.examples) - len(rows):,} more were found, left out to keep the page small)"
    if not any(row.results for row in rows):
        sentence = f"{count}."
    elif wins in (0, len(rows)):
        sentence = f"{count}; the first result is {'right' if wins else 'wrong'} for every one of them."
    else:
        sentence = f"{count}: the first result is wrong for {len(rows) - wins} of them and right for {wins}."
    if not gallery.note:
        sentence += " The metric chose them: read the rates off the table, not off this selection."
    return " ".join(filter(None, (gallery.note, sentence)))


def find_class_name(dataset: Dataset, index: int) -> str:
    """The name of an item's class, empty where the dataset names none."""
    labels, classes = dataset.labels, dataset.classes
    if labels is None or classes is None:
        return ""
    try:
        label = int(labels[index]) if index >= 0 else -1
        return str(classes[label]) if label >= 0 else ""
    except (IndexError, KeyError, TypeError, ValueError):
        return ""


def read_thumbnail(dataset: Dataset, index: int) -> Thumbnail:
    """An item as a small image; one that cannot be had says why instead."""
    name = find_class_name(dataset, index)
    try:
        if not 0 <= index < len(dataset):
            return Thumbnail(index, name, note=f"The dataset has {len(dataset):,} items, and this is number {index:,}")
        sample = dataset[index]
        image, text = sample.get("image"), sample.get("text")
        if image is None and text:
            return Thumbnail(index, name, text=shorten_text(text if isinstance(text, str) else text[0]))
        if image is None:
            return Thumbnail(index, name, note="This item has no image")
        uri, pixelated = encode_thumbnail(image)
    except Exception as error:  # the run is over: no single image may cost the user the page
        return Thumbnail(index, name, note=f"{type(error).__name__}: {error}")
    return Thumbnail(index, name, uri, pixelated)


def shorten_text(text: str) -> str:
    """As much of a text as a page shows in the place of an image."""
    return shorten(text, LONGEST_TEXT, placeholder=" ...")


def encode_thumbnail(image: Any) -> tuple[str, bool]:
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
