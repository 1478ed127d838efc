"""The images that records of pairs name, the class of each, and which belong together."""

from __future__ import annotations

import os
import posixpath
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from toolbox.base import find_similar_labels
from toolbox_datasets import tables
from toolbox_datasets.class_folders import natural
from toolbox_datasets.records_fields import Reader
from toolbox_datasets.splits import carve

ODD = re.compile(r"\\|//|/\.|^[~/.\s]|[\s/]$")


class Lists:
    """Lists of integers, end to end: list i is values[starts[i] : starts[i + 1]]."""

    def __init__(self, values: np.ndarray, starts: np.ndarray) -> None:
        self.values, self.starts = values, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> list[int]:
        return self.values[self.starts[index] : self.starts[index + 1]].tolist()

    def of(self) -> np.ndarray:
        """Which list each value stands in."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def kept(self, lists: np.ndarray, values: np.ndarray) -> Lists:
        """The lists for which the mask `lists` is True, with those values that the mask `values` keeps."""
        of = self.of()
        chosen = lists[of] & values
        counts = np.bincount(of[chosen], minlength=len(self))[lists]
        return Lists(self.values[chosen], np.concatenate([[0], np.cumsum(counts)]))


class Relations(Sequence):
    """(query, positives, negatives) of each record, as indices of items; 1e6 records take some 30 MB."""

    def __init__(self, query: np.ndarray, positives: Lists, negatives: Lists) -> None:
        self.query, self.positives, self.negatives = query, positives, negatives

    def __len__(self) -> int:
        return len(self.query)

    def __getitem__(self, index: int) -> tuple[int, list[int], list[int]]:
        index = range(len(self))[index]
        return int(self.query[index]), self.positives[index], self.negatives[index]

    def __iter__(self) -> Iterator[tuple[int, list[int], list[int]]]:
        return map(self.__getitem__, range(len(self)))


@dataclass
class Index:
    """What a file of records names, read in the mode "i2i".

    - `paths`: images in the order of their first appearance; `image_lines`: where that is, (N,).
    - `labels`: (N,) class of each image; `classes`: names.
    - `groups`: super-class of each image, None where the file gives none.
    - `paired`: (N,) bool, False for images that are named as negatives only.
    - `notes`: what was guessed of the columns, and what `divided` left out.
    """

    paths: list[str]
    image_lines: np.ndarray
    labels: np.ndarray
    classes: list[str]
    groups: list[str] | None
    paired: np.ndarray
    relations: Relations
    notes: list[str]


class Images:
    """The images of a file, numbered in the order of their first appearance."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.abspath(folder).replace("\\", "/").rstrip("/")
        self.paths: list[str] = []
        self.lines = array("q")
        self._numbers: dict[str, int] = {}

    def number(self, spelled: str, line: int) -> int:
        """The number of an image, however it is spelled."""
        found = self._numbers.get(spelled)
        if found is not None:
            return found
        path = self.clean(spelled)
        found = self._numbers.setdefault(path, len(self.paths))
        if found == len(self.paths):
            self.paths.append(path)
            self.lines.append(line)
        self._numbers[spelled] = found
        return found

    def clean(self, path: str) -> str:
        """A path with forward slashes and without detours, relative to the folder if it lies there."""
        if not ODD.search(path) or "://" in path:
            return path
        path = path.strip().replace("\\", "/")
        path = posixpath.normpath(os.path.expanduser(path) if path.startswith("~") else path)
        return path.removeprefix(self.folder + "/")


class Named:
    """One value an image (its class, its group), which no two records may give differently."""

    def __init__(self, reader: Reader, field: str) -> None:
        self.reader, self.field = reader, field
        self.names: dict[str, int] = {}
        self.of = array("q")
        self._lines = array("q")

    def give(self, images: Sequence[int], name: str, line: int, paths: list[str]) -> None:
        """Raises ValueError, naming both lines, if an image has another value already."""
        value = self.names.setdefault(name, len(self.names))
        for image in images:
            self.reach(image + 1)
            if self.of[image] < 0:
                self.of[image], self._lines[image] = value, line
            elif self.of[image] != value:
                other = list(self.names)[self.of[image]]
                raise ValueError(
                    f"{self.reader.place(line)}: the image '{paths[image]}' has the {self.field} '{name}' here and "
                    f"'{other}' in {self.reader.place(self._lines[image])}: one of them is wrong"
                )

    def reach(self, count: int) -> None:
        """Make room for `count` images."""
        missing = count - len(self.of)
        if missing > 0:
            self.of.extend([-1] * missing)
            self._lines.extend([0] * missing)


