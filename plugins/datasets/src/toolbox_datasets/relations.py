"""Which items belong together, record by record, in arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import numpy as np


class IntegerLists:
    """Lists of integers, end to end: list i is values[starts[i] : starts[i + 1]]."""

    def __init__(self, values: np.ndarray, starts: np.ndarray) -> None:
        self.values, self.starts = values, starts

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> list[int]:
        return self.values[self.starts[index] : self.starts[index + 1]].tolist()

    def owners(self) -> np.ndarray:
        """Which list each value stands in."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def select(self, lists: np.ndarray, values: np.ndarray) -> IntegerLists:
        """The lists for which the mask `lists` is True, with those values that the mask `values` keeps."""
        owners = self.owners()
        kept = lists[owners] & values
        counts = np.bincount(owners[kept], minlength=len(self))[lists]
        return IntegerLists(self.values[kept], np.concatenate([[0], np.cumsum(counts)]))


Relation = tuple[int, Sequence[int], Sequence[int]]
"""A query, its positives and its negatives, as indices of items."""


class Relations(Sequence[Relation]):
    """The relation that each record states; 1e6 records take some 30 MB."""

    def __init__(self, query: np.ndarray, positives: IntegerLists, negatives: IntegerLists) -> None:
        self.query, self.positives, self.negatives = query, positives, negatives

    def __len__(self) -> int:
        return len(self.query)

    @overload
    def __getitem__(self, index: int) -> Relation: ...

    @overload
    def __getitem__(self, index: slice) -> list[Relation]: ...

    def __getitem__(self, index: int | slice) -> Relation | list[Relation]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        index = range(len(self))[index]
        return int(self.query[index]), self.positives[index], self.negatives[index]
