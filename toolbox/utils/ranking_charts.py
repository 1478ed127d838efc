"""Charts of ranks and cosines, as report items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from toolbox.base import Curve, Histogram
from toolbox.utils.ranking import Lone


def make_recall_curve(
    ranks: Mapping[str, Tensor], largest: int, ks: Sequence[int], lone: Lone = "skip"
) -> Curve | None:
    """Recall@K for K up to 1000, a line for each way to rank.

    - `ranks`: {name: (Q,) the rank of each query's first match, 0 where there is none}; `lone`: what that means.
    - `largest`: how many items a query is compared with; None is returned where that is one.
    - `ks`: K that are points of the lines in any case.
    """
    limit = min(1000, largest)
    if limit < 2:
        return None
    spaced = torch.logspace(0, math.log10(limit), 61).round().long().tolist()
    points = sorted({min(k, limit) for k in (*spaced, *ks)})
    series = {}
    for name, of_queries in ranks.items():
        found = of_queries[of_queries > 0].sort().values
        counted = len(of_queries) if lone == "miss" else len(found)
        hits = torch.searchsorted(found, torch.tensor(points), right=True).tolist()
        series[name] = [(k, hit / max(counted, 1)) for k, hit in zip(points, hits, strict=True)]
    return Curve("Recall@K", series, x="K", y="Recall@K", log_x=True)


def make_cosine_histogram(title: str, cosines: Mapping[str, Tensor], note: str) -> Histogram | None:
    """How cosines are distributed, as shares of each kind; those that are not finite are left out. None without any."""
    series = {name: values[values.isfinite()].double() for name, values in cosines.items()}
    everything = torch.cat(list(series.values()))
    if not len(everything):
        return None
    low, high = math.floor(20 * everything.min().item()) / 20, math.ceil(20 * everything.max().item()) / 20
    edges = torch.linspace(low, max(high, low + 0.05), 51, dtype=torch.float64)
    shares = {}
    for name, values in series.items():
        place = (torch.searchsorted(edges, values, right=True) - 1).clamp(0, 49)
        shares[name] = (torch.bincount(place, minlength=50).double() / max(len(values), 1)).tolist()
    return Histogram(title, edges.tolist(), shares, x="cosine similarity", note=note)
