"""The extension point for data: raw samples by index, without randomness and without an epoch."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, TypeVar

from toolbox.errors import Problem

Sample = dict[str, Any]
"""One raw item: "image" (PIL, RGB), "text" (str or a list of them), "label" (int), "id" (int or str).

Of several texts training reads one at each draw, chosen by the draw; evaluation and stored features take all of them.
Whole numbers of NumPy and torch, bytes and paths are made plain; other ids and labels are refused when they are read.
"""


T = TypeVar("T")


class lazy_attribute(cached_property[T]):
    """A `functools.cached_property` that stands for an attribute of a base class, as `labels` of `Dataset`.

    Type checkers take a plain one for read-only, and refuse it there.
    """


class Dataset(ABC):
    """Raw samples. The constructor does no I/O; the index is read on first use, as a `lazy_attribute`.

        class Squares(Dataset):
            def __init__(self, count: int = 10):
                self.labels = [i % 2 for i in range(count)]
                self.classes = ["black", "white"]
            def __len__(self):
                return len(self.labels)
            def __getitem__(self, index):
                color = 255 * self.labels[index]
                return {"image": Image.new("RGB", (32, 32), (color,) * 3), "label": self.labels[index], "id": index}

    An item that cannot be read raises OSError or ValueError naming the file; the loader's `on_bad_item`
    decides what happens then. `id` is unique within the dataset and the same in every run.

    - `labels`: class index of each item, None when unlabelled.
    - `classes`: class names, `labels` index into it; None when unlabelled.
    - `has_class_names`: False where `classes` only says which items belong together, by a file or line of these data;
      the same name in other data then means nothing.
    - `groups`: super-class name of each item, None when there is none.
    - `roles`: "query" or "gallery" for each item, the "role" of its sample, where queries are compared with the gallery
      alone; None where every item is a query against all others.
    - `records`: (query, positives, negatives) in indices of items, where the data name pairs themselves; else None.
    - `unit`: what items are called where they are counted.
    """

    labels: Sequence[int] | None = None
    classes: Sequence[str] | None = None
    has_class_names: bool = True
    groups: Sequence[str] | None = None
    roles: Sequence[str] | None = None
    records: Sequence[tuple[int, Sequence[int], Sequence[int]]] | None = None
    unit: str = "images"

    def item_files(self) -> Sequence[str | os.PathLike[str]] | None:
        """The file of each item, in their order, where an item is all that a file of its own holds.

        Stored features are then kept by item when others are added. None, the default, where items share files, or say
        more than stands in the file.
        """
        return None

    def sources(self) -> Sequence[str | os.PathLike[str]] | None:
        """The files that items are read from, each at least once; stored features are computed anew when one changes.

        Default: `item_files`. None where there are no files.
        """
        return self.item_files()

    def fingerprint(self) -> str | None:
        """A version of the data that neither arguments nor `sources` show: a commit, a checksum.

        Stored features are computed anew when it changes. None, the default, where there is none.
        """
        return None

    def identities(self) -> Sequence[str] | None:
        """A text for each item that no other item has, wherever the data lie and whatever is added to them.

        For example the path below the folder of classes with the file's size (`toolbox.base.identify_files`), or a
        checksum. A run keeps digests of them, so that an evaluation counts the items that it was trained on. None, the
        default, where an item must be read to identify it.
        """
        return None

    @abstractmethod
    def __len__(self) -> int:
        """How many items."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The raw item at `index`, the same at every call."""

    def read(self, index: int, fields: Collection[str]) -> Sample:
        """The item at `index` with its id, label and role, and of the rest at least these `fields`.

        Default: the whole item. Overridden where an item has a text too, so that who reads the texts opens no image. A
        subclass that changes `__getitem__` alone is read by that.
        """
        return self[index]

    def check(self) -> list[Problem]:
        """What is missing on disk, with the command that makes it; called before a run starts."""
        return []

    def ignored_files(self) -> Mapping[str, Mapping[str, int]]:
        """{folder: {ending: how many files in it were left out}}, "" for files without ending; empty by default."""
        return {}

    def notes(self) -> list[str]:
        """What a user should know of data that can be used as they are (left out, repeated, guessed), with counts."""
        return []

    @classmethod
    def prepare(cls, out: str) -> str:
        """Create or check the dataset's files under `out`, for `tools/prepare_data.py`; returns a summary to print.

        Overrides add keyword-only options with defaults; each becomes a `--flag` of the command.
        Raises OSError or ValueError, with the steps to take, when it cannot.
        """
        raise ValueError(f"{cls.__name__} has nothing to prepare")
