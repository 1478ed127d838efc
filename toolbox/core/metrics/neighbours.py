"""The nearest rows of a gallery in bounded memory, and query expansion by them."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.core.metrics.ranking import TIE, full_precision, largest, normalize_rows

_SPARE = 16
"""How many equally near rows are looked at beyond the k, to choose the first ones among them."""


def unit_rows(x: Tensor) -> Tensor:
    """A copy in float32 (float64 stays) whose rows have length 1; zero rows stay zero."""
    return normalize_rows(x.to(torch.promote_types(x.dtype, torch.float32), copy=True))


def nearest(queries: Tensor, gallery: Tensor, own: Tensor, k: int, *, memory_mb: int = 512) -> tuple[Tensor, Tensor]:
    """The k gallery rows of largest cosine for each query, itself left out; all of them where k is larger.

    - `queries`: (Q, D), `gallery`: (G, D), rows of length 1.
    - `own`: (Q,) the gallery row that a query is itself, -1 for none.
    - `memory_mb`: cap in MiB on the working memory.

    Returns cosines and rows, (Q, min(k, G)) each, nearest first; a cosine of -inf marks a place that is not filled.
    Of rows equally near, within rounding, the first ones are taken: identical items are no matter of chance.
    """
    k = min(k, len(gallery))
    columns = -(-len(gallery) // 128) * 128
    wide = min(k + _SPARE, columns)
    rows = max(1, min(1024, memory_mb * 2**20 // (4 * columns + 64 * wide)))
    table = torch.nn.functional.pad(gallery, (0, 0, 0, columns - len(gallery)))
    cosines = gallery.new_empty(len(queries), k)
    places = torch.empty(len(queries), k, dtype=torch.long, device=gallery.device)
    buffer = gallery.new_empty(min(rows, len(queries)), columns)
    for start in range(0, len(queries), rows):
        chunk = slice(start, start + rows)
        mine = own[chunk]
        with full_precision():
            similar = torch.mm(queries[chunk], table.T, out=buffer[: len(mine)])
        similar[:, len(gallery) :] = -torch.inf
        present = torch.nonzero(mine >= 0)[:, 0]
        similar[present, mine[present]] = -torch.inf
        values, found = largest(similar, wide)
        found, order = found.sort(dim=1)
        values = values.gather(1, order)
        order = (values / TIE).round_().sort(dim=1, descending=True, stable=True).indices[:, :k]
        cosines[chunk], places[chunk] = values.gather(1, order), found.gather(1, order)
    return cosines, places.clamp_(max=len(gallery) - 1)


def expand(queries: Tensor, gallery: Tensor, own: Tensor, k: int, alpha: float, *, memory_mb: int = 512) -> Tensor:
    """Alpha query expansion: q + sum over its k nearest x of max(q·x, 0)^alpha x, made of length 1.

    Radenović, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", 2018. The query itself has
    weight 1. The arguments are those of `nearest`; alpha 0 weighs the k alike (average query expansion).
    """
    cosines, places = nearest(queries, gallery, own, k, memory_mb=memory_mb)
    weights = (cosines.clamp(min=0) ** alpha).masked_fill(cosines == -torch.inf, 0)
    step = max(1, memory_mb * 2**18 // max(1, places.shape[1] * gallery.shape[1]))
    parts = [
        q + (w[:, :, None] * gallery[p]).sum(dim=1)
        for q, w, p in zip(queries.split(step), weights.split(step), places.split(step), strict=True)
    ]
    return normalize_rows(torch.cat(parts))
