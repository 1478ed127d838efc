"""The stacks of linear layers that heads are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import nn

Norm = Literal["none", "batch", "layer"]


def stack_layers(
    widths: Sequence[int],
    *,
    activation: type[nn.Module] = nn.GELU,
    bias: bool = True,
    norm: Norm = "none",
    dropout: float = 0.0,
    first_dropout: bool = True,
) -> nn.Sequential:
    """Linear layers from each of `widths` to the next one: activation (but for the first), norm, dropout, linear.

    - `first_dropout`: whether dropout also stands before the first layer.
    """
    modules: list[nn.Module] = []
    for number, (before, after) in enumerate(pairwise(widths)):
        if number > 0:
            modules.append(activation())
        if norm != "none":
            modules.append(nn.BatchNorm1d(before) if norm == "batch" else nn.LayerNorm(before))
        if dropout > 0 and (number > 0 or first_dropout):
            modules.append(nn.Dropout(dropout))
        modules.append(nn.Linear(before, after, bias=bias))
    return nn.Sequential(*modules)


def check_norm(norm: Norm) -> Norm:
    """`norm` itself. Raises ValueError for one that does not exist."""
    if norm not in get_args(Norm):
        raise ValueError(f"norm {norm!r} does not exist. Try one of {', '.join(get_args(Norm))}.")
    return norm


def check_dropout(dropout: float) -> float:
    """`dropout` itself. Raises ValueError unless it is a probability below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} is no probability. Try 0 <= dropout < 1.")
    return dropout
