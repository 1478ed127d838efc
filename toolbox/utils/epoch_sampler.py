"""The base of samplers that plan an epoch: one table of batches, drawn from (seed, epoch)."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from toolbox.base import Dataset, Sampler


class EpochSampler(Sampler):
    """A sampler that plans a whole epoch at once and keeps only the plan of the present one.

    Subclasses override `count_batches` and `plan`; a batch is then a pure function of its number.
    """

    def setup(self, dataset: Dataset, seed: int) -> None:
        self._seed = seed
        self._epoch: int | None = None
        self._batches = self.count_batches(dataset)

    def __len__(self) -> int:
        return self._batches

    def batch(self, number: int) -> list[int]:
        epoch, position = divmod(number, self._batches)
        if epoch != self._epoch:
            self._table = self.plan(np.random.default_rng((self._seed, epoch)))
            self._epoch = epoch
        start = position * self.batch_size
        return self._table[start : start + self.batch_size].tolist()

    @abstractmethod
    def count_batches(self, dataset: Dataset) -> int:
        """Read what is needed of the dataset, once; returns the batches in an epoch.

        Raises ValueError when it has too little.
        """

    @abstractmethod
    def plan(self, rng: np.random.Generator) -> np.ndarray:
        """All indices of one epoch, batch after batch."""


def check_batch_size(batch_size: int) -> None:
    """Raises ValueError unless a batch holds something."""
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}, and a batch holds at least 1 item.")


def check_fits(batch_size: int, dataset: Dataset) -> None:
    """Raises ValueError when the dataset is smaller than one batch."""
    if batch_size > len(dataset):
        raise ValueError(
            f"batch_size={batch_size} is larger than the dataset, which has {len(dataset)} items. "
            f"Try batch_size={max(1, len(dataset))} or less."
        )
