"""Batches of pairs: an item beside another one of its class, or what the records of the data say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolbox.base import Dataset
from toolbox.utils.class_index import ClassIndex
from toolbox.utils.epoch_sampler import EpochSampler, check_batch_size, check_fits


class Pairs(EpochSampler):
    """Every item is a query once an epoch, beside a random other item of its class; or every record, where the data
    name pairs themselves (`Dataset.records`, such as datasets.Records), beside a random one of its positives.

    A batch has 2 + `negatives` blocks: the queries in random order, the partner of each, then as many different random
    negatives of each query's own record. An item that is alone in its class is its own partner; the augment then makes
    the difference. A last, smaller batch is left out. To draw by labels from data with records, use retrieval.PK.

    - `batch_size`: pairs in a batch, of all processes together. The attribute of this name counts items instead, as
      the contract of samplers has it: 2 + `negatives` times as many. `pairs` keeps the argument.
    - `negatives`: explicit negatives for each pair, from its record. With `cross_view=True` of retrieval.Embedder they
      stand among the candidates of every query, so they add to the other pairs of the batch.

    Raises ValueError when `batch_size` is below 1 or larger than the data, without labels where there are no records,
    and where a record has no positive or fewer negatives than asked for.
    """

    def __init__(self, batch_size: int, negatives: int = 0):
        check_batch_size(batch_size)
        if negatives < 0:
            raise ValueError(f"negatives={negatives}, and a pair takes 0 of them or more.")
        self.pairs, self.negatives, self.blocks = batch_size, negatives, 2 + negatives
        self.batch_size = self.blocks * batch_size

    def count_batches(self, dataset: Dataset) -> int:
        self._records: Lists | None = None
        if dataset.records is not None:
            self._take(dataset)
            return len(self._queries) // self.pairs
        if self.negatives:
            raise ValueError(
                f"negatives={self.negatives} takes records that name them, and {type(dataset).__name__} has none. "
                "Try datasets.Records, whose file the command `mine_negatives` can write, or negatives=0."
            )
        self._classes = ClassIndex(dataset, "retrieval.Pairs")
        check_fits(self.pairs, dataset)
        return len(dataset) // self.pairs

    def _take(self, dataset: Dataset) -> None:
        """Keep the records. Raises ValueError where they are too few, or some name too little."""
        queries, positives, negatives = [], [], []
        for query, right, wrong in dataset.records:
            queries.append(query)
            positives.append(right)
            negatives.append(wrong if len(wrong) < 2 else list(dict.fromkeys(wrong)))
        self._queries = np.asarray(queries, dtype=np.int64)
        self._records, self._wrong = Lists(positives), Lists(negatives)
        total, sizes = len(queries), self._wrong.sizes
        if self.pairs > total:
            raise ValueError(
                f"batch_size={self.pairs} is larger than the data, which have {total} records. "
                f"Try batch_size={max(1, total)} or less."
            )
        if without := int((self._records.sizes == 0).sum()):
            raise ValueError(f"{without} of {total} records name no positive: remove them, or use retrieval.PK.")
        if short := int((sizes < self.negatives).sum()):
            raise ValueError(
                f"{short} of {total} records name fewer than negatives={self.negatives} different negatives. "
                f"The largest possible number is negatives={sizes.min()}."
            )

    def plan(self, rng: np.random.Generator) -> np.ndarray:
        columns = self._by_class(rng) if self._records is None else self._by_record(rng)
        return np.stack([column.reshape(-1, self.pairs) for column in columns], axis=1).reshape(-1)

    def _by_class(self, rng: np.random.Generator) -> list[np.ndarray]:
        classes = self._classes
        count = len(self) * self.pairs
        ordered = classes.shuffled(rng)
        place = np.empty_like(ordered)
        place[ordered] = np.arange(len(ordered))
        queries = rng.permutation(len(ordered))[:count]
        start, size = classes.starts[classes.numbers[queries]], classes.sizes[classes.numbers[queries]]
        # 1 .. size-1 places further round the class: any other item equally likely, itself only when alone.
        step = 1 + (rng.random(count) * (size - 1)).astype(np.int64)
        return [queries, ordered[start + (place[queries] - start + step) % size]]

    def _by_record(self, rng: np.random.Generator) -> list[np.ndarray]:
        chosen = rng.permutation(len(self._queries))[: len(self) * self.pairs]
        return [
            self._queries[chosen],
            *self._records.different(chosen, 1, rng),
            *self._wrong.different(chosen, self.negatives, rng),
        ]

    def notes(self) -> list[str]:
        if self._records is not None:
            return self._notes_of_records()
        total, alone = len(self._classes.numbers), int((self._classes.sizes == 1).sum())
        dropped = total % self.pairs
        notes = [f"{alone} of {total} items are alone in their class and stand as their own partner"] if alone else []
        if dropped:
            notes.append(f"{dropped} of {total} items are no query in an epoch, others every time")
        return notes

    def _notes_of_records(self) -> list[str]:
        total, sizes, notes = len(self._queries), self._wrong.sizes, []
        if not self.negatives and sizes.any():
            least = f", up to negatives={sizes.min()}" if sizes.min() else ", once every record has some"
            notes.append(
                f"{int((sizes > 0).sum())} of {total} records name negatives, and none is used: "
                f"set negatives=1 of retrieval.Pairs{least}"
            )
        if dropped := total % self.pairs:
            notes.append(f"{dropped} of {total} records are left out each epoch, others every time")
        return notes


class Lists:
    """Lists of different lengths end to end, to draw from many of them at once.

    - `sizes`: (N,) how long each is.
    """

    def __init__(self, lists: Sequence[Sequence[int]]) -> None:
        self.sizes = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._values = np.fromiter((value for one in lists for value in one), dtype=np.int64)

    def different(self, which: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
        """`count` arrays like `which`: from each of these lists as many different places, all equally likely."""
        drawn: list[np.ndarray] = []
        for number in range(count):
            place = (rng.random(len(which)) * (self.sizes[which] - number)).astype(np.int64)
            # count past the places that are taken, from the first to the last
            for taken in np.sort(drawn, axis=0) if drawn else ():
                place += place >= taken
            drawn.append(place)
        return [self._values[self._starts[which] + place] for place in drawn]
