"""Which of an item's stored views, and of its texts, a draw gets, and what made it: functions of numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_STEP, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_VIEWS, _TEXTS = 1, 0x2545F4914F6CDD1D
"""Streams of randomness: the text of a draw says nothing of its view."""


def choose_view(seed: int, draws: Sequence[int], views: int) -> np.ndarray:
    """The view, below `views`, that each draw gets, as if at random."""
    return _choose(seed, draws, np.full(len(draws), views), _VIEWS)


def choose_text(seed: int, draws: Sequence[int], counts: Sequence[int] | np.ndarray) -> np.ndarray:
    """The text that each draw gets, as if at random; `counts`: how many texts each draw's item has."""
    return _choose(seed, draws, np.asarray(counts), _TEXTS)


def get_draw(index: int, view: int, items: int) -> int:
    """The draw that seeds the augmentation of a stored view: view k of item i is what epoch k of plain order draws."""
    return view * items + index


def _choose(seed: int, draws: Sequence[int], counts: np.ndarray, stream: int) -> np.ndarray:
    """A number below its count for each draw (Steele et al. 2014: SplitMix64)."""
    if (counts == 1).all():
        return np.zeros(len(draws), np.int64)
    with np.errstate(over="ignore"):
        x = np.asarray(draws, np.uint64) + np.uint64(seed % 2**63) * np.uint64(_FIRST)
        x = (x + np.uint64(stream)) * np.uint64(_STEP)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(_FIRST)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(_SECOND)
    return ((x ^ (x >> np.uint64(31))) % counts.astype(np.uint64)).astype(np.int64)
