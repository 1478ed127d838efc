"""The extension point between a backbone's tokens and a head's vector."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from toolbox.base.features import Features


class Pool(nn.Module, ABC):
    """Features -> one vector an item, or, where `keeps_tokens`, one set of vectors.

    For example:

        class First(Pool):
            def dim(self, width):
                return width
            def forward(self, features):
                return features.tokens[:, 0]

    - `keeps_tokens`: whether it gives (B, N, D) for late interaction, a token of zeros being padding.
    - `layers`: how many last blocks it reads in `Features.blocks`; with 1 it reads `Features.tokens` alone.
    """

    keeps_tokens: bool = False
    layers: int = 1

    @abstractmethod
    def dim(self, width: int) -> int:
        """The pooled width for tokens of `width`."""

    @abstractmethod
    def forward(self, features: Features) -> Tensor:
        """(B, N, D) tokens -> (B, dim(D))."""

    def in_plain_torch(self, name: str) -> list[str]:
        """Lines of Python from `tokens`, (B, N, D), and `prefix` to `x`, the pooled features: for those without us.

        - `name`: of this pool in the state dict `head`, which holds its tensors.

        Raises ValueError where there are none; so does the default.
        """
        raise ValueError(f"{type(self).__name__} does not say what it is in plain torch")
