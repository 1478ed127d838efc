"""A loss over the first components of the embeddings too, so that they can be cut."""

from __future__ import annotations

import copy

from toolbox.base import Loss
from toolbox_losses.parts import CombinedLoss, check_loss_object


class Matryoshka(CombinedLoss):
    """The sum over dims of weight * loss(the first dim components of the embeddings).

    Embeddings trained so keep most of their quality when only the first components are stored. A loss that compares
    directions, as all of this plugin do, normalises every cut by itself. It is a sum, not an average: with three dims
    the loss is about three times as high. Source: Kusupati et al., "Matryoshka Representation Learning", 2022.

    - `loss`: any; one copy for each of dims, with parameters of its own (proxies as wide as the cut, say), which are
      the parts `model.criterion.losses.0` and so on.
    - `dims`: different numbers of components, in any order; None for 512, 256 and 128. The full width only takes part
      when it is among them.
    - `weights`: a number, 0 or more, for each of dims, in the order given; None for 1 each.

    A teacher's embeddings are never cut. Where embeddings are sets of tokens, every token is cut. Raises ValueError
    for dims or weights that make no sense, and when the embeddings are narrower than one of dims.
    """

    def __init__(self, loss: Loss, dims: list[int] | None = None, weights: list[float] | None = None):
        check_loss_object(loss, "loss")
        self.dims = [512, 256, 128] if dims is None else list(dims)
        if not self.dims or min(self.dims) < 1 or len(set(self.dims)) < len(self.dims):
            raise ValueError(f"dims must be different numbers from 1 up, not {self.dims}: try dims=[512,256,128]")
        super().__init__((copy.deepcopy(loss) for _ in self.dims), weights, "dims")

    def list_widths(self, dim: int) -> list[int]:
        if max(self.dims) > dim:
            fitting = [number for number in self.dims if number <= dim] or [dim]
            raise ValueError(
                f"dims={self.dims} asks for {max(self.dims)} components, and the embeddings have {dim}: try "
                f"dims={fitting}, or a wider head"
            )
        return self.dims
