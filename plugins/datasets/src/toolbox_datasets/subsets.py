"""Splits of data, and subsets of a split: what may be asked for, what each holds, and the notes that say so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from toolbox.base import SPLITS, split_by_hash, take_by_hash
from toolbox_datasets.files import list_first

Split = Literal["train", "val", "test"]

LEAST = 2
"""Classes of a split: with one alone every neighbour is right, and there is nothing to tell apart."""


def require_split(split: str, names: Sequence[str] = SPLITS) -> None:
    """Raise ValueError unless `split` is one of `names`."""
    if split not in names:
        *first, last = map(repr, names)
        raise ValueError(f"split must be {', '.join(first)} or {last}, not {split!r}")


def require_held_out(**shares: float) -> None:
    """Raise ValueError unless each share is from 0 to below 1, and together they leave something to train on."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be from 0 (none) to below 1, not {share}")
    if sum(shares.values()) >= 1:
        raise ValueError(
            f"{' and '.join(f'{name} ({share})' for name, share in shares.items())} leave nothing to train on"
        )


def require_share(name: str, share: float) -> None:
    """Raise ValueError unless 0 < `share` < 1."""
    if not 0 < share < 1:
        raise ValueError(f"{name} must lie between 0 and 1 (0.1 holds out a tenth of the classes), not {share}")


def require_subset(ratio: float, shots: int | None, seed: int) -> None:
    """Raise ValueError for a ratio outside (0, 1], shots below 1, both at once, or a negative seed."""
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1 (0.1 takes a tenth of each class), not {ratio}")
    if shots is not None and (isinstance(shots, bool) or shots != int(shots) or shots < 1):
        raise ValueError(f"shots must be a whole number of at least 1, or None for all images, not {shots}")
    if shots is not None and ratio != 1:
        raise ValueError(f"ratio={ratio} and shots={shots} both say how many images are taken: give one of them")
    if seed < 0 or seed != int(seed):
        raise ValueError(f"seed must be a whole number that is not negative: {seed}")


def carve_classes(classes: Sequence[object], share: float, split: str, source: object) -> list[int]:
    """Indices of the classes of the split "train" or "val"; "val" gets about `share` of them, as of `split_by_hash`.

    - `classes`: their names or numbers; `source`: what they were read from, for the message.

    Raises ValueError if there are fewer than two classes for each.
    """
    if len(classes) < 2 * LEAST:
        raise ValueError(
            f"{source}: 'train' and 'val' share no class and take {LEAST} each, and there are {len(classes)}: use "
            "another split, or more data"
        )
    return split_by_hash([str(name) for name in classes], val_share=share, least=LEAST)[split].tolist()


def choose_subset(
    labels: np.ndarray, keys: Sequence[str], ratio: float, shots: int | None, seed: int, classes: Sequence[str]
) -> np.ndarray:
    """Indices of about `ratio` of the images of each class, or of `shots` of each, as of `take_by_hash`.

    Raises ValueError naming classes that have fewer images than `shots`.
    """
    counts = np.bincount(labels, minlength=len(classes))
    short = np.flatnonzero((counts > 0) & (counts < (shots or 0)))
    if len(short):
        raise ValueError(
            f"shots={shots}, and {len(short):,} classes have fewer images ({_list_counts(counts, short, classes)}): "
            f"take at most {int(counts[short].min())}"
        )
    return take_by_hash(keys, ratio=ratio, shots=shots, seed=seed, labels=labels)


def describe_small_classes(labels: np.ndarray, splits: int, classes: Sequence[str]) -> list[str]:
    """A note of classes that are too small to divide.

    - `labels`: of all images that were divided into `splits` splits; `classes`: names.
    """
    counts = np.bincount(labels)
    small = np.flatnonzero((counts > 0) & (counts < splits))
    if splits == 1 or not len(small):
        return []
    return [
        f"{len(small):,} classes have fewer than {splits} images, too few to divide: they are in 'train' alone "
        f"({_list_counts(counts, small, classes)})"
    ]


def _list_counts(counts: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> str:
    """How many images the first of some classes have."""
    return list_first([f"'{classes[label]}' has {counts[label]}" for label in labels.tolist()])
