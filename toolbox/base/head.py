"""The extension point after the pool: from pooled features to embeddings, logits, prototypes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class Head(nn.Module, ABC):
    """Takes its input width from the model, so that a recipe never repeats it.

        class Linear(Head):
            def __init__(self, dim: int = 128):
                super().__init__()
                self.out_dim = dim
            def connect(self, in_dim, classes=None):
                self.in_dim = in_dim
                self.fc = nn.Linear(in_dim, self.out_dim)
            def forward(self, x):
                return self.fc(x)

    - `in_dim`, `out_dim`: known after `connect`.
    """

    in_dim: int
    out_dim: int

    @abstractmethod
    def connect(self, in_dim: int, classes: int | None = None) -> None:
        """Create the layers for inputs of width `in_dim`; `classes` is the training set's number of classes."""

    @abstractmethod
    def forward(self, x: Any) -> Tensor:
        """From pooled features to the head's outputs.

        - `x`: (B, in_dim): annotate `Tensor`; or `Features`, in a head that reads tokens.

        Returns (B, out_dim).
        """

    def in_plain_torch(self, name: str) -> list[str]:
        """Lines of Python that turn `x`, the pooled features, into the embedding; `F` is torch.nn.functional.

        - `name`: of this head in the state dict `head`, which holds its tensors; `toolbox.base.plain_torch` helps.

        Raises ValueError where there are none; so does the default.
        """
        raise ValueError(f"{type(self).__name__} does not say what it is in plain torch")
