"""Which of an item's stored views a draw gets, and what made it: functions of numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def choose_view(seed: int, draws: Sequence[int], views: int) -> np.ndarray:
    """The view, below `views`, that each draw gets, as if at random (Steele et al. 2014: SplitMix64)."""
    if views == 1:
        return np.zeros(len(draws), np.int64)
    with np.errstate(over="ignore"):
        x = np.asarray(draws, np.uint64) + np.uint64(seed % 2**63) * np.uint64(_FIRST)
        x = (x + np.uint64(1)) * np.uint64(_STEP)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return ((x ^ (x >> np.uint64(31))) % np.uint64(views)).astype(np.int64)


def get_draw(index: int, view: int, items: int) -> int:
    """The draw that seeds the augmentation of a stored view: view k of item i is what epoch k of plain order draws."""
    return view * items + index
