"""Class-balanced batches: P classes with K images each."""

from __future__ import annotations

from bisect import bisect_left
from typing import Literal, get_args

import numpy as np

from toolbox.base import Dataset
from toolbox.utils.class_index import ClassIndex
from toolbox.utils.epoch_sampler import EpochSampler

ShortClasses = Literal["repeat", "drop", "error"]


class PK(EpochSampler):
    """Batches of `classes` different classes with `per_class` images each.

    A batch holds one image of each class, then another of each ..., so that neighbours, which `train_dataloader.mix`
    mixes, are of two classes. Each epoch shuffles the images of every class and cuts them into groups of `per_class`;
    the groups are put into as few full batches as possible without a class twice in a batch.

    - `classes`: different classes in a batch.
    - `per_class`: images of each class.
    - `short_classes`: what happens to images that fill no group. "repeat": images of the class are drawn again, and
      so are random groups for the seats that stay empty in the last batches; every image is seen at least once an
      epoch. "drop": incomplete groups, and with them classes smaller than `per_class`, are left out, and so are
      random groups that fill no batch. "error": ValueError when a class is smaller than `per_class`, else as "repeat".

    The numbers of repeated and dropped images are the same every epoch; `notes()` gives them.
    Raises ValueError without labels, for numbers below 1, and when there are too few classes.
    """

    def __init__(self, classes: int, per_class: int, short_classes: ShortClasses = "repeat"):
        if classes < 1 or per_class < 1:
            raise ValueError(
                f"a batch holds at least 1 image of 1 class, not classes={classes}, per_class={per_class}."
            )
        if short_classes not in get_args(ShortClasses):
            raise ValueError(
                f"short_classes={short_classes!r} does not exist. Try one of {', '.join(get_args(ShortClasses))}."
            )
        self.classes, self.per_class, self.short_classes = classes, per_class, short_classes
        self.batch_size = classes * per_class

    def count_batches(self, dataset: Dataset) -> int:
        self._classes = ClassIndex(dataset, "retrieval.PK")
        sizes = self._classes.sizes
        self._short = int((sizes < self.per_class).sum())
        if self.short_classes == "error" and self._short:
            raise ValueError(
                f"{self._short} of {len(sizes)} classes have fewer than per_class={self.per_class} images. "
                f"Try per_class={sizes.min()}, short_classes='repeat' or short_classes='drop'."
            )
        drop = self.short_classes == "drop"
        self._groups = sizes // self.per_class if drop else -(-sizes // self.per_class)
        usable = int((self._groups > 0).sum())
        if usable < self.classes:
            few = f" with at least {self.per_class} images" if drop else ""
            advice = f"Try classes={usable} or less" if usable else "Try a smaller per_class"
            raise ValueError(
                f"a batch takes {self.classes} different classes, and {type(dataset).__name__} has {usable}{few}. "
                f"{advice}{', or short_classes=' + repr('repeat') if drop else ''}."
            )
        return (
            count_most_batches(self._groups, self.classes) if drop else count_fewest_batches(self._groups, self.classes)
        )

    def plan(self, rng: np.random.Generator) -> np.ndarray:
        classes, drop = self._classes, self.short_classes == "drop"
        ordered = classes.shuffled(rng)
        shape = len(self), self.classes, self.per_class
        table = make_pk_table(ordered, classes.starts, classes.sizes, self._groups, shape, drop, rng)
        return table.transpose(0, 2, 1).reshape(-1)

    def notes(self) -> list[str]:
        total, drawn = len(self._classes.numbers), len(self) * self.batch_size
        notes = []
        if self._short:
            fate = "are left out" if self.short_classes == "drop" else "repeat images within a batch"
            few = f"{self._short} of {len(self._classes.sizes)} classes have fewer than {self.per_class} images"
            notes.append(f"{few} and {fate}")
        return notes + describe_coverage(drawn, total)


