"""Batches of pairs: an item beside another one of its class."""

from __future__ import annotations

import numpy as np

from toolbox.base import Dataset
from toolbox.core.classes import Classes
from toolbox.core.epoch_sampler import EpochSampler, check_batch_size, check_fits


class Pairs(EpochSampler):
    """Every item is a query once an epoch, beside a random other item of its class.

    A batch has two blocks (`blocks` is 2): the queries in random order, then the partner of each. An item that is
    alone in its class is its own partner; the augment then makes the difference. A last, smaller batch is left out.

    - `batch_size`: pairs in a batch, of all processes together. The attribute of this name counts items instead, as
      the contract of samplers has it: twice as many. `pairs` keeps the argument.

    Raises ValueError without labels, and when `batch_size` is below 1 or larger than the dataset.
    """

    blocks = 2

    def __init__(self, batch_size: int):
        check_batch_size(batch_size)
        self.pairs, self.batch_size = batch_size, 2 * batch_size

    def look(self, dataset: Dataset) -> int:
        self._classes = Classes(dataset, "core.Pairs")
        check_fits(self.pairs, dataset)
        return len(dataset) // self.pairs

    def plan(self, rng: np.random.Generator) -> np.ndarray:
        classes = self._classes
        count = len(self) * self.pairs
        ordered = classes.shuffled(rng)
        place = np.empty_like(ordered)
        place[ordered] = np.arange(len(ordered))
        queries = rng.permutation(len(ordered))[:count]
        start, size = classes.starts[classes.of[queries]], classes.sizes[classes.of[queries]]
        # 1 .. size-1 places further round the class: any other item equally likely, itself only when alone.
        step = 1 + (rng.random(count) * (size - 1)).astype(np.int64)
        partners = ordered[start + (place[queries] - start + step) % size]
        blocks = np.stack([queries.reshape(-1, self.pairs), partners.reshape(-1, self.pairs)], axis=1)
        return blocks.reshape(-1)

    def notes(self) -> list[str]:
        total, alone = len(self._classes.of), int((self._classes.sizes == 1).sum())
        dropped = total % self.pairs
        notes = [f"{alone} of {total} items are alone in their class and stand as their own partner"] if alone else []
        if dropped:
            notes.append(f"{dropped} of {total} items are no query in an epoch, others every time")
        return notes
