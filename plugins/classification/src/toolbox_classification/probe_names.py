"""What the numbers of a probe are called: the model gives these names, the metric and the hook read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

PREFIX = "linear"
METHODS = {PREFIX: "linear", "knn": "k-NN", "logistic": "logistic regression"}
"""The ways of probing, by the number that tells how good each is, and their names for people."""
Value = TypeVar("Value")


def head_name(part: str, rate: float) -> str:
    """The head that reads `part` and learns at `rate`: "linear/cls+mean:4/0.001"."""
    return f"{PREFIX}/{part}/{rate:g}"


def best_method(accuracies: Mapping[str, float]) -> str:
    """Which of METHODS is the best by the validation set, of equals the first."""
    return max((method for method in METHODS if method in accuracies), key=lambda method: accuracies[method])


def grid_of(values: Mapping[str, Value]) -> dict[tuple[str, float], Value]:
    """{(input, rate): value} of those that are called after a head, in their order."""
    found = {}
    for name, value in values.items():
        first, _, rest = name.partition("/")
        part, _, rate = rest.rpartition("/")
        if first == PREFIX and part:
            found[part, float(rate)] = value
    return found
