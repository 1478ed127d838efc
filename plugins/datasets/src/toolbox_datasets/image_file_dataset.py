"""Datasets to classify whose images are files below a folder."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toolbox.base import Sample, compose_unicode, identify_files, read_image
from toolbox.plugin import Problem
from toolbox_datasets.classification_dataset import ClassificationDataset
from toolbox_datasets.files import list_first, missing_files


class LabelledFile(NamedTuple):
    """An image file: its `path` relative to the dataset's folder, with forward slashes, and its `label`."""

    path: str
    label: int


class ImageFileDataset(ClassificationDataset):
    """A `ClassificationDataset` whose images are files below a folder, `root`."""

    root: str

    @abstractmethod
    def list_images(self) -> list[LabelledFile]:
        """The images of `part`. Raises OSError or ValueError saying what is missing or malformed, and where."""

    @property
    def location(self) -> str:
        return self.root

    @cached_property
    def part_images(self) -> list[LabelledFile]:
        """The images of `part`."""
        return self.list_images()

    @cached_property
    def items(self) -> list[LabelledFile]:
        """The images of the split."""
        return [self.part_images[index] for index in self.indices.tolist()]

    @property
    def paths(self) -> list[str]:
        """The path of each image of the split, relative to `root`."""
        return [path for path, _ in self.items]

    def list_keys(self) -> Sequence[str]:
        return [compose_unicode(path.partition("/")[2]) for path, _ in self.part_images]  # below train/ or images/

    def read_labels(self) -> np.ndarray:
        return np.array([image.label for image in self.part_images], dtype=np.int64)

    def item_files(self) -> Sequence[str | os.PathLike[str]]:
        return [Path(self.root) / path for path in self.paths]

    def identities(self) -> list[str]:
        keys = self.list_keys()
        names = (keys[index] for index in self.indices.tolist())
        return identify_files((f"{self.root}/{path}" for path in self.paths), names)

    def __getitem__(self, index: int) -> Sample:
        name, label = self.items[index]
        path = Path(self.root) / name
        return {"image": read_image(path), "label": label, "id": name, "path": str(path)}

    def find_missing(self) -> list[Problem]:
        absent = missing_files(Path(self.root), self.paths)
        if not absent:
            return []
        message = f"{len(absent):,} of {len(self):,} images of {self.root} do not exist: {list_first(absent)}."
        return [Problem(message, "root", self.explain_download(self.root))]
