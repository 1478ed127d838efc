"""Batches of pairs: an item and another one of its class, or a pair of the data's records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from toolbox.base import Dataset
from toolbox.utils.class_index import ClassIndex
from toolbox.utils.epoch_sampler import EpochSampler, check_batch_size, check_fits

Records = Sequence[tuple[int, Sequence[int], Sequence[int]]]


class Pairs(EpochSampler):
    """Batches of pairs: every item is a query once an epoch, paired with a random other item of its class.

    Where the data name pairs themselves (`Dataset.records`, such as datasets.Records), every record is a query once an
    epoch, paired with a random one of its positives.

    A batch has 2 + `negatives` blocks: the queries in random order, the partner of each, then as many different random
    negatives of each query's own record. An item that is alone in its class is its own partner; the augment then makes
    the difference. A last, smaller batch is left out. To draw by labels from data with records, use retrieval.PK.

    - `batch_size`: pairs in a batch, of all processes together. The attribute of this name counts items instead, as
      the contract of samplers has it: 2 + `negatives` times as many. `pairs` keeps the argument.
    - `negatives`: explicit negatives for each pair, from its record. With `cross_view=True` of retrieval.Embedder they
      are candidates of every query, so they add to the other pairs of the batch.

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
        self._records = None if dataset.records is None else self._read_records(dataset.records)
        if self._records is not None:
            return len(self._records.queries) // self.pairs
        if self.negatives:
            raise ValueError(
                f"negatives={self.negatives} takes records that name them, and {type(dataset).__name__} has none. "
                "Try datasets.Records, whose file the command `mine_negatives` can write, or negatives=0."
            )
        self._classes = ClassIndex(dataset, "retrieval.Pairs")
        check_fits(self.pairs, dataset)
        return len(dataset) // self.pairs

    def _read_records(self, records: Records) -> _RecordLists:
        """The records as arrays. Raises ValueError where they are too few, or some name too little."""
        queries, positives, negatives = [], [], []
        for query, positive_items, negative_items in records:
            queries.append(query)
            positives.append(positive_items)
            negatives.append(negative_items if len(negative_items) < 2 else list(dict.fromkeys(negative_items)))
        lists = _RecordLists(np.asarray(queries, dtype=np.int64), RaggedLists(positives), RaggedLists(negatives))
        total, sizes = len(queries), lists.negatives.sizes
        if self.pairs > total:
            raise ValueError(
                f"batch_size={self.pairs} is larger than the data, which have {total} records. "
                f"Try batch_size={max(1, total)} or less."
            )
        if without := int((lists.positives.sizes == 0).sum()):
            raise ValueError(f"{without} of {total} records name no positive: remove them, or use retrieval.PK.")
        if short := int((sizes < self.negatives).sum()):
            raise ValueError(
                f"{short} of {total} records name fewer than negatives={self.negatives} different negatives. "
                f"The largest possible number is negatives={sizes.min()}."
            )
        return lists

    def plan(self, rng: np.random.Generator) -> np.ndarray:
        columns = self._draw_by_class(rng) if self._records is None else self._draw_by_record(self._records, rng)
        return np.stack([column.reshape(-1, self.pairs) for column in columns], axis=1).reshape(-1)

    def _draw_by_class(self, rng: np.random.Generator) -> list[np.ndarray]:
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

    def _draw_by_record(self, records: _RecordLists, rng: np.random.Generator) -> list[np.ndarray]:
        rows = rng.permutation(len(records.queries))[: len(self) * self.pairs]
        positives = records.positives.draw_different(rows, 1, rng)
        return [records.queries[rows], *positives, *records.negatives.draw_different(rows, self.negatives, rng)]

    def notes(self) -> list[str]:
        if self._records is not None:
            return self._notes_of_records(self._records)
        total, alone = len(self._classes.numbers), int((self._classes.sizes == 1).sum())
        dropped = total % self.pairs
        notes = [f"{alone} of {total} items are alone in their class and stand as their own partner"] if alone else []
        if dropped:
            notes.append(f"{dropped} of {total} items are no query in an epoch, others every time")
        return notes

    def _notes_of_records(self, records: _RecordLists) -> list[str]:
        total, sizes, notes = len(records.queries), records.negatives.sizes, []
        if not self.negatives and sizes.any():
            least = f", up to negatives={sizes.min()}" if sizes.min() else ", once every record has some"
            notes.append(
                f"{int((sizes > 0).sum())} of {total} records name negatives, and none is used: "
                f"set negatives=1 of retrieval.Pairs{least}"
            )
        if dropped := total % self.pairs:
            notes.append(f"{dropped} of {total} records are left out each epoch, others every time")
        return notes


@dataclass
class _RecordLists:
    """The records of a dataset: (R,) queries, and the positives and different negatives of each."""

    queries: np.ndarray
    positives: RaggedLists
    negatives: RaggedLists


class RaggedLists:
    """Lists of different lengths end to end, to draw from many of them at once.

    - `sizes`: (N,) how long each is.
    """

    def __init__(self, lists: Sequence[Sequence[int]]) -> None:
        self.sizes = np.fromiter(map(len, lists), dtype=np.int64, count=len(lists))
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._values = np.fromiter((value for values in lists for value in values), dtype=np.int64)

    def draw_different(self, rows: np.ndarray, count: int, rng: np.random.Generator) -> list[np.ndarray]:
        """`count` arrays like `rows`: from each of these lists as many different values, all equally likely."""
        drawn: list[np.ndarray] = []
        for number in range(count):
            place = (rng.random(len(rows)) * (self.sizes[rows] - number)).astype(np.int64)
            # count past the places that are taken, from the first to the last
            for taken in np.sort(drawn, axis=0) if drawn else ():
                place += place >= taken
            drawn.append(place)
        return [self._values[self._starts[rows] + place] for place in drawn]
