"""Re-ranking with k-reciprocal neighbours: sparse, in bounded memory, and exact.

Zhong, Zheng, Cao and Li, "Re-ranking person re-identification with k-reciprocal encoding", 2017. With d(i, j) =
2 - 2 cos(i, j), the squared distance of unit vectors, and N(i, k) = i itself and the k other items nearest to it:

- R(i, k) = the j in N(i, k) that have i in N(j, k);
- R*(i) = R(i, k1), and R(q, k1/2) for each q in it of which two thirds at least lie in R(i, k1);
- V(i, j) = exp(-d(i, j)) for j in R*(i), else 0; then averaged over i and the k2 - 1 other items nearest to it;
- J(i, j) = 1 - sum_l min(V(i, l), V(j, l)) / sum_l max(V(i, l), V(j, l)), the Jaccard distance;
- the final distance is (1 - lambda) J + lambda d.

That an item is one of its own neighbours, and one of the k2, is the authors' program's reading, not the paper's, whose
probe stands outside the gallery. Their program divides d by the largest distance and V by its sum; the paper does not,
and nor does this. k1/2 is rounded up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.utils.neighbours import find_nearest

TIE = 1e-6
"""Scores are sums of many terms in float32; nearer ones than this count as equal."""

_PAIRS = 2**21
"""How many entries are expanded at a time."""


class KReciprocal:
    """The sparse encoding V of all items, and the scores that follow from it.

    - `items`: (N, D) rows of length 1, those of the gallery first; `gallery`: how many these are.
    - `k1`, `k2`, `weight`: k1, k2 and lambda; a k beyond the items means all of them.
    - `memory_mb`: cap in MiB on the working memory of a chunk; V itself takes some 12 bytes an entry.
    """

    def __init__(self, items: Tensor, gallery: int, k1: int, k2: int, weight: float, *, memory_mb: int = 512) -> None:
        self.weight = weight
        neighbours = list_neighbours(items, k1, memory_mb)
        sets = find_reciprocal_sets(neighbours, k1, memory_mb)
        values = compute_closeness(items, *sets, memory_mb)
        self.start, self.columns, self.values = average_rows(*sets, values, neighbours[:, :k2], memory_mb)
        rows = _list_rows(self.start)
        self.total = values.new_zeros(len(items)).index_add_(0, rows, self.values)
        # the same entries by column, of gallery items only: who else holds what a query holds
        kept = torch.nonzero(rows < gallery)[:, 0]
        kept = kept[self.columns[kept].argsort(stable=True)]
        self._holders, self._held = rows[kept], self.values[kept]
        sizes = torch.bincount(self.columns[kept], minlength=len(items))
        self._column_start = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
        self._order_and_holders: tuple[Tensor, Tensor] | None = None

    def rescore(self, items: Tensor, order: Tensor, cosines: Tensor) -> None:
        """Turn cosines into scores 1 + lambda - (final distance), in place.

        - `items`: (Q,) which items the rows are; `order`: (G,) which gallery item each column is.
        - `cosines`: (Q, G).
        """
        common = self.compute_overlap(items, order)
        union = (self.total[items][:, None] + self.total[order][None]).sub_(common)
        cosines.mul_(2 * self.weight).add_(common.div_(union), alpha=1 - self.weight)

    def compute_overlap(self, items: Tensor, order: Tensor) -> Tensor:
        """(Q, G): sum_l min(V(i, l), V(j, l))."""
        if self._order_and_holders is None or self._order_and_holders[0] is not order:
            place = torch.empty_like(order)
            place[order] = torch.arange(len(order), device=order.device)
            self._order_and_holders = order, place[self._holders]
        holders = self._order_and_holders[1]
        common = self.values.new_zeros(len(items), len(order))
        row, entry = _list_entries(self.start, items)
        first, last = self._column_start[self.columns[entry]], self._column_start[self.columns[entry] + 1]
        for part in _split_lengths(last - first):
            owner, position = _list_ranges(first[part], last[part])
            values = torch.minimum(self.values[entry[part]][owner], self._held[position])
            common.view(-1).index_add_(0, row[part][owner] * len(order) + holders[position], values)
        return common


def list_neighbours(items: Tensor, k: int, memory_mb: int) -> Tensor:
    """(N, 1 + min(k, N - 1)): each item itself, then the others nearest to it."""
    rows = torch.arange(len(items), device=items.device)
    _, others = find_nearest(items, items, rows, min(k, len(items) - 1), memory_mb=memory_mb)
    return torch.cat([rows[:, None], others], dim=1)


def find_reciprocal_sets(neighbours: Tensor, k1: int, memory_mb: int) -> tuple[Tensor, Tensor]:
    """R*(i) for all items: where each begins, (N + 1,), and their members, ascending."""
    size, wide = neighbours.shape
    half = neighbours[:, : min(wide, (k1 + 1) // 2 + 1)]
    mutual, mutual_half = _find_mutual(neighbours, memory_mb), _find_mutual(half, memory_mb)
    rows = max(1, memory_mb * 2**20 // (size + 64 * wide * half.shape[1]))
    members, counts = [], []
    for chunk in torch.arange(size, device=neighbours.device).split(rows):
        first, valid = neighbours[chunk], mutual[chunk]
        inside = torch.zeros(len(chunk), size, dtype=torch.bool, device=first.device).scatter_(1, first, valid)
        others, of_other = half[first], mutual_half[first]
        shared = inside.gather(1, others.flatten(1)).view_as(others) & of_other
        accepted = valid & (3 * shared.sum(dim=2) >= 2 * of_other.sum(dim=2))
        base = (torch.arange(len(chunk), device=first.device) * size)[:, None]
        more = accepted[:, :, None] & of_other
        keys = torch.cat([(base + first)[valid], (base[:, :, None] + others)[more]]).unique()
        members.append(keys % size)
        counts.append(torch.bincount(keys // size, minlength=len(chunk)))
    return torch.nn.functional.pad(torch.cat(counts).cumsum(0), (1, 0)), torch.cat(members)


def compute_closeness(items: Tensor, start: Tensor, columns: Tensor, memory_mb: int) -> Tensor:
    """exp(-d(i, j)) for every member j of every set i."""
    step = max(1, memory_mb * 2**20 // (12 * items.shape[1]))
    rows = _list_rows(start)
    cosines = [(items[i] * items[j]).sum(dim=1) for i, j in zip(rows.split(step), columns.split(step), strict=True)]
    return (2 * torch.cat(cosines).clamp(max=1) - 2).exp_()


def average_rows(
    start: Tensor, columns: Tensor, values: Tensor, neighbours: Tensor, memory_mb: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The sparse rows, averaged over each item's `neighbours` (N, k2): where rows begin, columns and values."""
    size, count = neighbours.shape
    kept_columns, sums, counts = [], [], []
    lengths = (start[1:] - start[:-1])[neighbours].sum(dim=1)
    for part in _split_lengths(lengths, max(1, memory_mb * 2**20 // 64)):
        chosen = neighbours[part]
        row, entry = _list_entries(start, chosen.flatten())
        keys, place = (row // count * size + columns[entry]).unique(return_inverse=True)
        total = values.new_zeros(len(keys))
        sums.append(total.index_add_(0, place, values[entry]).div_(count))
        kept_columns.append(keys % size)
        counts.append(torch.bincount(keys // size, minlength=len(chosen)))
    return torch.nn.functional.pad(torch.cat(counts).cumsum(0), (1, 0)), torch.cat(kept_columns), torch.cat(sums)


def _find_mutual(neighbours: Tensor, memory_mb: int) -> Tensor:
    """Like `neighbours`: whether the item is a neighbour of its neighbour too."""
    size, wide = neighbours.shape
    step = max(1, memory_mb * 2**20 // (10 * wide * wide))
    rows = torch.arange(size, device=neighbours.device)[:, None, None]
    return torch.cat(
        [(neighbours[chunk] == i).any(dim=2) for chunk, i in zip(neighbours.split(step), rows.split(step), strict=True)]
    )


def _list_rows(start: Tensor) -> Tensor:
    """The row of each entry."""
    return torch.arange(len(start) - 1, device=start.device).repeat_interleave(start[1:] - start[:-1])


def _list_entries(start: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The entries of some rows, with the position in `rows` that each belongs to."""
    return _list_ranges(start[rows], start[rows + 1])


def _list_ranges(first: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
    """All numbers from first[i] up to last[i], with their i."""
    lengths = last - first
    owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
    before = lengths.cumsum(0) - lengths
    return owner, torch.arange(len(owner), device=owner.device) + (first - before)[owner]


def _split_lengths(lengths: Tensor, most: int = _PAIRS) -> list[slice]:
    """Consecutive stretches whose lengths sum to about `most`, one element at least."""
    ends = lengths.cumsum(0).cpu()
    pieces, at = [], 0
    while at < len(ends):
        before = int(ends[at - 1]) if at else 0
        stop = max(at + 1, int(torch.searchsorted(ends, before + most, right=True)))
        pieces.append(slice(at, stop))
        at = stop
    return pieces
