"""The images that records of pairs name, the class of each, and which belong together."""

from __future__ import annotations

import os
import posixpath
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any, Self

import numpy as np

from toolbox.base import find_similar_labels, natural_sort_key
from toolbox.utils.components import find_components
from toolbox_datasets import tables
from toolbox_datasets.records_fields import RecordReader
from toolbox_datasets.relations import IntegerLists, Relations
from toolbox_datasets.subsets import carve_classes

UNTIDY = re.compile(r"\\|//|/\.|^[~/.\s]|[\s/]$")


@dataclass
class RecordIndex(ABC):
    """What a file of records holds.

    - `fields`: {field of a sample: its value in each item}, images as numbers into `paths`; `ids`: of the items.
    - `paths`: images in the order of their first appearance; `image_lines`: where that is, (len(paths),).
    - `labels`: (N,) class of each item; `classes`: names; `labelled`: whether the file gives them.
    - `groups`: super-classes, None where the file gives none.
    - `notes`: what was guessed of the columns, and what is odd in the file.
    """

    fields: Mapping[str, Sequence[Any]]
    ids: Sequence[str]
    paths: list[str]
    image_lines: np.ndarray
    labels: np.ndarray
    classes: list[str]
    labelled: bool
    groups: list[str] | None
    notes: list[str]

    @abstractmethod
    def take_split(self, split: str, share: float, source: Path) -> Self:
        """The part of "train" or "val": about `share` of the classes are held out, by their names."""

    def describe_oddities(self) -> list[str]:
        """What a user should know of these records, with counts."""
        return self.notes


@dataclass
class ImageIndex(RecordIndex):
    """What a file of records names, read in the mode "i2i": items are its images.

    - `paired`: (N,) bool, False for images that are named as negatives only.
    - `relations`: what the records say.
    """

    paired: np.ndarray
    relations: Relations

    def take_split(self, split: str, share: float, source: Path) -> Self:
        """As of `RecordIndex`.

        An image that is a negative only belongs where a record of "train" names it, else to "val". Negatives that lie
        in the other part are left out of their records; a note counts them.
        """
        pairs = int(self.labels[self.paired].max()) + 1  # classes of negatives only come after these
        in_split = np.zeros(len(self.classes), dtype=bool)
        in_split[carve_classes(self.classes[:pairs], share, split, source)] = True
        kept, relations = in_split[self.labels], self.relations
        kept_records, values = kept[relations.query], relations.negatives.values
        # where a record of "train" names a lone negative, this is no image of "val"
        training = kept_records if split == "train" else ~kept_records
        named = np.zeros(len(kept), dtype=bool)
        named[values[training[relations.negatives.owners()]]] = True
        kept |= ~self.paired & (named if split == "train" else ~named)
        number = np.cumsum(kept) - 1
        used, labels = np.unique(self.labels[kept], return_inverse=True)
        positives = relations.positives.select(kept_records, np.ones(len(relations.positives.values), dtype=bool))
        negatives = relations.negatives.select(kept_records, kept[values])
        paths = list(compress(self.paths, kept))
        part = replace(
            self,
            fields={"image": range(len(paths))},
            ids=paths,
            paths=paths,
            image_lines=self.image_lines[kept],
            labels=labels,
            classes=[self.classes[label] for label in used],
            paired=self.paired[kept],
            groups=list(compress(self.groups, kept)) if self.groups else None,
            relations=Relations(
                number[relations.query[kept_records]],
                IntegerLists(number[positives.values], positives.starts),
                IntegerLists(number[negatives.values], negatives.starts),
            ),
        )
        lost = int(np.count_nonzero(kept_records[relations.negatives.owners()])) - len(negatives.values)
        if not lost:
            return part
        total = lost + len(negatives.values)
        note = f"{lost:,} of {total:,} negatives are images of the other split and are left out"
        return replace(part, notes=[*self.notes, note])

    def describe_oddities(self) -> list[str]:
        relations, labels = self.relations, self.labels
        total, notes = len(relations), list(self.notes)
        if len(relations.positives.values) == total and not len(relations.negatives.values):
            different = len(np.unique(relations.query * len(self.paths) + relations.positives.values))
        else:
            different = len({hash((query, tuple(right), -1, *wrong)) for query, right, wrong in relations})
        repeated = total - different
        if repeated:
            notes.append(f"{repeated:,} of {total:,} records repeat an earlier one")
        self_positives = int(
            np.count_nonzero(relations.query[relations.positives.owners()] == relations.positives.values)
        )
        if self_positives:
            notes.append(f"{self_positives:,} of {total:,} records have their query as a positive")
        alike = np.count_nonzero(
            labels[relations.query[relations.negatives.owners()]] == labels[relations.negatives.values]
        )
        if alike:
            notes.append(
                f"{alike:,} of {len(relations.negatives.values):,} negatives are of their query's class: a loss that "
                "reads labels takes them for positives"
            )
        lone = int(np.count_nonzero(~self.paired))
        if lone:
            notes.append(
                f"{lone:,} of {len(self.paths):,} images are negatives only, and each forms a class of its own"
            )
        return notes


