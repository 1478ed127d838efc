"""Heads that give one number for each class."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from toolbox.base import Head, plain_torch
from toolbox.utils.layers import Norm, check_dropout, check_norm, stack_layers


class ClassHead(Head):
    """The base of heads from features to one number for each class: a stack of layers."""

    stack: nn.Sequential

    def connect(self, in_dim: int, classes: int | None = None) -> None:
        if classes is None:
            raise ValueError(
                f"{type(self).__name__} gives a number for each class, and these data have no labels: use a labelled "
                "dataset, or a head with a width of its own, such as core.Projection"
            )
        self.in_dim, self.out_dim = in_dim, classes
        self.stack = self.build_layers(in_dim, classes)

    @abstractmethod
    def build_layers(self, in_dim: int, classes: int) -> nn.Sequential:
        """The layers from `in_dim` to `classes` numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return self.stack(x)

    def in_plain_torch(self, name: str) -> list[str]:
        return plain_torch.write_lines(self.stack, f"{name}.stack")


class Linear(ClassHead):
    """One linear layer, the head of linear probing.

    - `dropout`: probability that a feature is zeroed in training, 0 <= p < 1.
    - `norm`: the norm before it: "none", "batch" (BatchNorm1d) or "layer" (LayerNorm).

    Weights start from a normal distribution of standard deviation 0.01, biases at 0, as in the evaluation of DINO
    (Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", 2021). Raises ValueError for values
    outside these, and where the classes are unknown.
    """

    def __init__(self, dropout: float = 0.0, norm: Norm = "none"):
        super().__init__()
        self.dropout, self.norm = check_dropout(dropout), check_norm(norm)

    def build_layers(self, in_dim: int, classes: int) -> nn.Sequential:
        stack = stack_layers([in_dim, classes], norm=self.norm, dropout=self.dropout)
        for layer in stack:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)
        return stack


class MLP(ClassHead):
    """Linear layers with ReLU and dropout between them.

    - `hidden`: width between them, None for half the input's.
    - `layers`: how many linear layers, 2 or more.
    - `dropout`: probability that a number between two layers is zeroed in training, 0 <= p < 1.

    Raises ValueError for values outside these, and where the classes are unknown.
    """

    def __init__(self, hidden: int | None = None, layers: int = 2, dropout: float = 0.1):
        super().__init__()
        if hidden is not None and hidden < 1:
            raise ValueError(f"hidden={hidden} is no width. Try 512, or None for half the width of the input.")
        if layers < 2:
            raise ValueError(f"an MLP has 2 layers or more, not {layers}: one layer is classification.Linear.")
        self.hidden, self.layer_count, self.dropout = hidden, layers, check_dropout(dropout)

    def build_layers(self, in_dim: int, classes: int) -> nn.Sequential:
        hidden = max(1, in_dim // 2) if self.hidden is None else self.hidden
        widths = [in_dim, *[hidden] * (self.layer_count - 1), classes]
        return stack_layers(widths, activation=nn.ReLU, dropout=self.dropout, first_dropout=False)
