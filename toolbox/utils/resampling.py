"""Percentile bootstrap intervals: how sure a number is of other items, or of other classes, of the same kind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

LEVEL = 0.95
SEED = 0
DRAWS = 2**22
"""How many draws are made at a time."""


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
