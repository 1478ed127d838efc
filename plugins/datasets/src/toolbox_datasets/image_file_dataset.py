"""Datasets to classify whose images are files below a folder."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from toolbox.base import Sample, compose_unicode, identify_files, read_image
from toolbox_datasets.classification_dataset import ClassificationDataset
from toolbox_datasets.published_dataset import FileDataset


class LabelledFile(NamedTuple):
    """An image file: its `path` relative to the dataset's folder, with forward slashes, and its `label`."""

    path: str
    label: int


class ImageFileDataset(FileDataset, ClassificationDataset):
    """A `ClassificationDataset` whose images are files below a folder, `root`."""

    @abstractmethod
    def list_images(self) -> list[LabelledFile]:
        """The images of `part`. Raises OSError or ValueError saying what is missing or malformed, and where."""

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
        return [path for path, _ in self.items]

    def list_keys(self) -> Sequence[str]:
        return [compose_unicode(path.partition("/")[2]) for path, _ in self.part_images]  # below train/ or images/

    def read_labels(self) -> np.ndarray:
        return np.array([image.label for image in self.part_images], dtype=np.int64)

    def identities(self) -> list[str]:
        keys = self.list_keys()
        names = (keys[index] for index in self.indices.tolist())
        return identify_files((f"{self.root}/{path}" for path in self.paths), names)

    def __getitem__(self, index: int) -> Sample:
        name, label = self.items[index]
        path = Path(self.root) / name
        return {"image": read_image(path), "label": label, "id": name, "path": str(path)}
