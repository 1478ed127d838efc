"""Which items of a dataset belong to which class, laid out for samplers."""

from __future__ import annotations

import numpy as np

from toolbox.base import Dataset


class ClassIndex:
    """Classes are numbered 0..C-1 in the order of their labels; labels that no item has leave no gap.

    - `numbers`: (N,) class number of each item.
    - `sizes`: (C,) how many items a class has.
    - `starts`: (C,) where the items of a class begin in an array sorted by class.

    Raises ValueError when the dataset has no labels; `sampler` is the name to blame.
    """

    def __init__(self, dataset: Dataset, sampler: str) -> None:
        if dataset.labels is None:
            raise ValueError(f"{sampler} needs labels, and {type(dataset).__name__} has none. Try core.Shuffled.")
        self.numbers = np.unique(np.asarray(dataset.labels), return_inverse=True)[1]
        self.sizes = np.bincount(self.numbers)
        self.starts = np.cumsum(self.sizes) - self.sizes

    def shuffled(self, rng: np.random.Generator) -> np.ndarray:
        """(N,) item indices, sorted by class and in random order within each."""
        return np.argsort(self.numbers + rng.random(len(self.numbers)))
