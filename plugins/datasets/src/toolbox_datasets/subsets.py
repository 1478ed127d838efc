"""Which images of each class a split, a ratio or a few shots hold: the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""The constants of SplitMix64 (Steele, Lea and Flood 2014, "Fast Splittable Pseudorandom Number Generators")."""

SPLITS = ("train", "val", "test")


def require_split(split: str) -> None:
    """Raises ValueError unless `split` is "train", "val" or "test"."""
    if split not in SPLITS:
        raise ValueError(f"split must be 'train', 'val' or 'test', not {split!r}")


def require_held_out(**shares: float) -> None:
    """Raises ValueError unless each share is from 0 to below 1, and together they leave something to train on."""
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be from 0 (none) to below 1, not {share}")
    if sum(shares.values()) >= 1:
        raise ValueError(
            f"{' and '.join(f'{name} ({share})' for name, share in shares.items())} leave nothing to train on"
        )


def require_subset(ratio: float, shots: int | None, seed: int) -> None:
    """Raises ValueError for a ratio outside (0, 1], shots below 1, both at once, or a negative seed."""
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio must be above 0 and at most 1 (0.1 takes a tenth of each class), not {ratio}")
    if shots is not None and (isinstance(shots, bool) or shots != int(shots) or shots < 1):
        raise ValueError(f"shots must be a whole number of at least 1, or None for all images, not {shots}")
    if shots is not None and ratio != 1:
        raise ValueError(f"ratio={ratio} and shots={shots} both say how many images are taken: give one of them")
    if seed < 0 or seed != int(seed):
        raise ValueError(f"seed must be a whole number that is not negative: {seed}")


def lots(count: int, seed: int) -> np.ndarray:
    """(count,) uint64: one random number an item, all different, by SplitMix64.

    NumPy's own generators may draw otherwise in its next version; who is held out must not depend on that.
    """
    start = mixed(np.array([seed % 2**64], dtype=np.uint64))
    return mixed(start + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GOLDEN))


def mixed(state: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64: one to one."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(SECOND)
    return state ^ (state >> np.uint64(31))


def places(labels: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """(N,) which place each item has among those of its class, from 0, when these are ordered by `drawn`."""
    order = np.lexsort((drawn, labels))
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    found = np.empty(len(labels), dtype=np.int64)
    found[order] = np.arange(len(labels)) - np.repeat(starts, counts)
    return found


def portion(count: int, share: float) -> int:
    """`share` of `count`, rounded to the nearest whole number, halves up. Exact: 0.1 means 1/10."""
    part, whole = Fraction(str(share)).as_integer_ratio()
    return (2 * count * part + whole) // (2 * whole)


def divided(labels: np.ndarray, drawn: np.ndarray, split: str, val_share: float, test_share: float = 0) -> np.ndarray:
    """Indices of the items of a split, in their order, where "val" and "test" are shares of the images of each class.

    - `labels`: (N,) of all that is divided; `drawn`: `lots` of the same items.

    Each class gives `portion` of its images, at least one, and keeps at least one to train on. A class with fewer
    images than there are splits stays whole in "train". Every item is in exactly one split.
    """
    held = {"test": test_share, "val": val_share}
    wanted = [name for name, share in held.items() if share > 0]
    counts = np.bincount(labels)
    first = np.zeros(len(counts), dtype=np.int64)
    for name in wanted:
        later = len(wanted) - wanted.index(name)  # one image each for this split's followers and "train"
        taken = np.array(
            [
                min(max(1, portion(int(count), held[name])), int(count - start) - later) if count > len(wanted) else 0
                for count, start in zip(counts, first, strict=True)
            ],
            dtype=np.int64,
        )
        if name == split:
            place = places(labels, drawn)
            return np.flatnonzero((place >= first[labels]) & (place < (first + taken)[labels]))
        first += taken
    return np.flatnonzero(places(labels, drawn) >= first[labels]) if split == "train" else np.arange(0)


def too_small(labels: np.ndarray, splits: int) -> int:
    """How many classes have images, but fewer than one for each of `splits`; `divided` leaves them in "train"."""
    counts = np.bincount(labels)
    return int(((counts > 0) & (counts < splits)).sum())


def thinned(
    labels: np.ndarray, drawn: np.ndarray, ratio: float, shots: int | None, classes: Sequence[str]
) -> np.ndarray:
    """Indices of `ratio` of the images of each class, or of `shots` of each; a larger share holds all of a smaller one.

    Raises ValueError naming classes that would vanish, or have fewer images than `shots`.
    """
    if shots is None and ratio == 1:
        return np.arange(len(labels))
    counts = np.bincount(labels, minlength=len(classes))
    taken = np.array([shots if shots is not None else portion(int(count), ratio) for count in counts], dtype=np.int64)
    short = np.flatnonzero((counts > 0) & ((counts < taken) | (taken < 1)))
    if len(short):
        named = ", ".join(f"'{classes[label]}' has {counts[label]}" for label in short[:3])
        more = " ..." if len(short) > 3 else ""
        least = int(counts[short].min())
        if shots is not None:
            raise ValueError(
                f"shots={shots}, and {len(short):,} classes have fewer images ({named}{more}): take at most {least}"
            )
        needed = math.ceil(1e4 / (2 * least)) / 1e4
        raise ValueError(
            f"ratio={ratio} leaves {len(short):,} classes without an image ({named}{more}): take at least {needed:g}, "
            "or give shots"
        )
    return np.flatnonzero(places(labels, drawn) < taken[labels])


def notes_of(
    labels: np.ndarray, splits: int, split: str, *, own: int, kept: int, ratio: float, shots: int | None, seed: int
) -> list[str]:
    """What was left out of a split, with counts: classes that are too small to divide, and what thinned it out.

    - `labels`: of all images that were divided into `splits` splits; `own`: how many images the split got.
    - `kept`: how many of these `ratio` or `shots` left.
    """
    notes = []
    if splits > 1 and (small := too_small(labels, splits)):
        notes.append(f"{small:,} classes have too few images to divide: they are in 'train' alone")
    if kept < own:
        how = f"shots={shots}" if shots is not None else f"ratio={ratio:g}"
        notes.append(f"{how} takes {kept:,} of the {own:,} images of '{split}', with seed {seed}")
    return notes
