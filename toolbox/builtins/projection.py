"""The usual head of an embedding model."""

from __future__ import annotations

from torch import Tensor

from toolbox.base import Head, plain_torch
from toolbox.utils.layers import Norm, check_dropout, check_norm, stack_layers


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
        self.stack = stack_layers(widths, bias=self.bias, norm=self.norm, dropout=self.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x)

    def in_plain_torch(self, name: str) -> list[str]:
        return plain_torch.write_lines(self.stack, f"{name}.stack")
