"""How sure an accuracy is: of other pictures, and of training again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from toolbox.utils.resampling import DRAWS, LEVEL, SEED, percentiles

RESAMPLES = 2000


def over_items(counts: Sequence[int]) -> tuple[float, float]:
    """(low, high) of a mean by the percentile bootstrap over items: how it would be for other pictures of the kind.

    - `counts`: n + 1 of them, how many items have the value 0, 1/n, 2/n ... 1; of single answers: wrong, right ones.
    """
    counts = torch.as_tensor(counts)
    values = torch.linspace(0, 1, len(counts), dtype=torch.float64)
    return over_kinds(counts, lambda drawn: {"mean": drawn @ values / drawn.sum(dim=1)}, RESAMPLES)["mean"]


def over_kinds(
    counts: Tensor, numbers: Callable[[Tensor], dict[str, Tensor]], resamples: int
) -> dict[str, tuple[float, float]]:
    """{name: (low, high)} of numbers that depend on how many items of each kind there are, at 95 %.

    - `counts`: how many items there are of each kind, of any shape.
    - `numbers`: from (R, *counts.shape), the counts of R resamples, to {name: (R,)}.
    - `resamples`: how often as many items as there are get drawn, with replacement.

    The percentile bootstrap: items of one kind are alike, so a resample is one draw of a multinomial distribution. The
    draws depend on the counts alone. What it cannot know: the same model trained again.
    """
    generator = np.random.default_rng(SEED)
    flat = counts.flatten().double().numpy()
    kinds = np.flatnonzero(flat)
    total = int(flat.sum())
    drawn: dict[str, list[Tensor]] = {}
    for rows in torch.arange(resamples).split(max(1, DRAWS // counts.numel())):
        times = torch.zeros(len(rows), counts.numel(), dtype=torch.float64)
        times[:, kinds] = torch.from_numpy(generator.multinomial(total, flat[kinds] / total, size=len(rows))).double()
        for name, values in numbers(times.view(-1, *counts.shape)).items():
            drawn.setdefault(name, []).append(values)
    return {name: percentiles(torch.cat(values)) for name, values in drawn.items()}


def over_repeats(values: Sequence[float]) -> tuple[float, float]:
    """(low, high), within 0 and 1, of the mean of n >= 2 repeats by Student's t: how it would be trained again."""
    half = student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return max(mean - half, 0.0), min(mean + half, 1.0)


def student(freedom: int) -> float:
    """The t within which a share `LEVEL` of Student's distribution lies, to about 1e-6.

    With t = sqrt(freedom) * tan(angle), its density is proportional to cos(angle) ** (freedom - 1).
    """
    angle = np.linspace(0, math.pi / 2, 200_001)
    density = np.cos(angle) ** (freedom - 1)
    share = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return math.sqrt(freedom) * math.tan(float(np.interp(LEVEL, share / share[-1], angle)))
