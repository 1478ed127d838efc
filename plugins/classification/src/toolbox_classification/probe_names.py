"""The names of a probe's numbers: the model gives these names, the metric and the hook read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

PREFIX = "linear"
METHODS = {PREFIX: "linear", "knn": "k-NN", "logistic": "logistic regression"}
"""{name of the number that tells how good a method of probing is: name of the method for people}."""
Value = TypeVar("Value")


def format_head_name(part: str, rate: float) -> str:
    """The name of the head that reads `part` and learns at `rate`: "linear/cls+mean:4/0.001"."""
    return f"{PREFIX}/{part}/{rate:g}"


def choose_method(accuracies: Mapping[str, float]) -> str:
    """The best of METHODS by the validation set, of equals the first."""
    return max((method for method in METHODS if method in accuracies), key=lambda method: accuracies[method])


def select_grid(values: Mapping[str, Value]) -> dict[tuple[str, float], Value]:
    """{(input, rate): value} of the values that are named after a head, in their order."""
    grid = {}
    for name, value in values.items():
        first, _, rest = name.partition("/")
        part, _, rate = rest.rpartition("/")
        if first == PREFIX and part:
            grid[part, float(rate)] = value
    return grid
