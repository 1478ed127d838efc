"""Class-balanced batches out of few super-classes, so that negatives are hard."""

from __future__ import annotations

from typing import Literal

import numpy as np

from toolbox.base import Dataset
from toolbox.utils.class_index import ClassIndex
from toolbox.utils.epoch_sampler import EpochSampler
from toolbox_retrieval.pk import (
    count_fewest_batches,
    count_most_batches,
    describe_coverage,
    fit_groups,
    make_pk_table,
    seat_batches,
)


class GroupPK(EpochSampler):
    """Batches of `classes` different classes with `per_class` images each, from only `groups` super-classes.

    Every super-class gives the same number of classes to a batch. Chairs are then compared with chairs: the negatives
    of a batch are harder than those of `PK`, and each super-class is seen as often as its images demand. As in `PK`, a
    batch holds one image of each class, then another of each ...

    - `groups`: super-classes in a batch.
    - `classes`: different classes in a batch, a multiple of `groups`.
    - `per_class`: images of each class.
    - `short_classes`: what happens to images that fill no group of `per_class`, or no batch: "repeat" or "drop", as in
      `retrieval.PK`.

    Super-classes with too few classes are treated as one. Raises ValueError without labels or super-classes, for
    numbers below 1 or that do not divide, and when the data fill no batch.
    """

    def __init__(self, groups: int, classes: int, per_class: int, short_classes: Literal["repeat", "drop"] = "repeat"):
        if min(groups, classes, per_class) < 1:
            raise ValueError(f"groups={groups}, classes={classes} and per_class={per_class} must be 1 or more.")
        if classes % groups:
            near = max(groups, classes - classes % groups)
            raise ValueError(f"classes={classes} is no multiple of groups={groups}: try classes={near}.")
        if short_classes not in ("repeat", "drop"):
            raise ValueError(f"short_classes={short_classes!r} does not exist. Try 'repeat' or 'drop'.")
        self.groups, self.classes, self.per_class, self.short_classes = groups, classes, per_class, short_classes
        self.batch_size = classes * per_class

    def count_batches(self, dataset: Dataset) -> int:
        if dataset.groups is None:
            raise ValueError(
                f"retrieval.GroupPK needs super-classes, and {type(dataset).__name__} has none. Try retrieval.PK."
            )
        self._classes = ClassIndex(dataset, "retrieval.GroupPK")
        drop, share = self.short_classes == "drop", self.classes // self.groups
        sizes = self._classes.sizes
        self._parts = sizes // self.per_class if drop else -(-sizes // self.per_class)
        self._members = self._group_classes(dataset, share)
        count_batches = count_most_batches if drop else count_fewest_batches
        self._blocks = np.array([count_batches(self._parts[members], share) for members in self._members])
        if len(self._blocks) < self.groups or (drop and np.count_nonzero(self._blocks) < self.groups):
            raise ValueError(
                f"a batch takes {share} classes of each of {self.groups} super-classes, and "
                f"{type(dataset).__name__} has {int(np.count_nonzero(self._blocks))} with so many. "
                f"Try fewer groups, or fewer classes."
            )
        return count_batches(self._blocks, self.groups)

    def _group_classes(self, dataset: Dataset, share: int) -> list[np.ndarray]:
        """The class numbers of each super-class; those that cannot give `share` classes are one."""
        names, group_of = np.unique(np.asarray(dataset.groups, dtype=str), return_inverse=True)
        first = np.full(len(self._classes.sizes), -1)
        first[self._classes.numbers[::-1]] = group_of[::-1]
        mixed = np.flatnonzero(np.bincount(self._classes.numbers, weights=(group_of != first[self._classes.numbers])))
        if len(mixed):
            raise ValueError(f"{len(mixed)} classes have items of several super-classes: a class belongs to one.")
        usable = self._parts > 0
        members = [np.flatnonzero((first == group) & usable) for group in range(len(names))]
        enough = [classes for classes in members if len(classes) >= share]
        rest = np.concatenate([np.empty(0, dtype=np.int64), *[c for c in members if len(c) < share]])
        self._small = sum(0 < len(classes) < share for classes in members)
        self._lost = 0 if len(rest) >= share else len(rest)
        if self._lost and self.short_classes == "repeat":
            raise ValueError(
                f"the super-classes with fewer than {share} classes have only {len(rest)} together. "
                f"Try classes={self.groups * max(1, len(rest))}, or short_classes='drop'."
            )
        return [*enough, rest] if len(rest) >= share else enough

    def plan(self, rng: np.random.Generator) -> np.ndarray:
        batches, drop, share = len(self), self.short_classes == "drop", self.classes // self.groups
        total = batches * self.groups
        blocks = fit_groups(self._blocks, total, batches, drop, rng)
        ordered = self._classes.shuffled(rng)
        sequence = rng.permutation(len(blocks))
        tables = []
        for group in sequence:
            if blocks[group]:  # all of it may have been dropped
                members, shape = self._members[group], (blocks[group], share, self.per_class)
                starts, sizes = self._classes.starts[members], self._classes.sizes[members]
                tables.append(make_pk_table(ordered, starts, sizes, self._parts[members], shape, drop, rng))
        table = np.empty((batches, self.groups, share, self.per_class), dtype=np.int64)
        places = seat_batches(blocks[sequence], batches, self.groups, rng), np.repeat(range(self.groups), batches)
        table[places] = np.concatenate(tables)
        return table.reshape(batches, self.classes, self.per_class).transpose(0, 2, 1).reshape(-1)

    def notes(self) -> list[str]:
        total, drawn = len(self._classes.numbers), len(self) * self.batch_size
        share = self.classes // self.groups
        notes = []
        if self._small:
            fate = "are left out" if self._lost else "stand together as one"
            notes.append(f"{self._small} super-classes with fewer than {share} classes {fate}")
        return notes + describe_coverage(drawn, total)
