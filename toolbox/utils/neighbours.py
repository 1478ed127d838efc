"""The nearest rows of a gallery in bounded memory, and query expansion by them."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.utils.ranking import TIE, find_largest, full_precision, normalize_rows

_SPARE = 16
"""How many equally near rows are looked at beyond the k, to choose the first ones among them."""


def make_unit_rows(x: Tensor) -> Tensor:
    """A copy in float32 (float64 stays) whose rows have length 1; zero rows stay zero."""
    return normalize_rows(x.to(torch.promote_types(x.dtype, torch.float32), copy=True))


def find_nearest(
    queries: Tensor, gallery: Tensor, self_rows: Tensor, k: int, *, memory_mb: float = 512
) -> tuple[Tensor, Tensor]:
    """The k gallery rows of largest cosine for each query, itself left out; all of them where k is larger.

    - `queries`: (Q, D), `gallery`: (G, D), rows of length 1. It computes on the device of the queries, to which parts
      of a gallery on another device are copied, one after the other.
    - `self_rows`: (Q,) the gallery row that a query is itself, -1 for none.
    - `memory_mb`: cap in MiB on the working memory beyond what is given and returned.

    Returns cosines and rows, (Q, min(k, G)) each, nearest first; a cosine of -inf marks a place that is not filled.
    Of rows equally near, within rounding, the first ones are taken: identical items are no matter of chance.
    """
    k = min(k, len(gallery))
    cosines = queries.new_empty(len(queries), k)
    places = torch.empty(len(queries), k, dtype=torch.long, device=queries.device)
    rows, columns = _choose_chunks(queries, gallery, k + _SPARE, int(memory_mb * 2**20))
    buffer = queries.new_empty(min(rows, len(queries)), columns)
    for start in range(0, len(queries), rows):
        chunk = slice(start, start + rows)
        part_queries, part_self = queries[chunk], self_rows[chunk]
        best_values, best_places = queries.new_empty(len(part_queries), 0), places[chunk, :0]
        for first in range(0, len(gallery), columns):
            part = gallery[first : first + columns].to(queries.device)
            similar = buffer[: len(part_queries)]
            similar[:, len(part) :] = -torch.inf
            with full_precision():
                torch.mm(part_queries, part.T, out=similar[:, : len(part)])
            in_part = torch.nonzero((part_self >= first) & (part_self < first + len(part)))[:, 0]
            similar[in_part, part_self[in_part] - first] = -torch.inf
            values, neighbours = find_largest(similar, min(k + _SPARE, columns))
            neighbours, order = neighbours.sort(dim=1)
            values = torch.cat([best_values, values.gather(1, order)], dim=1)
            neighbours = torch.cat([best_places, neighbours + first], dim=1)
            best_values, best_places = _select_nearest(values, neighbours, k + _SPARE)
        cosines[chunk], places[chunk] = best_values[:, :k], best_places[:, :k]
    return cosines, places.clamp_(max=len(gallery) - 1)


def _choose_chunks(queries: Tensor, gallery: Tensor, wide: int, budget: int) -> tuple[int, int]:
    """How many queries and how many items of the gallery at a time keep within a budget in bytes."""
    size = queries.element_size()
    everything = -(-len(gallery) // 128) * 128
    # of a query: what is sorted and merged of its nearest; of a pair: the cosine and what looks for the largest
    rows = max(1, min(1024, len(queries), budget // (4 * 128 * wide)))
    moved = 0 if gallery.device == queries.device else size * gallery.shape[1]
    columns = budget // 2 // (2 * size * rows + moved)
    return rows, max(128, min(everything, columns // 128 * 128))


def _select_nearest(values: Tensor, places: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` nearest of those so far and of a later part of the gallery, nearest first, of equals the first."""
    order = (values / TIE).round_().sort(dim=1, descending=True, stable=True).indices[:, :count]
    return values.gather(1, order), places.gather(1, order)


def expand_queries(
    queries: Tensor, gallery: Tensor, self_rows: Tensor, k: int, alpha: float, *, memory_mb: int = 512
) -> Tensor:
    """Alpha query expansion: q + sum over its k nearest x of max(q·x, 0)^alpha x, made of length 1.

    Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", 2018. The query itself has
    weight 1. The arguments are those of `find_nearest`; alpha 0 weighs the k alike (average query expansion).
    """
    cosines, places = find_nearest(queries, gallery, self_rows, k, memory_mb=memory_mb)
    weights = (cosines.clamp(min=0) ** alpha).masked_fill(cosines == -torch.inf, 0)
    step = max(1, memory_mb * 2**18 // max(1, places.shape[1] * gallery.shape[1]))
    parts = [
        q + (w[:, :, None] * gallery[p]).sum(dim=1)
        for q, w, p in zip(queries.split(step), weights.split(step), places.split(step), strict=True)
    ]
    return normalize_rows(torch.cat(parts))
