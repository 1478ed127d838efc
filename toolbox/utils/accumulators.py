"""The outputs that a metric has received: every item once, in one order, whichever process had it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import Batch, Dataset, gather, get_dist_info
from toolbox.base.scalars import as_id
from toolbox.errors import Problem
from toolbox.utils.ranking import find_items


@dataclass
class Items:
    """All items, ordered by role and id; `queries` and `gallery` are rows, the same ones where there are no roles.

    - `values`: (N, ...); `labels`, `ids`: (N,), a number for each id; `names`: the ids as given.
    - `indices`: of the dataset, empty where batches do not tell them.
    """

    values: Tensor
    labels: Tensor
    ids: Tensor
    names: list[int | str]
    indices: list[int]
    queries: Tensor
    gallery: Tensor

    @property
    def is_symmetric(self) -> bool:
        """Whether every item is a query against all others."""
        return self.queries is self.gallery

    def select(self, rows: Tensor) -> Tensor:
        """The values of queries or of the gallery, not copied where they are all there are."""
        return self.values if len(rows) == len(self.values) else self.values[rows]

    def find_self_rows(self) -> Tensor:
        """(Q,): which gallery item a query is itself, -1 where the gallery does not hold it."""
        return find_items(self.ids[self.queries], self.ids[self.gallery])

    def get_ranking_arguments(self) -> dict[str, Tensor]:
        """The labels and ids that ranking takes."""
        return {
            "query_labels": self.labels[self.queries],
            "gallery_labels": self.labels[self.gallery],
            "query_ids": self.ids[self.queries],
            "gallery_ids": self.ids[self.gallery],
        }


class EmbeddingAccumulator:
    """One output of a model for every item, over batches and processes, with labels and ids: what a metric ranks.

    - `metric`: the metric's name, for messages.
    - `output`: the model's output to keep, e.g. "embeddings": (B, ...), kept in float32 where it is.
    """

    def __init__(self, metric: str, output: str) -> None:
        self.metric, self.output = metric, output
        self._values: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._ids: list[int | str] = []
        self._indices: list[int] = []
        self._roles: list[str] = []

    def add(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        """Take in a batch. Raises ValueError where labels, ids or roles are absent or do not fit."""
        batch = Batch.from_fields(batch)
        labels, ids, roles = batch.labels, batch.ids, batch.roles
        if self.output not in outputs:
            raise ValueError(f"{self.metric} reads the model's '{self.output}', and this model gives {sorted(outputs)}")
        if labels is None:
            raise ValueError(f"{self.metric} needs labels, and this batch has none: use a labelled dataset")
        labels = torch.as_tensor(labels)
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"{self.metric} compares classes, which are whole numbers, and these are {labels.dtype}")
        values = outputs[self.output].detach().float()
        if not len(values) == len(labels) == len(ids) == len(ids if roles is None else roles):
            raise ValueError(
                f"one label, id and role belong to each embedding, but there are {len(values)} embeddings, "
                f"{len(labels)} labels and {len(ids)} ids"
                + ("" if roles is None else f" and {len(roles)} roles")
                + (": the model embeds each text of an item, and this metric takes one an item" if batch.owners else "")
            )
        if unknown := set(roles or ()) - {"query", "gallery"}:
            raise ValueError(f"roles are 'query' or 'gallery', not {sorted(unknown)}")
        self._values.append(values)
        self._labels.append(labels.to(values.device))
        self._ids += map(as_id, ids)
        self._indices += map(int, batch.indices)
        self._roles += ["both"] * len(ids) if roles is None else roles

    def items(self) -> Items:
        """Everything that all processes saw, each id once a role.

        Raises ValueError where nothing can be ranked, and where different items have the same id.
        """
        values, labels, ids, indices, roles = self._gather()
        if len(set(roles)) > 1 and "both" in roles:
            raise ValueError("some batches have roles and some have none: give roles for every item, or for none")
        unique = {
            (role, type(name).__name__, name): row for row, (role, name) in enumerate(zip(roles, ids, strict=True))
        }
        self._check_unique(unique, ids, indices, roles)
        rows = [unique[key] for key in sorted(unique)]
        indices = [indices[row] for row in rows] if len(indices) == len(ids) else []
        ids, roles = [ids[row] for row in rows], [roles[row] for row in rows]
        place = torch.tensor(rows, device=values.device)
        values, labels = values[place], labels[place]
        if get_dist_info()[1] == 1:  # so that only one copy is kept
            self._values, self._labels, self._ids = [values], [labels], list(ids)
            self._indices, self._roles = list(indices), list(roles)
        numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}

        def having(left_out: str) -> Tensor:
            return torch.tensor(
                [row for row, role in enumerate(roles) if role != left_out], device=values.device
            ).long()

        gallery = having("query")
        queries = gallery if "both" in roles else having("gallery")
        if not len(gallery) or not len(queries):
            raise ValueError(
                f"{self.metric} needs queries and a gallery, and saw {len(queries)} and {len(gallery)} items"
            )
        numbered = torch.tensor([numbers[name] for name in ids], device=values.device)
        return Items(values, labels, numbered, ids, indices, queries, gallery)

    def _check_unique(
        self, unique: dict[tuple[str, str, int | str], int], ids: list[int | str], indices: list[int], roles: list[str]
    ) -> None:
        """- `unique`: the row that is kept of each (role, type, id)."""
        if len(unique) == len(ids) or len(indices) != len(ids):
            return
        index_of = {key: indices[row] for key, row in unique.items()}
        lost = {
            index: name
            for role, name, index in zip(roles, ids, indices, strict=True)
            if index_of[role, type(name).__name__, name] != index
        }
        if lost:
            index, name = next(iter(lost.items()))
            raise ValueError(
                f"{self.metric} counts each id once, and {len(lost):,} items have the id of another one, such as item "
                f"{index}: {name!r}. The dataset must give every item an id of its own"
            )

    def _gather(self) -> tuple[Tensor, Tensor, list[int | str], list[int], list[str]]:
        """What all processes saw, in rank order; one of them may have seen nothing."""
        shape: tuple[int, ...] = ()
        device = "cpu"
        if self._values:
            self._values, self._labels = [_join(self._values)], [torch.cat(self._labels)]
            shape, device = tuple(self._values[0].shape[1:]), self._values[0].device.type
        ids, indices, roles = self._ids, self._indices, self._roles
        if get_dist_info()[1] > 1:
            parts: list = [None] * get_dist_info()[1]
            dist.all_gather_object(parts, (ids, indices, roles, shape, device))
            ids, indices, roles = ([row for part in parts for row in part[i]] for i in range(3))
            shape, device = max((part[3:] for part in parts), key=lambda form: (len(form[0]), form[0]))
        if not ids:
            raise ValueError(f"{self.metric} saw no item at all")
        values = self._values[0] if self._values else torch.empty(0, *shape, device=device)
        labels = self._labels[0] if self._labels else torch.empty(0, dtype=torch.long, device=device)
        if len(shape) == 2 and values.shape[1] < shape[0]:
            values = _pad(values, shape[0])
        return gather(values), gather(labels.long()), ids, indices, roles


def check_labelled(metric: str, dataset: Dataset) -> list[Problem]:
    """Whether a dataset has the labels that a metric, by its name for messages, cannot do without."""
    if dataset.labels is not None:
        return []
    return [Problem(f"{metric} needs labels, and this dataset has none.", hint="Use a labelled dataset.")]


def _join(parts: list[Tensor]) -> Tensor:
    """Batches as one tensor; sets of tokens are padded with zeros to the largest set."""
    if parts[0].ndim == 3:
        longest = max(part.shape[1] for part in parts)
        parts = [_pad(part, longest) for part in parts]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _pad(tokens: Tensor, count: int) -> Tensor:
    return torch.nn.functional.pad(tokens, (0, 0, 0, count - tokens.shape[1]))
