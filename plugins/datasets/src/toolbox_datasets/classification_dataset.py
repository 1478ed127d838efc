"""What datasets to classify share: parts of known classes, the splits made of them, and subsets of these."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np

from toolbox.base import lazy_attribute, split_by_hash
from toolbox.plugin import Problem
from toolbox_datasets import subsets
from toolbox_datasets.published_dataset import PublishedDataset


class ClassificationDataset(PublishedDataset):
    """Labelled images in parts of their own ("train", maybe "val" and "test"), and the splits made of them.

    A split is the part of its name. Where the data have no "val", it is about `val_share` of the training images of
    each class, "train" the others; "test" likewise with `test_share`, where that is not 0. `ratio` or `shots` then
    choose a subset of the split. Both depend on `seed` and on what an image is called (`list_keys`), not on which
    others there are.

    Subclasses say which parts there are, how they are labelled and how an item is read.

    - `test_share`: share of the training images that "test" gets where the data have none.
    """

    split: str
    test_share = 0.0

    def __init__(
        self,
        root: str,
        split: subsets.Split = "train",
        ratio: float = 1.0,
        shots: int | None = None,
        val_share: float = 0.1,
        seed: int = 42,
    ) -> None:
        subsets.require_split(split)
        subsets.require_subset(ratio, shots, seed)
        subsets.require_held_out(val_share=val_share)
        self.root = self.location = os.path.expanduser(root)
        self.split, self.ratio, self.shots, self.val_share, self.seed = split, ratio, shots, val_share, seed

    @abstractmethod
    def list_parts(self) -> Sequence[subsets.Split]:
        """Which of "train", "val" and "test" the data have themselves. Raises OSError or ValueError if unreadable."""

    @abstractmethod
    def read_labels(self) -> np.ndarray:
        """(N,) int64: the class of each image of `part`, in its order. Raises OSError or ValueError."""

    @cached_property
    def carved_shares(self) -> dict[str, float]:
        """{"val" or "test": the share of the training images that it gets}, where the data have no such part."""
        parts = self.list_parts()
        shares = {"val": self.val_share, "test": self.test_share}
        return {name: share for name, share in shares.items() if name not in parts and share}

    @cached_property
    def part(self) -> str:
        """The part that the split is, or is drawn from. Raises OSError or ValueError if there is none."""
        parts = self.list_parts()
        if self.split in parts:
            return self.split
        if self.split in self.carved_shares and "train" in parts:
            return "train"
        if not parts:
            raise FileNotFoundError(f"{self.location} holds no images of known classes.")
        hint = " (val_share is 0)" if self.split == "val" and "train" in parts else ""
        raise ValueError(f"{self.location} has no '{self.split}', only {', '.join(map(repr, parts))}{hint}")

    @cached_property
    def part_labels(self) -> np.ndarray:
        """(N,) labels of all images of `part`."""
        return self.read_labels()

    def list_keys(self) -> Sequence[str]:
        """What each image of `part` is called, whichever others there are; by default its row, counted from the first.

        Rows that are added go to the end, then.
        """
        return [f"{self.part}/{row}" for row in range(len(self.part_labels))]

    @cached_property
    def split_indices(self) -> np.ndarray:
        """Indices into `part` of the whole split, before `ratio` or `shots`."""
        if self.part != "train" or not self.carved_shares:
            return np.arange(len(self.part_labels))
        val_share, test_share = (self.carved_shares.get(name, 0) for name in ("val", "test"))
        splits = split_by_hash(
            self.list_keys(), val_share=val_share, test_share=test_share, seed=self.seed, labels=self.part_labels
        )
        return splits[self.split]

    @cached_property
    def indices(self) -> np.ndarray:
        """Which images of `part` the split holds, in their order. Raises ValueError if nothing is in it."""
        if not len(self.split_indices):
            raise ValueError(f"{self.location}: '{self.split}' holds no image")
        if self.shots is None and self.ratio == 1:
            return self.split_indices
        keys, labels = self.list_keys(), self.part_labels[self.split_indices]
        keys = [keys[index] for index in self.split_indices.tolist()]
        try:
            subset = subsets.choose_subset(labels, keys, self.ratio, self.shots, self.seed, self.classes)
        except ValueError as error:
            raise ValueError(f"{self.location}, '{self.split}': {error}") from None
        return self.split_indices[subset]

    @lazy_attribute
    def labels(self) -> list[int]:
        return self.part_labels[self.indices].tolist()

    def __len__(self) -> int:
        return len(self.indices)

    def notes(self) -> list[str]:
        """Where the images of the split come from, what was left out, and classes without an image."""
        notes = []
        count, part_count = len(self.split_indices), len(self.part_labels)
        if count < part_count:
            others = " and ".join(f"'{name}' (about {share:g})" for name, share in self.carved_shares.items())
            notes.append(
                f"{self.location} has no {' and no '.join(map(repr, self.carved_shares))}: of its {part_count:,} "
                f"training images {others} is carved with seed {self.seed}, and '{self.split}' holds {count:,} "
                f"({count / part_count:.1%})"
            )
        notes += self.describe_subset()
        absent = len(self.classes) - len(np.unique(self.part_labels[self.indices]))
        if absent:
            notes.append(f"{absent:,} of the {len(self.classes):,} classes have no image in '{self.split}'")
        return notes

    def describe_subset(self) -> list[str]:
        """Classes that are too small to divide, and how many images `ratio` or `shots` leave."""
        splits = 1 + len(self.carved_shares) if self.part == "train" else 1
        notes = subsets.describe_small_classes(self.part_labels, splits, self.classes)
        available = len(self.split_indices)
        if len(self) < available:
            how = f"shots={self.shots}" if self.shots is not None else f"ratio={self.ratio:g}"
            notes.append(
                f"{how} takes {len(self):,} of the {available:,} images of '{self.split}', with seed {self.seed}"
            )
        return notes

    def check(self) -> list[Problem]:
        """As of `PublishedDataset`, or a single class."""
        problems = super().check()
        if not problems and len(self.classes) < 2:
            names = ", ".join(map(repr, self.classes)) or "none"
            return [Problem(f"{self.location} has fewer than two classes ({names}): there is nothing to tell apart.")]
        return problems

    def find_missing(self) -> list[Problem]:
        len(self.labels)
        return []

    @classmethod
    def open_parts(cls, out: str, **arguments: Any) -> dict[str, Self]:
        try:
            parts = cls(out, "train", val_share=0, **arguments).list_parts()
        except OSError as error:
            raise ValueError(f"{str(error).rstrip('.')}. {cls.explain_download(out)}".rstrip()) from None
        if not parts:
            raise ValueError(f"{out} holds no images. {cls.explain_download(out)}")
        return {part: cls(out, part, val_share=0, **arguments) for part in parts}
