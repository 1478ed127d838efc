"""A few items of a dataset."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from toolbox.base import Dataset, Sample, lazy_attribute
from toolbox.plugin import Problem

_A_CLASS = 4


class FewItems(Dataset):
    """The first items of a dataset, of a labelled one four of each class as far as there are.

    - `dataset`: the whole one.
    - `count`: how many items, at least 1; a smaller dataset is taken whole.

    All else is as in the whole dataset: classes, super-classes, ids. Pairs that it names itself are kept where all
    their items are. Raises ValueError for a count below 1.
    """

    def __init__(self, dataset: Dataset, count: int):
        if count < 1:
            raise ValueError(f"count={count} is a number of items, at least 1.")
        self.dataset, self.count = dataset, count
        self.unit = dataset.unit

    @lazy_attribute
    def _indices(self) -> list[int]:
        if self.dataset.labels is None:
            return list(range(min(self.count, len(self.dataset))))
        by_class: dict[int, list[int]] = {}
        for index, label in enumerate(self.dataset.labels):
            by_class.setdefault(label, []).append(index)
        # whole classes first, so that each item has others of its class
        first = [index for indices in by_class.values() for index in indices[:_A_CLASS]]
        rest = sorted(index for indices in by_class.values() for index in indices[_A_CLASS:])
        return sorted((first + rest)[: self.count])

    def _pick(self, values: Sequence[Any] | None) -> list[Any] | None:
        return None if values is None else [values[index] for index in self._indices]

    @lazy_attribute
    def labels(self) -> Sequence[int] | None:
        return self._pick(self.dataset.labels)

    @lazy_attribute
    def classes(self) -> Sequence[str] | None:
        return self.dataset.classes

    @lazy_attribute
    def has_class_names(self) -> bool:
        return self.dataset.has_class_names

    @lazy_attribute
    def groups(self) -> Sequence[str] | None:
        return self._pick(self.dataset.groups)

    @lazy_attribute
    def roles(self) -> Sequence[str] | None:
        return self._pick(self.dataset.roles)

    @lazy_attribute
    def records(self) -> Sequence[tuple[int, Sequence[int], Sequence[int]]] | None:
        if self.dataset.records is None:
            return None
        place = {index: number for number, index in enumerate(self._indices)}
        kept = []
        for query, positives, negatives in self.dataset.records:
            rows = [[place[index] for index in indices if index in place] for indices in (positives, negatives)]
            if query in place and rows[0]:
                kept.append((place[query], *rows))
        return kept  # type: ignore[return-value]

    def sources(self) -> Sequence[Any] | None:
        return self.dataset.sources()

    def item_files(self) -> Sequence[Any] | None:
        return self._pick(self.dataset.item_files())

    def fingerprint(self) -> str | None:
        return self.dataset.fingerprint()

    def identities(self) -> Sequence[str] | None:
        return self._pick(self.dataset.identities())

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self._indices[index]]

    def read(self, index: int, fields: Collection[str]) -> Sample:
        return self.dataset.read(self._indices[index], fields)

    def check(self) -> list[Problem]:
        return self.dataset.check()

    def ignored_files(self) -> Mapping[str, Mapping[str, int]]:
        return self.dataset.ignored_files()

    def notes(self) -> list[str]:
        return self.dataset.notes()
