"""The dataset: letters drawn on demand, or written to files in the layout of a real dataset."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from toolbox.base import Dataset, Sample, lazy_attribute, split_by_hash
from toolbox_glyphs.folder import publish_folder
from toolbox_glyphs.layouts import (
    LayoutContent,
    LetterImage,
    lay_out_cifar10,
    lay_out_food101,
    lay_out_image_folder,
    lay_out_imagenet,
    lay_out_pairs,
    lay_out_sop,
)
from toolbox_glyphs.letters import FACES, Letter, list_distinct_letters
from toolbox_glyphs.render import render

TRAINING_SCRIPTS = ("latin", "cyrillic")

FORMAT = 1
"""Part of what a written folder records; a change of the drawings raises it, and so makes old folders differ."""


class LetterLayout(NamedTuple):
    """A layout of written letters: what its files are, its `size` and `views` by default, and its `format`."""

    lay_out: Callable[..., LayoutContent]
    size: int = 48
    views: int = 1
    format: int = FORMAT


LAYOUTS = {
    "sop": LetterLayout(lay_out_sop),
    "imagefolder": LetterLayout(lay_out_image_folder, format=2),
    "food101": LetterLayout(lay_out_food101, views=2),
    "imagenet": LetterLayout(lay_out_imagenet, views=2),
    "cifar10": LetterLayout(lay_out_cifar10, size=32, views=25, format=2),
    "pairs": LetterLayout(lay_out_pairs, format=2),
}


class Glyphs(Dataset):
    """Images of letters, one class a letter: every letter in 12 faces, with random pose and colors.

    - `split`: "train" and "val" hold Latin and Cyrillic letters, about a tenth, by their names, being for "val"; "test"
      holds Greek, Armenian and Georgian ones. No letter of one split is drawn like a letter of another.
    - `size`: height and width in pixels.
    - `views`: images of each letter in each face.
    - `seed`: of poses and colors; it does not change which letters there are.

    A sample holds "image", "label", "id" ("U+03B1/Serif-Bold/0"), "text" (the letter's Unicode name) and "group" (its
    script). `groups` are scripts. Raises ValueError for a size below 8, fewer than one view, or a negative seed.
    """

    def __init__(
        self, split: Literal["train", "val", "test"] = "train", size: int = 32, views: int = 1, seed: int = 0
    ) -> None:
        if split not in ("train", "val", "test"):
            raise ValueError(f"split must be 'train', 'val' or 'test', not {split!r}")
        require_drawable(size, views, seed)
        self.split, self.size, self.views, self.seed = split, size, views, seed

    @cached_property
    def letters(self) -> list[Letter]:
        """The letter of each class."""
        return choose_letters(self.split)

    @lazy_attribute
    def labels(self) -> list[int]:
        return np.repeat(np.arange(len(self.letters)), self.views * len(FACES)).tolist()

    @lazy_attribute
    def classes(self) -> list[str]:
        return [letter.name for letter in self.letters]

    @lazy_attribute
    def groups(self) -> list[str]:
        return [self.letters[label].script for label in self.labels]

    def __len__(self) -> int:
        return len(self.letters) * len(FACES) * self.views

    def __getitem__(self, index: int) -> Sample:
        return self.read(index, {"image"})

    def read(self, index: int, fields: Collection[str]) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} is outside 0 to {len(self) - 1}")
        label, number = divmod(index % len(self), len(FACES) * self.views)
        face, view = divmod(number, self.views)
        letter = self.letters[label]
        image = (
            {"image": draw_image(LetterImage(letter, face, view), self.size, self.seed)} if "image" in fields else {}
        )
        name = make_id(letter, face, view)
        return {**image, "label": label, "id": name, "text": letter.name, "group": letter.script}

    def identities(self) -> list[str]:
        views = [(face, view) for face in range(len(FACES)) for view in range(self.views)]
        return [f"{make_id(letter, face, view)}/{self.seed}" for letter in self.letters for face, view in views]

    @classmethod
    def prepare(
        cls,
        out: str,
        *,
        layout: Literal["sop", "imagefolder", "food101", "cifar10", "imagenet", "pairs"] = "sop",
        size: int | None = None,
        views: int | None = None,
        seed: int = 0,
    ) -> str:
        """Write letters as image files; a finished folder of the same options is kept. Returns a summary.

        - `out`: the folder to make. Nothing but this command's own files may lie in it.
        - `layout`: "sop" is that of Stanford Online Products (training letters in Ebay_train.txt, unseen ones in
          Ebay_test.txt, scripts as super-classes); "imagefolder" is train/, val/ and test/, one folder a letter.
          "food101", "imagenet" and "cifar10" are those of these datasets: Greek, Armenian and Georgian letters (of
          "cifar10" ten Georgian ones) in 8 faces to train on, and the same letters in 4 other faces to test.
          "pairs" is images with captions for `datasets.Records(mode='i2t')`: train.jsonl with letters of all scripts,
          val.jsonl and test_letters.jsonl with letters whose names are not trained on (those of the test Greek,
          Armenian and Georgian), and test_faces.jsonl with trained letters of these three scripts in 4 other faces.
        - `size`: height and width in pixels; 48, and always 32 for "cifar10".
        - `views`: images of each letter in each face; 1, for "food101" and "imagenet" 2, for "cifar10" 25.
        - `seed`: of poses and colors.

        Files appear under `out` all at once, so a folder of an interrupted command is never taken for a whole one.
        Raises ValueError if `out` holds other files, or was written with other options.
        """
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
        defaults = LAYOUTS[layout]
        size = defaults.size if size is None else size
        views = defaults.views if views is None else views
        require_drawable(size, views, seed)
        splits = {split: choose_letters(split) for split in ("train", "val", "test")}
        content = defaults.lay_out(splits, views)
        if content.records and size != defaults.size:
            raise ValueError(
                f"size must be {defaults.size} for the layout {layout}, whose files say nothing of it: {size}"
            )
        options = {
            "dataset": "glyphs",
            "format": defaults.format,
            "layout": layout,
            "size": size,
            "views": views,
            "seed": seed,
        }
        files: dict[str, Callable[[Path], object]] = {
            path: partial(save_image, image, size, seed) for path, image in content.images.items()
        }
        files |= {path: partial(save_records, pairs, size, seed) for path, pairs in content.records.items()}
        files |= {path: partial(save_text, text) for path, text in content.texts.items()}
        written = publish_folder(Path(out), options, files)
        state = "wrote" if written else "found complete:"
        count = len(content.images) + sum(map(len, content.records.values()))
        letters = count_letters(layout, splits, content)
        return f"{state} {count:,} images of {letters} letters ({size} px, layout {layout}) in {out}"


def count_letters(layout: str, splits: Mapping[str, Sequence[Letter]], content: LayoutContent) -> str:
    """How many letters a layout holds, in words."""
    if layout in ("sop", "imagefolder"):
        return ", ".join(f"{len(letters)} {split}" for split, letters in splits.items())
    if layout == "pairs":
        return f"{len({image.letter for image in content.images.values()}):,}"
    images = [*content.images.values(), *(image for pairs in content.records.values() for _, image in pairs)]
    return f"{len({image.letter for image in images})} unseen"


def save_image(image: LetterImage, size: int, seed: int, target: Path) -> None:
    """Write a drawing as JPEG."""
    draw_image(image, size, seed).save(target, format="JPEG", quality=95, subsampling=0)


def save_text(text: str, target: Path) -> None:
    """Write a text, with the same bytes everywhere."""
    target.write_text(text, encoding="utf-8", newline="\n")


def save_records(pairs: Sequence[tuple[int, LetterImage]], size: int, seed: int, target: Path) -> None:
    """Write images and labels as CIFAR-10 has them: a byte of the label, then all red, green and blue values."""
    content = bytearray()
    for label, image in pairs:
        pixels = np.asarray(draw_image(image, size, seed))
        content += bytes([label]) + pixels.transpose(2, 0, 1).tobytes()
    target.write_bytes(content)


def require_drawable(size: int, views: int, seed: int) -> None:
    """Raise ValueError for options that nothing could be drawn with."""
    if size < 8:
        raise ValueError(f"size must be at least 8 pixels, not {size}")
    if views < 1:
        raise ValueError(f"views must be at least 1, not {views}")
    if seed < 0:
        raise ValueError(f"seed must not be negative: {seed}")


def choose_letters(split: str) -> list[Letter]:
    """The letters of "train", "val" or "test"."""
    if split == "test":
        return [letter for letter in list_distinct_letters() if letter.script not in TRAINING_SCRIPTS]
    letters = [letter for letter in list_distinct_letters() if letter.script in TRAINING_SCRIPTS]
    return [letters[index] for index in split_by_hash([letter.name for letter in letters], val_share=0.1)[split]]


def make_id(letter: Letter, face: int, view: int) -> str:
    """The id of an image."""
    return f"U+{ord(letter.char):04X}/{FACES[face].removeprefix('DejaVu')}/{view}"


def draw_image(image: LetterImage, size: int, seed: int) -> Image.Image:
    """Draw an image: the same in memory and in files, before these are compressed."""
    rng = np.random.default_rng((seed, ord(image.letter.char), image.face, image.view))
    return render(image.letter, FACES[image.face], size, rng)
