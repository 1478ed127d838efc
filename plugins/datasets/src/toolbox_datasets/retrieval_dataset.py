"""What the published benchmarks of image retrieval share: a list of images, and classes that are new in the test."""

from __future__ import annotations

import hashlib
import json
import os
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from toolbox.base import Sample, identify_files, lazy_attribute, read_image
from toolbox.plugin import Problem
from toolbox_datasets.published_dataset import FileDataset
from toolbox_datasets.subsets import carve_classes, require_share, require_split


class ListedImage(NamedTuple):
    """One image of a benchmark, as its list has it.

    - `image_id`: its number or name, unique in the dataset; `class_id`: as the benchmark has it.
    - `path`: relative to the dataset's folder, with forward slashes.
    - `group`: its super-class, "" where there is none; `role`: "query" or "gallery", None for both.
    """

    image_id: int | str
    class_id: int | str
    path: str
    group: str = ""
    role: str | None = None


class RetrievalDataset(FileDataset):
    """A benchmark whose "test" has other classes than its "trainval", which "train" and "val" divide by classes.

    "val" gets about `val_share` of the classes, at least two. Which ones depends on their own ids
    (`toolbox.base.split_by_hash`), so classes that are added move no other.

    Subclasses say how the list is read (`read_list`), how a class is called (`name_class`) and how to get the dataset
    (`explain_download`).

    - `published`: {"train" or "test": (images, classes)} as published, "train" being all but the test.
    """

    def __init__(
        self, root: str, split: Literal["train", "val", "trainval", "test"] = "train", val_share: float = 0.1
    ) -> None:
        require_split(split, ("train", "val", "trainval", "test"))
        require_share("val_share", val_share)
        self.root = self.location = os.path.expanduser(root)
        self.split, self.val_share = split, val_share

    @abstractmethod
    def read_list(self, part: Literal["train", "test"]) -> list[ListedImage]:
        """All images of "trainval" (`part` "train") or of "test", in the order of the list.

        Raises FileNotFoundError with a sentence that names what is missing, OSError if it cannot be read, and
        ValueError naming file and line where it is malformed.
        """

    def name_class(self, class_id: int | str, items: list[ListedImage]) -> str:
        """The name of a class with these images: their folder's, empty where they lie in several."""
        names = {Path(item.path).parent.name for item in items}
        return names.pop() if len(names) == 1 else ""

    @cached_property
    def items(self) -> list[ListedImage]:
        """The images of this split, in the order of the list."""
        items = self.read_list("test" if self.split == "test" else "train")
        if self.split in ("trainval", "test"):
            return items
        ids = list(dict.fromkeys(item.class_id for item in items))
        split_ids = {ids[index] for index in carve_classes(ids, self.val_share, self.split, self.root)}
        return [item for item in items if item.class_id in split_ids]

    @cached_property
    def class_ids(self) -> list[int | str]:
        """The benchmark's own number or name of each class."""
        return sorted({item.class_id for item in self.items})

    @lazy_attribute
    def labels(self) -> list[int]:
        label_of = {class_id: label for label, class_id in enumerate(self.class_ids)}
        return [label_of[item.class_id] for item in self.items]

    @lazy_attribute
    def classes(self) -> Sequence[str]:
        members: dict[int | str, list[ListedImage]] = {class_id: [] for class_id in self.class_ids}
        for item in self.items:
            members[item.class_id].append(item)
        names = [self.name_class(class_id, items) for class_id, items in members.items()]
        unique = all(names) and len(set(names)) == len(names)
        return names if unique else [str(class_id) for class_id in self.class_ids]

    @lazy_attribute
    def groups(self) -> Sequence[str] | None:
        groups = [item.group for item in self.items]
        return groups if any(groups) else None

    @lazy_attribute
    def roles(self) -> Sequence[str] | None:
        roles = [item.role for item in self.items if item.role]
        return roles if len(roles) == len(self.items) and roles else None

    def __len__(self) -> int:
        return len(self.items)

    def check(self) -> list[Problem]:
        return [problem if problem.where else problem.with_prefix(self.place) for problem in super().check()]

    @property
    def paths(self) -> list[str]:
        return [item.path for item in self.items]

    def identities(self) -> list[str]:
        paths = self.paths
        return identify_files((f"{self.root}/{path}" for path in paths), paths)

    def fingerprint(self) -> str:
        """Of what the list says: ids, groups and roles can change where no image does."""
        return hashlib.sha256(json.dumps(self.items).encode()).hexdigest()

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        path = Path(self.root) / item.path
        sample = {"image": read_image(path), "label": self.labels[index], "id": item.image_id, "path": str(path)}
        return sample | {name: value for name, value in (("group", item.group), ("role", item.role)) if value}

    @classmethod
    def open_parts(cls, out: str, **arguments: Any) -> dict[str, Self]:
        return {"train": cls(out, "trainval", **arguments), "test": cls(out, "test", **arguments)}

    @classmethod
    def prepare(cls, out: str) -> str:
        """Check the dataset in a folder and return what was found.

        - `out`: the folder that holds it. Raises ValueError, with the steps to take, if something is missing.
        """
        return cls.check_parts(out)
