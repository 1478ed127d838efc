"""Samplers that look at no label."""

from __future__ import annotations

import numpy as np

from toolbox.base import Dataset
from toolbox.core.samplers.epoch_sampler import EpochSampler, check_batch_size, check_fits


class Shuffled(EpochSampler):
    """Every item once an epoch, in a new random order each.

    - `batch_size`: items in a batch, of all processes together.
    - `drop_last`: whether a last, smaller batch of an epoch is left out.

    Raises ValueError when `batch_size` is below 1 or larger than the dataset.
    """

    def __init__(self, batch_size: int, drop_last: bool = True):
        check_batch_size(batch_size)
        self.batch_size, self.drop_last = batch_size, drop_last

    def look(self, dataset: Dataset) -> int:
        check_fits(self.batch_size, dataset)
        self._count = len(dataset)
        return self._count // self.batch_size if self.drop_last else -(-self._count // self.batch_size)

    def plan(self, rng: np.random.Generator) -> np.ndarray:
        return rng.permutation(self._count)

    def notes(self) -> list[str]:
        dropped = self._count % self.batch_size if self.drop_last else 0
        return [f"{dropped} of {self._count} items are left out each epoch, others every time"] if dropped else []


class Sequential(EpochSampler):
    """Every item once an epoch, in the order of the dataset; the last batch may be smaller.

    - `batch_size`: items in a batch, of all processes together.

    Raises ValueError when `batch_size` is below 1 or larger than the dataset.
    """

    def __init__(self, batch_size: int):
        check_batch_size(batch_size)
        self.batch_size = batch_size

    def look(self, dataset: Dataset) -> int:
        check_fits(self.batch_size, dataset)
        self._count = len(dataset)
        return -(-self._count // self.batch_size)

    def plan(self, rng: np.random.Generator) -> np.ndarray:
        return np.arange(self._count)