def make_pk_table(
    ordered: np.ndarray,
    starts: np.ndarray,
    sizes: np.ndarray,
    groups: np.ndarray,
    shape: tuple[int, int, int],
    drop: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """(batches, classes, per_class) item indices, no class twice in a batch.

    - `ordered`: items class by class, those of class c at `starts[c]` and `sizes[c]` long, in random order.
    - `groups`: (C,) groups of `per_class` that each class has; raised, or with `drop` lowered, to fill the table.
    - `shape`: (batches, classes, per_class); batches at least `count_fewest_batches`, or with `drop` at most
      `count_most_batches`.
    """
    batches, classes, per_class = shape
    groups = fit_groups(groups, batches * classes, batches, drop, rng)
    sequence = rng.permutation(len(groups))
    seats = groups[sequence] * per_class
    begins = np.cumsum(seats) - seats
    nth = np.arange(batches * classes * per_class) - np.repeat(begins, seats)
    # Going round a class again keeps the images of a group different as long as the class has enough.
    nth %= np.repeat(sizes[sequence], seats)
    items = ordered[np.repeat(starts[sequence], seats) + nth]
    table = np.empty(shape, dtype=np.int64)
    places = seat_batches(groups[sequence], batches, classes, rng), np.repeat(range(classes), batches)
    table[places] = items.reshape(-1, per_class)
    return table


def count_fewest_batches(groups: np.ndarray, classes: int) -> int:
    """The fewest batches of `classes` different classes that hold all groups; `groups` (C,) counts them by class."""
    return max(-(-int(groups.sum()) // classes), int(groups.max()))


def count_most_batches(groups: np.ndarray, classes: int) -> int:
    """The most batches of `classes` different classes that the groups fill."""
    limit = int(groups.sum()) // classes
    # how many can be filled, and one more cannot
    return 1 + bisect_left(range(2, limit + 1), True, key=lambda n: np.minimum(groups, n).sum() < classes * n)


def describe_coverage(drawn: int, total: int) -> list[str]:
    """Notes on an epoch that draws `drawn` images of `total`."""
    if drawn > total:
        return [f"{drawn - total} of {drawn} images of an epoch are repeats, so that every image is seen"]
    return [f"{total - drawn} of {total} images are left out each epoch"] if drawn < total else []


def fit_groups(groups: np.ndarray, total: int, most: int, drop: bool, rng: np.random.Generator) -> np.ndarray:
    """`groups` with the sum `total`, none above `most`: raised, or with `drop` lowered."""
    if drop:
        return remove_groups(np.minimum(groups, most), total, rng)
    return add_groups(groups, total, most, rng)


def add_groups(groups: np.ndarray, total: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """`groups` raised to the sum `total`, evenly over random classes, none above `most`."""
    groups = groups.copy()
    missing = total - int(groups.sum())
    while missing:
        open_classes = np.flatnonzero(groups < most)
        if missing < len(open_classes):
            groups[rng.choice(open_classes, missing, replace=False)] += 1
            break
        rounds = min(missing // len(open_classes), most - int(groups[open_classes].max()))
        groups[open_classes] += rounds
        missing -= rounds * len(open_classes)
    return groups


def remove_groups(groups: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """`groups` lowered to the sum `total`, every group equally likely to go."""
    if groups.sum() == total:
        return groups
    kept = rng.permutation(np.repeat(np.arange(len(groups)), groups))[:total]
    return np.bincount(kept, minlength=len(groups))


def seat_batches(groups: np.ndarray, batches: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    """The batch of every group, class after class, so that no class gets a batch twice.

    Seat 0 of all batches is filled in a random order of the batches, then seat 1 in another, and so on. A class
    takes consecutive places of these orders, hence different batches, except where it begins in one order and ends
    in the next: there the batches that it already has are moved behind its end.

    - `groups`: (C,) groups of each class, at most `batches` each, together `batches * classes`.
    """
    ends = np.cumsum(groups)
    orders = [rng.permutation(batches)]
    for seat in range(1, classes):
        order, border = rng.permutation(batches), seat * batches
        crossing = np.searchsorted(ends, border, side="right")
        after = int(ends[crossing] - border)
        before = int(groups[crossing]) - after
        if before > 0:
            taken = np.zeros(batches, dtype=bool)
            taken[orders[-1][batches - before :]] = True
            free = order[~taken[order]]
            order = np.concatenate([free[:after], rng.permutation(np.concatenate([order[taken[order]], free[after:]]))])
        orders.append(order)
    return np.concatenate(orders)
