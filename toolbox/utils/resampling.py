"""Percentile bootstrap intervals: how sure a number is of other items, or of other classes, of the same kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95
SEED = 0
DRAWS = 2**22
"""How many draws are made at a time."""


class ClusteredOutcomes(NamedTuple):
    """One number of each item, whose mean over those that count is of interest.

    - `values`, `counted`: (N,) the numbers, and 1 where one counts, else 0; `cluster`: (N,) which group it moves with.
    """

    values: Tensor
    counted: Tensor
    cluster: Tensor


def bootstrap_clusters(
    outcomes: Mapping[str, ClusteredOutcomes], clusters: int, resamples: int, *, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """{name: (low, high)} of means over items that move together in clusters, at 95 %.

    - `outcomes`: by name; their clusters are numbered from 0 to `clusters` - 1.
    - `resamples`: how often as many clusters as there are get drawn, with replacement and with all their items.
    - `seed`: of the draws, which depend on it and on the number of clusters alone.

    Drawing single items would give intervals that are too narrow where one odd cluster moves many of them.
    """
    columns = [
        torch.zeros(clusters).double().index_add_(0, cluster.cpu(), column.cpu().double())
        for values, counted, cluster in outcomes.values()
        for column in (values * counted, counted)
    ]
    sums = torch.stack(columns, dim=1)
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for rows in torch.arange(resamples).split(max(1, DRAWS // clusters)):
        chosen = torch.randint(clusters, (len(rows), clusters), generator=generator)
        chosen += torch.arange(len(rows))[:, None] * clusters
        times = torch.bincount(chosen.flatten(), minlength=len(rows) * clusters).view(len(rows), clusters)
        drawn.append(times.double() @ sums)
    totals = torch.cat(drawn)
    result = {}
    for index, name in enumerate(outcomes):
        total, count = totals[:, 2 * index], totals[:, 2 * index + 1]
        # a draw without any item that counts says nothing
        result[name] = compute_percentiles((total / count)[count > 0])
    return result


def bootstrap_counts(
    counts: Tensor, compute: Callable[[Tensor], dict[str, Tensor]], resamples: int, *, seed: int = SEED
) -> dict[str, tuple[float, float]]:
    """{name: (low, high)} of numbers that depend on how many items of each kind there are, at 95 %.

    - `counts`: how many items there are of each kind, of any shape.
    - `compute`: from (R, *counts.shape), the counts of R resamples, to {name: (R,)}.
    - `resamples`: how often as many items as there are get drawn, with replacement.
    - `seed`: of the draws, which depend on it and on the counts alone.

    The percentile bootstrap over items (Efron, "Bootstrap methods: another look at the jackknife", 1979): items of one
    kind are alike, so a resample is one draw of a multinomial distribution. What it cannot know: the same model
    trained again.
    """
    generator = np.random.default_rng(seed)
    flat = counts.flatten().double().numpy()
    kinds = np.flatnonzero(flat)
    total = int(flat.sum())
    values: dict[str, list[Tensor]] = {}
    for rows in torch.arange(resamples).split(max(1, DRAWS // counts.numel())):
        drawn = torch.zeros(len(rows), counts.numel(), dtype=torch.float64)
        drawn[:, kinds] = torch.from_numpy(generator.multinomial(total, flat[kinds] / total, size=len(rows))).double()
        for name, numbers in compute(drawn.view(-1, *counts.shape)).items():
            values.setdefault(name, []).append(numbers)
    return {name: compute_percentiles(torch.cat(numbers)) for name, numbers in values.items()}


def compute_percentiles(values: Tensor) -> tuple[float, float]:
    """(low, high) that leave (1 - LEVEL) / 2 of the resamples' values out at either end."""
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = values.double().quantile(ends).tolist()
    return low, high
