"""Confidence intervals of an accuracy: for other images, and for repeated training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from toolbox.utils.resampling import LEVEL, bootstrap_counts

RESAMPLES = 2000


def estimate_item_interval(counts: Sequence[int]) -> tuple[float, float]:
    """(low, high) of a mean by the percentile bootstrap over items: the interval for other images of the same kind.

    - `counts`: n + 1 of them, how many items have the value 0, 1/n, 2/n ... 1; of single answers: wrong, right ones.
    """
    values = torch.linspace(0, 1, len(counts), dtype=torch.float64)
    bounds = bootstrap_counts(
        torch.as_tensor(counts), lambda drawn: {"mean": drawn @ values / drawn.sum(dim=1)}, RESAMPLES
    )
    return bounds["mean"]


def estimate_repeat_interval(values: Sequence[float]) -> tuple[float, float]:
    """(low, high), within 0 and 1, of the mean of n >= 2 repeats by Student's t: the interval for training again."""
    half = compute_student_t(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return max(mean - half, 0.0), min(mean + half, 1.0)


def compute_student_t(freedom: int) -> float:
    """The t that bounds a share `LEVEL` of Student's t-distribution on both sides, to about 1e-6.

    - `freedom`: degrees of freedom, 1 or more.

    With t = sqrt(freedom) * tan(angle), its density is proportional to cos(angle) ** (freedom - 1).
    """
    angle = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(LEVEL, share / share[-1], angle)))
