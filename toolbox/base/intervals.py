"""The intervals among the numbers of metrics: "top1_low" and "top1_high" beside "top1"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def split_intervals(numbers: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, tuple[float, float]]]:
    """(the numbers without bounds, {name: its low and high bound}).

    - `numbers`: of metrics, by name. A bound whose number is missing, or that is alone, is a number like others.
    """
    bounds = {
        name: (numbers[f"{name}_low"], numbers[f"{name}_high"])
        for name in numbers
        if "/" not in name and f"{name}_low" in numbers and f"{name}_high" in numbers
    }
    ends = {f"{name}_{end}" for name in bounds for end in ("low", "high")}
    return {name: value for name, value in numbers.items() if name not in ends}, bounds
