"""Hard negatives: for each item the most similar items of other classes, exactly and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from toolbox.base import Dataset, Sample


@dataclass
class MiningResult:
    """The result of `mine_negatives`, in indices of rows.

    - `rows`: (query, positives, negatives), most similar first.
    - `alone`: queries without another item of their class; `short`: queries with fewer negatives than asked for,
      `empty`: of these, the ones that have none. They have no row, except the others of `short` with `keep_short`.
    - `by_margin`, `by_similarity`: candidates that each limit left out.
    """

    rows: list[tuple[int, list[int], list[int]]] = field(default_factory=list)
    alone: int = 0
    empty: int = 0
    short: int = 0
    by_margin: int = 0
    by_similarity: int = 0


def mine_negatives(
    embeddings: Tensor,
    labels: Tensor,
    *,
    negatives: int = 5,
    top: int = 50,
    skip: int = 0,
    margin: float | None = None,
    max_similarity: float | None = None,
    positives: int = 1,
    keep_short: bool = False,
    memory_mb: int = 256,
    progress: Callable[[int], None] = lambda count: None,
) -> MiningResult:
    """Hard negatives of every item among all others.

    - `embeddings`: (N, D) rows of length 1, whose products are similarities; `labels`: (N,) integers.
    - `negatives`: so many for each item, the most similar ones of other classes; items that have fewer get no row,
      as retrieval.Pairs takes equally many of all. `keep_short`: they get one, with at least one negative.
    - `top`: only the `top` most similar items of other classes are candidates; of these
    - `skip`: leaves out the first, where wrong labels gather;
    - `margin`: leaves out those whose similarity is above the positive's minus this, likely of the same kind; None
      for no such limit, 0 for those that are more similar than the positive;
    - `max_similarity`: leaves out those that are more similar than this.
    - `positives`: so many of the own class for each item, the most similar ones (Xuan et al. 2020, "Improved
      Embeddings with Easy Positive Triplet Mining"). `margin` is measured from the least similar of them.
    - `memory_mb`: cap in MiB on the working memory beyond the embeddings.
    - `progress`: called with the number of items so far.

    Equal similarities stand in the order of items, so the result is the same at every call.
    Raises ValueError for numbers that make no sense.
    """
    check_numbers(negatives, top, skip, positives)
    result = MiningResult()
    chunk = max(1, min(1024, memory_mb * 2**20 // (20 * len(embeddings) + 1)))
    for start in range(0, len(embeddings), chunk):
        rows = torch.arange(start, min(start + chunk, len(embeddings)), device=embeddings.device)
        near, near_columns, scores, columns = _find_candidates(embeddings, labels, rows, positives, top)
        alone = near[:, 0] == -torch.inf
        keep = (scores > -torch.inf) & ~alone[:, None]
        keep[:, :skip] = False
        if max_similarity is not None:
            result.by_similarity += int((keep & (scores > max_similarity)).sum())
            keep &= scores <= max_similarity
        if margin is not None:
            limit = near.masked_fill(near == -torch.inf, torch.inf).amin(dim=1, keepdim=True) - margin
            result.by_margin += int((keep & (scores > limit)).sum())
            keep &= scores <= limit
        keep &= keep.cumsum(dim=1) <= negatives
        counts = keep.sum(dim=1)
        result.alone += int(alone.sum())
        result.empty += int((~alone & (counts == 0)).sum())
        result.short += int((~alone & (counts < negatives)).sum())
        for place in torch.nonzero(counts >= (1 if keep_short else negatives))[:, 0].tolist():
            positive_rows = near_columns[place][near[place] > -torch.inf].tolist()
            result.rows.append((start + place, positive_rows, columns[place][keep[place]].tolist()))
        progress(start + len(rows))
    return result


def _find_candidates(
    embeddings: Tensor, labels: Tensor, rows: Tensor, positives: int, top: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The similarities and rows of the nearest `positives` of the class of each of `rows`, and of the `top` others."""
    similar = embeddings[rows] @ embeddings.T
    same = labels[rows][:, None] == labels[None]
    of_class = similar.masked_fill(~same, -torch.inf)
    of_class[rows - rows[0], rows] = -torch.inf
    near, near_columns = find_largest(of_class, positives)
    del of_class
    return near, near_columns, *find_largest(similar.masked_fill_(same, -torch.inf), top)


def find_largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Each row's `count` largest values (all, if there are fewer) and their columns, equal ones in their order."""
    count = min(count, values.shape[1])
    top, columns = values.topk(count, dim=1)
    edge = top[:, -1:]
    # of several equal values at the end topk takes any
    crowded = ((values >= edge).sum(dim=1) > count) & (edge[:, 0] > -torch.inf)
    for row in torch.nonzero(crowded)[:, 0].tolist():
        ordered = values[row].sort(descending=True, stable=True)
        top[row], columns[row] = ordered.values[:count], ordered.indices[:count]
    columns, by = columns.sort(dim=1)
    top, by = top.gather(1, by).sort(dim=1, descending=True, stable=True)
    return top, columns.gather(1, by)


def check_numbers(negatives: int, top: int, skip: int, positives: int) -> None:
    """Raise ValueError for arguments of `mine_negatives` that make no sense."""
    if negatives < 1 or positives < 1 or skip < 0:
        raise ValueError(
            f"negatives and positives are at least 1 and skip at least 0, not {negatives}, {positives} and {skip}"
        )
    if top < skip + negatives:
        raise ValueError(
            f"of the top {top} candidates {max(0, top - skip)} are left after skip={skip}, fewer than the {negatives} "
            f"negatives asked for: try top={skip + 10 * negatives}"
        )


class PathDataset(Dataset):
    """A dataset whose items have their paths as ids, relative to its `root` or `folder` if they are below it.

    Raises ValueError at an item that has no "path".
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.labels, self.classes = dataset, dataset.labels, dataset.classes
        self.root = getattr(dataset, "root", None) or getattr(dataset, "folder", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        if "path" not in sample:
            raise ValueError(f"items of {type(self.dataset).__name__} have no 'path' that a file could name")
        path = Path(str(sample["path"]))
        if self.root is not None and path.is_relative_to(self.root):
            path = path.relative_to(self.root)
        return sample | {"id": path.as_posix()}

    def notes(self) -> list[str]:
        return self.dataset.notes()
