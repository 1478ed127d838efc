"""The usual head of an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, get_args

from torch import Tensor, nn

from toolbox.base import Head, plain_torch

Norm = Literal["none", "batch", "layer"]


class Projection(Head):
    """One linear layer, or several with GELU between them.

    - `dim`: width of the embedding.
    - `layers`: how many linear layers.
    - `hidden`: width between them, None for the width of the input; only with `layers` above 1.
    - `bias`: whether the linear layers have one.
    - `norm`: what stands before every linear layer: "none", "batch" (BatchNorm1d) or "layer" (LayerNorm).
    - `dropout`: probability that an input of a linear layer is zeroed in training, 0 <= p < 1.

    Raises ValueError for values outside these.
    """

    def __init__(
        self,
        dim: int = 512,
        layers: int = 1,
        hidden: int | None = None,
        bias: bool = True,
        norm: Norm = "none",
        dropout: float = 0.0,
    ):
        super().__init__()
        if dim < 1 or layers < 1:
            raise ValueError(f"a projection has at least 1 layer of width 1, not layers={layers}, dim={dim}.")
        if hidden is not None and (hidden < 1 or layers == 1):
            raise ValueError(f"hidden={hidden} needs a positive width and layers=2 or more, not layers={layers}.")
        self.out_dim, self.norm, self.dropout = dim, check_norm(norm), check_dropout(dropout)
        self.layer_count, self.hidden, self.bias = layers, hidden, bias

    def connect(self, in_dim: int, classes: int | None = None) -> None:
        self.in_dim = in_dim
        hidden = in_dim if self.hidden is None else self.hidden
        widths = [in_dim, *[hidden] * (self.layer_count - 1), self.out_dim]
        self.stack = stack(widths, bias=self.bias, norm=self.norm, dropout=self.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x)

    def in_plain_torch(self, name: str) -> list[str]:
        return plain_torch.lines(self.stack, f"{name}.stack")


def stack(
    widths: Sequence[int], *, activation: type[nn.Module] = nn.GELU, bias: bool = True, norm: Norm = "none",
    dropout: float = 0.0, first_dropout: bool = True,
) -> nn.Sequential:  # fmt: skip
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


def check_norm(norm: str) -> str:
    """`norm` itself. Raises ValueError for one that does not exist."""
    if norm not in get_args(Norm):
        raise ValueError(f"norm {norm!r} does not exist. Try one of {', '.join(get_args(Norm))}.")
    return norm


def check_dropout(dropout: float) -> float:
    """`dropout` itself. Raises ValueError unless it is a probability below 1."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout} is no probability. Try 0 <= dropout < 1.")
    return dropout
