"""What datasets to classify share: images of known classes, all of which every split has."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from toolbox.base import Dataset, Sample, composed, read_image, sized_files, split_by_hash
from toolbox.plugin import Problem
from toolbox_datasets import subsets
from toolbox_datasets.files import listing, missing_files


class Classified(Dataset):
    """Labelled images in parts of their own ("train", maybe "val" and "test"), and the splits made of them.

    A split is the part of its name. Where the data have no "val", it is about `val_share` of the training images of
    each class, "train" the others; "test" likewise with `test_share`, where that is not 0. `ratio` or `shots` then thin
    the split out. Both depend on `seed` and on what an image is called (`part_keys`), not on which others there are.

    Subclasses say which parts there are, how they are labelled and how an item is read.

    - `published`: {part: (images, classes)} as published.
    """

    published: ClassVar[dict[str, tuple[int, int]]] = {}

    def __init__(
        self, split: str, ratio: float, shots: int | None, val_share: float, seed: int, test_share: float = 0.0
    ) -> None:
        subsets.require_split(split)
        subsets.require_subset(ratio, shots, seed)
        subsets.require_held_out(val_share=val_share, **({"test_share": test_share} if test_share else {}))
        self.split, self.ratio, self.shots, self.seed = split, ratio, shots, seed
        self.val_share, self.test_share = val_share, test_share

    @abstractmethod
    def parts(self) -> Sequence[str]:
        """Which of "train", "val" and "test" the data have themselves. Raises OSError or ValueError if unreadable."""

    @abstractmethod
    def part_labels(self, part: str) -> np.ndarray:
        """(N,) int64: the class of each image of one of `parts`, in its order. Raises OSError or ValueError."""

    @abstractmethod
    def place(self) -> str:
        """What the data are called in messages: a folder or a name."""

    @classmethod
    @abstractmethod
    def how_to_get(cls, root: str) -> str:
        """The steps that lead to complete data."""

    @cached_property
    def carved(self) -> dict[str, float]:
        """{"val" or "test": the share of the training images that it gets}, where the data have no such part."""
        present = self.parts()
        shares = {"val": self.val_share, "test": self.test_share}
        return {name: share for name, share in shares.items() if name not in present and share}

    @cached_property
    def part(self) -> str:
        """The part that the split is, or is drawn from. Raises OSError or ValueError if there is none."""
        present = self.parts()
        if self.split in present:
            return self.split
        if self.split in self.carved and "train" in present:
            return "train"
        if not present:
            raise FileNotFoundError(f"{self.place()} holds no images of known classes.")
        hint = " (val_share is 0)" if self.split == "val" and "train" in present else ""
        raise ValueError(f"{self.place()} has no '{self.split}', only {', '.join(map(repr, present))}{hint}")

    @cached_property
    def whole(self) -> np.ndarray:
        """(N,) labels of all images of `part`."""
        return self.part_labels(self.part)

    def part_keys(self) -> Sequence[str]:
        """What each image of `part` is called, whichever others there are; by default its row, counted from the first.

        Rows that are added go to the end, then.
        """
        return [f"{self.part}/{row}" for row in range(len(self.whole))]

    @cached_property
    def own(self) -> np.ndarray:
        """Indices into `part` of the whole split, before `ratio` or `shots`. Raises ValueError if nothing is in it."""
        if self.part == "train" and self.carved:
            shares = {f"{name}_share": self.carved.get(name, 0) for name in ("val", "test")}
            found = split_by_hash(self.part_keys(), **shares, seed=self.seed, labels=self.whole)[self.split]
        else:
            found = np.arange(len(self.whole))
        if not len(found):
            raise ValueError(f"{self.place()}: '{self.split}' holds no image")
        return found

    @cached_property
    def indices(self) -> np.ndarray:
        """Which images of `part` the split holds, in their order."""
        if self.shots is None and self.ratio == 1:
            return self.own
        keys, labels = self.part_keys(), self.whole[self.own]
        keys = [keys[index] for index in self.own.tolist()]
        try:
            return self.own[subsets.thinned(labels, keys, self.ratio, self.shots, self.seed, self.classes)]
        except ValueError as error:
            raise ValueError(f"{self.place()}, '{self.split}': {error}") from None

    @cached_property
    def labels(self) -> list[int]:
        return self.whole[self.indices].tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def notes(self) -> list[str]:
        """Where the images of the split come from, what was left out, and classes without an image."""
        notes = []
        own, whole = len(self.own), len(self.whole)
        if own < whole:
            others = " and ".join(f"'{name}' (about {share:g})" for name, share in self.carved.items())
            notes.append(
                f"{self.place()} has no {' and no '.join(map(repr, self.carved))}: of its {whole:,} training images "
                f"{others} is carved with seed {self.seed}, and '{self.split}' holds {own:,} ({own / whole:.1%})"
            )
        notes += subsets.notes_of(
            self.whole, 1 + len(self.carved) if own < whole else 1, self.split, own=own, kept=len(self),
            ratio=self.ratio, shots=self.shots, seed=self.seed, classes=self.classes,
        )  # fmt: skip
        absent = len(self.classes) - len(np.unique(self.whole[self.indices]))
        if absent:
            notes.append(f"{absent:,} of the {len(self.classes):,} classes have no image in '{self.split}'")
        return notes

    def check(self) -> list[Problem]:
        """Data that are missing, malformed or incomplete, a split that holds nothing, a single class."""
        try:
            problems, classes = self.missing(), self.classes
        except OSError as error:
            return [Problem(f"{str(error).rstrip('.')}.", "", self.how_to_get(self.place()))]
        except ValueError as error:
            return [Problem(str(error))]
        if not problems and len(classes) < 2:
            names = ", ".join(map(repr, classes)) or "none"
            return [Problem(f"{self.place()} has fewer than two classes ({names}): there is nothing to tell apart.")]
        return problems

    def missing(self) -> list[Problem]:
        """What the split lacks, when its labels can be read. Raises OSError or ValueError where they cannot."""
        len(self.labels)
        return []

    @classmethod
    def checked(cls, out: str, **arguments: object) -> str:
        """Check all parts of the data in `out` and return what is there, beside what was published.

        Raises ValueError with what is missing, and the steps that mend it.
        """
        findings, same = [], True
        present = make_whole(cls, out, "train", arguments).parts_or_problem()
        for part in present:
            dataset = make_whole(cls, out, part, arguments)
            problems = dataset.check()
            if problems:
                raise ValueError("\n".join(map(str, problems)))
            found = (len(dataset), len(dataset.classes))
            expected = cls.published.get(part)
            fits = expected is None or found == expected
            same = same and fits
            beside = "" if fits else f" (published: {expected[0]:,} of {expected[1]:,})"
            findings.append(f"{part} {found[0]:,} images of {found[1]:,} classes{beside}")
        same = same and set(cls.published) <= set(present)
        verdict = "complete" if same and cls.published else "readable"
        if cls.published and not same:
            verdict = "readable, but not the published dataset"
        return f"{out} is {verdict}: " + ", ".join(findings)

    def parts_or_problem(self) -> Sequence[str]:
        """`parts`. Raises ValueError with the steps to take where they cannot be read."""
        try:
            present = self.parts()
        except OSError as error:
            raise ValueError(f"{str(error).rstrip('.')}. {self.how_to_get(self.place())}") from None
        if not present:
            raise ValueError(f"{self.place()} holds no images. {self.how_to_get(self.place())}")
        return present


def make_whole(cls: type[Classified], out: str, part: str, arguments: dict[str, object]) -> Classified:
    """The dataset with the whole part, nothing carved."""
    return cls(out, part, val_share=0, **arguments)


class Picture(NamedTuple):
    """An image file: its `path` relative to the dataset's folder, with forward slashes, and its `label`."""

    path: str
    label: int


