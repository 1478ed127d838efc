"""The head of frozen towers: a gated layer between a norm and a projection."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from toolbox.base import Head, plain_torch
from toolbox.utils.layers import check_dropout


class GatedMLP(Head):
    """Layer norm, two linear layers of which one gates the other, and a linear layer to the embedding.

        y = W3 (relu6(W1 n) * (W2 n)),  n = layer_norm(x)

    A product of two linear layers makes features that neither has; on stored features of large frozen towers it aligns
    better than a linear head (Zhang et al., "Assessing and Learning Alignment of Unimodal Vision and Language Models",
    2025, after Ma et al., "Rewrite the Stars", 2024).

    - `dim`: width of the embedding.
    - `expansion`: width between the layers, as a multiple of the input's width.
    - `dropout`: probability that a value between the layers is zeroed in training, 0 <= p < 1.

    Raises ValueError for values outside these.
    """

    def __init__(self, dim: int = 512, expansion: float = 8.0, dropout: float = 0.0):
        super().__init__()
        if dim < 1 or expansion <= 0:
            raise ValueError(f"a head has a width of at least 1, not dim={dim}, expansion={expansion}.")
        self.out_dim, self.expansion = dim, expansion
        self.dropout = nn.Dropout(check_dropout(dropout))

    def connect(self, in_dim: int, classes: int | None = None) -> None:
        self.in_dim = in_dim
        hidden = max(1, round(self.expansion * in_dim))
        self.norm = nn.LayerNorm(in_dim)
        self.gate, self.value = nn.Linear(in_dim, hidden), nn.Linear(in_dim, hidden)
        self.projection = nn.Linear(hidden, self.out_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.projection(self.dropout(functional.relu6(self.gate(x)) * self.value(x)))

    def in_plain_torch(self, name: str) -> list[str]:
        branches = (("gate", self.gate), ("value", self.value))
        gate, value = (plain_torch.write_lines(part, f"{name}.{key}")[0] for key, part in branches)
        return [
            *plain_torch.write_lines(self.norm, f"{name}.norm"),
            gate.replace("x = ", "gate = ", 1),
            value,
            "x = F.relu6(gate) * x",
            *plain_torch.write_lines(self.projection, f"{name}.projection"),
        ]
