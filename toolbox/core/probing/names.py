"""What the numbers of a probe are called: the model gives these names, the metric and the hook read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

PREFIX = "linear"
Value = TypeVar("Value")


def head_name(part: str, rate: float) -> str:
    """The head that reads `part` and learns at `rate`: "linear/cls+mean:4/0.001"."""
    return f"{PREFIX}/{part}/{rate:g}"


def grid_of(values: Mapping[str, Value]) -> dict[tuple[str, float], Value]:
    """{(input, rate): value} of those that are called after a head, in their order."""
    found = {}
    for name, value in values.items():
        first, _, rest = name.partition("/")
        part, _, rate = rest.rpartition("/")
        if first == PREFIX and part:
            found[part, float(rate)] = value
    return found