class Pictures(Classified):
    """A `Classified` whose images are files below a folder, `root`."""

    root: str

    @abstractmethod
    def pictures(self, part: str) -> list[Picture]:
        """The images of one of `parts`. Raises OSError or ValueError saying what is missing or malformed, and where."""

    def place(self) -> str:
        return self.root

    @cached_property
    def part_pictures(self) -> list[Picture]:
        """The images of `part`."""
        return self.pictures(self.part)

    def part_keys(self) -> Sequence[str]:
        return [composed(path.partition("/")[2]) for path, _ in self.part_pictures]  # below train/ or images/

    def part_labels(self, part: str) -> np.ndarray:
        found = self.part_pictures if part == self.part else self.pictures(part)
        return np.array([picture.label for picture in found], dtype=np.int64)

    @cached_property
    def paths(self) -> list[str]:
        """The path of each image of the split, relative to `root`."""
        return [self.part_pictures[index].path for index in self.indices]

    def item_files(self) -> Sequence[str | os.PathLike[str]]:
        return [Path(self.root) / path for path in self.paths]

    def identities(self) -> list[str]:
        keys = self.part_keys()
        return sized_files((f"{self.root}/{path}" for path in self.paths), (keys[index] for index in self.indices))

    def __getitem__(self, index: int) -> Sample:
        path = Path(self.root) / self.paths[index]
        return {"image": read_image(path), "label": self.labels[index], "id": self.paths[index], "path": str(path)}

    def missing(self) -> list[Problem]:
        absent = missing_files(Path(self.root), self.paths)
        if not absent:
            return []
        message = f"{len(absent):,} of {len(self):,} images of {self.root} do not exist: {listing(absent)}."
        return [Problem(message, "root", self.how_to_get(self.root))]
