"""Samplers that look at no label."""

from __future__ import annotations

import numpy as np

from toolbox.base import Dataset
from toolbox.utils.epoch_sampler import EpochSampler, check_batch_size, check_fits


class Shuffled(EpochSampler):
    """Every item once an epoch, in a new random order each.

    - `batch_size`: items in a batch, of all processes together.
    - `drop_last`: whether a last, smaller batch of an epoch is left out.
    - `repeats`: how many orders, independent of each other, go side by side: a batch has as many blocks of
      `batch_size` items, one of each order, for a model that repeats its training. The first order is that of
      `repeats=1`. The attribute `batch_size` counts all items of a batch, as the contract has it.

    Raises ValueError when `batch_size` is below 1 or larger than the dataset, and for `repeats` below 1.
    """

    def __init__(self, batch_size: int, drop_last: bool = True, repeats: int = 1):
        check_batch_size(batch_size)
        if repeats < 1:
            raise ValueError(f"repeats={repeats}, and a batch has at least 1 order of the items.")
        self.items, self.drop_last, self.blocks = batch_size, drop_last, repeats
        self.batch_size = repeats * batch_size

    def count_batches(self, dataset: Dataset) -> int:
        check_fits(self.items, dataset)
        self._count = len(dataset)
        return self._count // self.items if self.drop_last else -(-self._count // self.items)

    def plan(self, rng: np.random.Generator) -> np.ndarray:
        orders = np.stack([rng.permutation(self._count) for _ in range(self.blocks)])
        if self.blocks == 1:
            return orders[0]
        starts = range(0, self._count, self.items)
        return np.concatenate([orders[:, start : start + self.items].reshape(-1) for start in starts])

    def notes(self) -> list[str]:
        dropped = self._count % self.items if self.drop_last else 0
        return [f"{dropped} of {self._count} items are left out each epoch, others every time"] if dropped else []


class Sequential(EpochSampler):
    """Every item once an epoch, in the order of the dataset; the last batch may be smaller.

    - `batch_size`: items in a batch, of all processes together.

    Raises ValueError when `batch_size` is below 1 or larger than the dataset.
    """

    def __init__(self, batch_size: int):
        check_batch_size(batch_size)
        self.batch_size = batch_size

    def count_batches(self, dataset: Dataset) -> int:
        check_fits(self.batch_size, dataset)
        self._count = len(dataset)
        return -(-self._count // self.batch_size)

    def plan(self, rng: np.random.Generator) -> np.ndarray:
        return np.arange(self._count)
