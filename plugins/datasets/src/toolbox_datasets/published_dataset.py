"""What published datasets share: a folder that holds one, what it must hold, and how to get it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from toolbox.base import Dataset
from toolbox.plugin import Problem
from toolbox_datasets.files import list_first, missing_files


class PublishedDataset(Dataset):
    """Data in a place that the argument `place` names, of which the number of images and classes may be known.

    Subclasses say what is missing (`find_missing`) and how to get it (`explain_download`).

    - `location`: what the data are called in messages: a folder or a name.
    - `published`: {part: (images, classes)} as published.
    """

    location: str
    place: ClassVar[str] = "root"
    published: ClassVar[dict[str, tuple[int, int]]] = {}
    classes: Sequence[str]

    @classmethod
    @abstractmethod
    def explain_download(cls, root: str) -> str:
        """The steps that lead to complete data."""

    @abstractmethod
    def find_missing(self) -> list[Problem]:
        """What the split lacks, when its labels can be read. Raises OSError or ValueError where they cannot."""

    def check(self) -> list[Problem]:
        """Data that are missing, malformed or incomplete, or a split that holds nothing."""
        try:
            problems = self.find_missing()
            len(self.classes)  # read, too
            return problems
        except OSError as error:
            return [Problem(f"{str(error).rstrip('.')}.", self.place, self.explain_download(self.location))]
        except ValueError as error:
            return [Problem(str(error))]

    @classmethod
    @abstractmethod
    def open_parts(cls, out: str, **arguments: Any) -> dict[str, Self]:
        """{part: all of its images, nothing carved}. Raises ValueError where there are none, with the steps to take."""

    @classmethod
    def check_parts(cls, out: str, **arguments: Any) -> str:
        """What is there of the dataset in `out`, beside what was published.

        Raises ValueError with what is missing, and the steps that mend it.
        """
        parts = cls.open_parts(out, **arguments)
        summaries, is_complete = [], cls.published.keys() <= parts.keys()
        for part, dataset in parts.items():
            require_valid(dataset)
            counts = len(dataset), len(dataset.classes)
            images, classes = cls.published.get(part, counts)
            fits = counts == (images, classes)
            is_complete = is_complete and fits
            summaries.append(count_images(part, dataset) + ("" if fits else f" (published: {images:,} of {classes:,})"))
        verdict = "readable"
        if cls.published:
            verdict = "complete" if is_complete else "readable, but not the published dataset"
        return f"{out} is {verdict}: " + ", ".join(summaries)


class FileDataset(PublishedDataset):
    """Data whose images are files below a folder, `root`."""

    root: str

    @property
    @abstractmethod
    def paths(self) -> list[str]:
        """The path of each image of the split, relative to `root`, with forward slashes."""

    def item_files(self) -> list[Path]:
        return [Path(self.root) / path for path in self.paths]

    def find_missing(self) -> list[Problem]:
        absent = missing_files(Path(self.root), self.paths)
        if not absent:
            return []
        message = f"{len(absent):,} of {len(self):,} images of {self.root} do not exist: {list_first(absent)}."
        return [Problem(message, "root", self.explain_download(self.root))]


def require_valid(dataset: Dataset) -> None:
    """Raise ValueError with what `dataset.check` says, if it says anything."""
    if problems := dataset.check():
        raise ValueError("\n".join(map(str, problems)))


def count_images(part: str, dataset: PublishedDataset) -> str:
    """How many images and classes a part has, for a summary."""
    return f"{part} {len(dataset):,} images of {len(dataset.classes):,} classes"