def read_pairs(reader: Reader, folder: Path) -> Index:
    """The images of a file and how its records join them.

    With labels, a record's label is that of its query and positives. Without, images that records join, directly or
    over others, form a class. Images that are negatives only form a class of their own each, after all others.

    Raises OSError if the file cannot be read; ValueError, naming file and line, where a record is malformed, has no
    label while others have one, gives an image a second label, or has an image as positive and as negative.
    """
    images, labels, groups = Images(folder), Named(reader, "label"), Named(reader, "group")
    query, positives, negatives = array("q"), array("q"), array("q")
    positive_starts, negative_starts = array("q", [0]), array("q", [0])
    for line, row in tables.rows(reader.path, reader.wanted()):
        first = images.number(reader.one(row, line, "query_image"), line)
        right = list(dict.fromkeys(images.number(path, line) for path in reader.needed(row, line, "positive")))
        wrong = list(dict.fromkeys(images.number(path, line) for path in reader.several(row, line, "negatives")))
        if wrong and not set(wrong).isdisjoint((first, *right)):
            path = images.paths[min(set(wrong) & {first, *right})]
            raise ValueError(f"{reader.place(line)}: '{path}' is a negative and also the query or a positive")
        label, group = reader.label(row, line), reader.scalar(row, line, "group")
        if label is not None:
            labels.give((first, *right), label, line, images.paths)
        if group is not None:
            groups.give((first, *right), group, line, images.paths)
        query.append(first)
        positives.extend(right)
        negatives.extend(wrong)
        positive_starts.append(len(positives))
        negative_starts.append(len(negatives))
    labelled = reader.labelled()
    relations = Relations(
        np.asarray(query), Lists(np.asarray(positives), np.asarray(positive_starts)),
        Lists(np.asarray(negatives), np.asarray(negative_starts)),
    )  # fmt: skip
    count = len(images.paths)
    paired = np.zeros(count, dtype=bool)
    paired[relations.query] = paired[relations.positives.values] = True
    if labelled:
        labels.reach(count)
        found, names = in_order(np.asarray(labels.of), list(labels.names))
    else:
        joined = components(count, relations.query[relations.positives.of()], relations.positives.values)
        found, names = by_first(joined, paired, images.paths)
    found, names = with_lone(found, names, paired, images.paths)
    notes = [*reader.notes(), *find_similar_labels(labels.names)]
    index = Index(images.paths, np.asarray(images.lines), found, names, None, paired, relations, notes)
    if groups.names:
        groups.reach(count)
        kinds = [*groups.names, ""]
        index.groups = [kinds[number] for number in groups.of]
    return index


