"""Token mixers, a kind of component that this plugin adds: the abstract class, and two components."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class TokenMixer(nn.Module, ABC):
    """Mixing across the patches of an image, one channel at a time, in a block of `acme.PatchMixer`.

    `connect` is called once, before `forward`.
    """

    @abstractmethod
    def connect(self, patches: int) -> None:
        """Create what depends on the number of patches."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """(B, D, N) -> (B, D, N), or (B, D, 1) where all patches get the same."""


class TokenMLP(TokenMixer):
    """An MLP over all patches, as in MLP-Mixer.

    - `expand`: width of its hidden layer, in multiples of the number of patches.

    Raises ValueError for an `expand` below 1.
    """

    def __init__(self, expand: int = 2):
        super().__init__()
        if expand < 1:
            raise ValueError(f"expand={expand} must be at least 1; try 2")
        self.expand = expand

    def connect(self, patches: int) -> None:
        hidden = self.expand * patches
        self.net = nn.Sequential(nn.Linear(patches, hidden), nn.GELU(), nn.Linear(hidden, patches))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TokenMean(TokenMixer):
    """The mean of all patches. It has no parameters, and ignores where a patch was."""

    def connect(self, patches: int) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=2, keepdim=True)