class ImageNumbers:
    """Numbers of the images of a file, in the order of their first appearance."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.abspath(folder).replace("\\", "/").rstrip("/")
        self.paths: list[str] = []
        self.lines = array("q")
        self._numbers: dict[str, int] = {}

    def number(self, spelled: str, line: int) -> int:
        """The number of an image, however it is spelled."""
        number = self._numbers.get(spelled)
        if number is not None:
            return number
        path = self.clean_path(spelled)
        number = self._numbers.setdefault(path, len(self.paths))
        if number == len(self.paths):
            self.paths.append(path)
            self.lines.append(line)
        self._numbers[spelled] = number
        return number

    def clean_path(self, path: str) -> str:
        """A path with forward slashes and without detours, relative to the folder if it lies there."""
        if not UNTIDY.search(path) or "://" in path:
            return path
        path = path.strip().replace("\\", "/")
        path = posixpath.normpath(os.path.expanduser(path) if path.startswith("~") else path)
        return path.removeprefix(self.folder + "/")


class ImageAttribute:
    """One value an image (its class, its group), which no two records may give differently."""

    def __init__(self, reader: RecordReader, field: str) -> None:
        self.reader, self.field = reader, field
        self.names: dict[str, int] = {}
        self.values = array("q")
        self._lines = array("q")

    def set_value(self, images: Sequence[int], name: str, line: int, paths: list[str]) -> None:
        """Raises ValueError, naming both lines, if an image has another value already."""
        value = self.names.setdefault(name, len(self.names))
        for image in images:
            self.resize(image + 1)
            if self.values[image] < 0:
                self.values[image], self._lines[image] = value, line
            elif self.values[image] != value:
                other = list(self.names)[self.values[image]]
                place, earlier = self.reader.format_place(line), self.reader.format_place(self._lines[image])
                raise ValueError(
                    f"{place}: the image '{paths[image]}' has the {self.field} '{name}' here and '{other}' in "
                    f"{earlier}: one of them is wrong"
                )

    def resize(self, count: int) -> None:
        """Make room for `count` images."""
        missing = count - len(self.values)
        if missing > 0:
            self.values.extend([-1] * missing)
            self._lines.extend([0] * missing)


def read_pairs(reader: RecordReader, folder: Path) -> ImageIndex:
    """The images of a file and how its records join them.

    With labels, a record's label is that of its query and positives. Without, images that records join, directly or
    over others, form a class. Images that are negatives only form a class of their own each, after all others.

    Raises OSError if the file cannot be read; ValueError, naming file and line, where a record is malformed, has no
    label while others have one, gives an image a second label, or has an image as positive and as negative.
    """
    images, labels, groups = ImageNumbers(folder), ImageAttribute(reader, "label"), ImageAttribute(reader, "group")
    queries, positives, negatives = array("q"), array("q"), array("q")
    positive_starts, negative_starts = array("q", [0]), array("q", [0])
    for line, row in tables.read_rows(reader.path, reader.list_read_columns()):
        query = images.number(reader.read_one(row, line, "query_image"), line)
        right = [images.number(path, line) for path in reader.read_required(row, line, "positive")]
        wrong = [images.number(path, line) for path in reader.read_several(row, line, "negatives")]
        right, wrong = list(dict.fromkeys(right)), list(dict.fromkeys(wrong))
        if wrong and not set(wrong).isdisjoint((query, *right)):
            path = images.paths[min(set(wrong) & {query, *right})]
            raise ValueError(f"{reader.format_place(line)}: '{path}' is a negative and also the query or a positive")
        label, group = reader.read_label(row, line), reader.read_scalar(row, line, "group")
        if label is not None:
            labels.set_value((query, *right), label, line, images.paths)
        if group is not None:
            groups.set_value((query, *right), group, line, images.paths)
        queries.append(query)
        positives.extend(right)
        negatives.extend(wrong)
        positive_starts.append(len(positives))
        negative_starts.append(len(negatives))
    has_labels = reader.has_labels()
    relations = Relations(
        np.asarray(queries),
        IntegerLists(np.asarray(positives), np.asarray(positive_starts)),
        IntegerLists(np.asarray(negatives), np.asarray(negative_starts)),
    )
    count = len(images.paths)
    paired = np.zeros(count, dtype=bool)
    paired[relations.query] = paired[relations.positives.values] = True
    if has_labels:
        labels.resize(count)
        class_numbers, names = sort_labels(np.asarray(labels.values), list(labels.names))
    else:
        joined = find_components(count, relations.query[relations.positives.owners()], relations.positives.values)
        class_numbers, names = number_by_first(joined, paired, images.paths)
    class_numbers, names = add_lone_classes(class_numbers, names, paired, images.paths)
    groups.resize(count)
    group_names = [*groups.names, ""]
    return ImageIndex(
        fields={"image": range(count)},
        ids=images.paths,
        paths=images.paths,
        image_lines=np.asarray(images.lines),
        labels=class_numbers,
        classes=names,
        labelled=has_labels,
        groups=[group_names[number] for number in groups.values] if groups.names else None,
        notes=[*reader.notes(), *find_similar_labels(labels.names)],
        paired=paired,
        relations=relations,
    )


def sort_labels(labels: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Labels renumbered in the natural order of their names (2 before 10); -1 stays."""
    order = sorted(range(len(names)), key=lambda number: (natural_sort_key(names[number]), names[number]))
    place = np.empty(len(names) + 1, dtype=np.int64)
    place[order], place[-1] = np.arange(len(names)), -1
    return place[labels], [names[number] for number in order]


def number_by_first(joined: np.ndarray, paired: np.ndarray, paths: list[str]) -> tuple[np.ndarray, list[str]]:
    """Classes of joined images in the order of their first image, which gives the name; -1 for the others."""
    roots, labels = np.unique(joined[paired], return_inverse=True)
    numbers = np.full(len(paired), -1, dtype=np.int64)
    numbers[paired] = labels
    return numbers, [paths[root] for root in roots]


def add_lone_classes(
    labels: np.ndarray, classes: list[str], paired: np.ndarray, paths: list[str]
) -> tuple[np.ndarray, list[str]]:
    """The same with a class more for each image that is a negative only, named by its path."""
    lone = np.flatnonzero(~paired)
    labels[lone] = len(classes) + np.arange(len(lone))
    taken = set(classes)
    return labels, classes + [paths[i] if paths[i] not in taken else f"negative {paths[i]}" for i in lone]
