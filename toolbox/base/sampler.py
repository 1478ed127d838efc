"""The extension point for what goes into a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod

from toolbox.base.dataset import Dataset


class Sampler(ABC):
    """Batches as a pure function of their number, so that a run continues anywhere without replaying data.

        class InOrder(Sampler):
            def __init__(self, batch_size: int = 32):
                self.batch_size = batch_size
            def setup(self, dataset, seed):
                self.count = len(dataset)
            def __len__(self):
                return -(-self.count // self.batch_size)
            def batch(self, number):
                start = (number % len(self)) * self.batch_size
                return list(range(start, min(start + self.batch_size, self.count)))

    A batch is the global one, of all processes together; the loader gives each process its share.

    - `batch_size`: the (largest) number of indices in a batch.
    - `blocks`: how many equally long blocks a batch consists of, item i of each block belonging together.
    """

    batch_size: int
    blocks: int = 1

    @abstractmethod
    def setup(self, dataset: Dataset, seed: int) -> None:
        """Look at the dataset once. Raises ValueError when it cannot fill a batch, with what to change."""

    @abstractmethod
    def __len__(self) -> int:
        """Batches in an epoch."""

    @abstractmethod
    def batch(self, number: int) -> list[int]:
        """The indices of batch `number` of the run; `number // len(self)` is its epoch."""

    def draws(self, number: int) -> list[tuple[int, int]]:
        """Batch `number` as (draw, index): `draw` is the position in the run's global order; it seeds the item."""
        return [(number * self.batch_size + i, index) for i, index in enumerate(self.batch(number))]

    def notes(self) -> list[str]:
        """What a user should know of this dataset's batches (repeated or dropped items), with counts."""
        return []