def components(count: int, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """(count,) for each node the smallest node that it is joined with, over edges left[i] - right[i]."""
    parent = list(range(count))
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        while parent[a] != a:
            parent[a] = a = parent[parent[a]]
        while parent[b] != b:
            parent[b] = b = parent[parent[b]]
        if a < b:
            parent[b] = a
        else:
            parent[a] = b
    for node in range(count):  # parents come before their children
        parent[node] = parent[parent[node]]
    return np.asarray(parent, dtype=np.int64)


def in_order(labels: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Labels renumbered in the natural order of their names (2 before 10); -1 stays."""
    order = sorted(range(len(names)), key=lambda number: (natural(names[number]), names[number]))
    place = np.empty(len(names) + 1, dtype=np.int64)
    place[order], place[-1] = np.arange(len(names)), -1
    return place[labels], [names[number] for number in order]


def by_first(joined: np.ndarray, paired: np.ndarray, paths: list[str]) -> tuple[np.ndarray, list[str]]:
    """Classes of joined images in the order of their first image, which gives the name; -1 for the others."""
    roots, labels = np.unique(joined[paired], return_inverse=True)
    found = np.full(len(paired), -1, dtype=np.int64)
    found[paired] = labels
    return found, [paths[root] for root in roots]


def with_lone(
    labels: np.ndarray, classes: list[str], paired: np.ndarray, paths: list[str]
) -> tuple[np.ndarray, list[str]]:
    """The same with a class more for each image that is a negative only, named by its path."""
    lone = np.flatnonzero(~paired)
    labels[lone] = len(classes) + np.arange(len(lone))
    taken = set(classes)
    return labels, classes + [paths[i] if paths[i] not in taken else f"negative {paths[i]}" for i in lone]


def divided(index: Index, split: str, share: float, source: Path) -> Index:
    """The part of "train" or "val": about `share` of the classes are held out, by their names.

    An image that is a negative only belongs where a record of "train" names it, else to "val". Negatives that lie in
    the other part are left out of their records; a note counts them.
    """
    pairs = int(index.labels[index.paired].max()) + 1  # classes of negatives only come after these
    wanted = np.zeros(len(index.classes), dtype=bool)
    wanted[carve(index.classes[:pairs], share, split, source)] = True
    keep, relations = wanted[index.labels], index.relations
    chosen, values = keep[relations.query], relations.negatives.values
    # where a record of "train" names a lone negative, this is no image of "val"
    training = chosen if split == "train" else ~chosen
    named = np.zeros(len(keep), dtype=bool)
    named[values[training[relations.negatives.of()]]] = True
    keep |= ~index.paired & (named if split == "train" else ~named)
    number = np.cumsum(keep) - 1
    used, labels = np.unique(index.labels[keep], return_inverse=True)
    positives = relations.positives.kept(chosen, np.ones(len(relations.positives.values), dtype=bool))
    negatives = relations.negatives.kept(chosen, keep[values])
    part = replace(
        index, paths=[path for path, kept in zip(index.paths, keep, strict=True) if kept],
        image_lines=index.image_lines[keep], labels=labels, classes=[index.classes[label] for label in used],
        paired=index.paired[keep],
        groups=[name for name, kept in zip(index.groups, keep, strict=True) if kept] if index.groups else None,
        relations=Relations(
            number[relations.query[chosen]], Lists(number[positives.values], positives.starts),
            Lists(number[negatives.values], negatives.starts),
        ),
    )  # fmt: skip
    lost = int(np.count_nonzero(chosen[relations.negatives.of()])) - len(negatives.values)
    said = f"{lost:,} of {lost + len(negatives.values):,} negatives are images of the other split and are left out"
    return replace(part, notes=[*index.notes, *([said] if lost else [])])


def oddities(index: Index) -> list[str]:
    """What a user should know of these records, with counts."""
    relations, labels = index.relations, index.labels
    total, notes = len(relations), []
    if len(relations.positives.values) == total and not len(relations.negatives.values):
        different = len(np.unique(relations.query * len(index.paths) + relations.positives.values))
    else:
        different = len({hash((query, tuple(right), -1, *wrong)) for query, right, wrong in relations})
    repeated = total - different
    if repeated:
        notes.append(f"{repeated:,} of {total:,} records repeat an earlier one")
    own = int(np.count_nonzero(relations.query[relations.positives.of()] == relations.positives.values))
    if own:
        notes.append(f"{own:,} of {total:,} records have their query as a positive")
    alike = np.count_nonzero(labels[relations.query[relations.negatives.of()]] == labels[relations.negatives.values])
    if alike:
        notes.append(
            f"{alike:,} of {len(relations.negatives.values):,} negatives are of their query's class: a loss that reads "
            "labels takes them for positives"
        )
    lone = int(np.count_nonzero(~index.paired))
    if lone:
        notes.append(f"{lone:,} of {len(index.paths):,} images are negatives only, and each forms a class of its own")
    return notes
