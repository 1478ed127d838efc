"""What all intervals by resampling have in common; what is drawn, items or classes, is theirs."""

from __future__ import annotations

import torch
from torch import Tensor

LEVEL = 0.95
SEED = 0
DRAWS = 2**22
"""How many draws are made at a time."""


def percentiles(values: Tensor) -> tuple[float, float]:
    """(low, high) that leave (1 - LEVEL) / 2 of the resamples' values out at either end."""
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    low, high = values.double().quantile(ends).tolist()
    return low, high
