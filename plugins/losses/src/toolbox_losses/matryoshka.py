"""A loss over the first components of the embeddings too, so that they can be cut."""

from __future__ import annotations

import copy

from torch import Tensor, nn

from toolbox.base import Loss
from toolbox_losses.parts import check_loss_object, check_weights, compute_part, list_losses, take_over_needs


class Matryoshka(Loss):
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
        super().__init__()
        check_loss_object(loss, "loss")
        self.dims = [512, 256, 128] if dims is None else list(dims)
        if not self.dims or min(self.dims) < 1 or len(set(self.dims)) < len(self.dims):
            raise ValueError(f"dims must be different numbers from 1 up, not {self.dims}: try dims=[512,256,128]")
        self.weights = check_weights(weights, len(self.dims), "dims")
        self.losses = nn.ModuleList(copy.deepcopy(loss) for _ in self.dims)
        take_over_needs(self, [loss])

    def connect(self, dim: int, classes: int | None = None) -> None:
        self._check_width(dim)
        for loss, width in zip(list_losses(self.losses), self.dims, strict=True):
            loss.connect(width, classes)

    def check_teacher(self, dim: int, teacher_dim: int) -> None:
        for loss, width in zip(list_losses(self.losses), self.dims, strict=True):
            loss.check_teacher(width, teacher_dim)

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        ref_embeddings: Tensor | None,
        ref_labels: Tensor | None,
        teacher: Tensor | None = None,
        ref_teacher: Tensor | None = None,
    ) -> Tensor:
        self._check_width(embeddings.shape[-1])
        values = []
        for loss, dim, weight in zip(list_losses(self.losses), self.dims, self.weights, strict=True):
            refs = None if ref_embeddings is None else ref_embeddings[..., :dim]
            value = compute_part(loss, embeddings[..., :dim], labels, refs, ref_labels, teacher, ref_teacher)
            values.append(weight * value)
        return sum(values[1:], start=values[0])

    def _check_width(self, dim: int) -> None:
        if max(self.dims) > dim:
            fitting = [number for number in self.dims if number <= dim] or [dim]
            raise ValueError(
                f"dims={self.dims} asks for {max(self.dims)} components, and the embeddings have {dim}: try "
                f"dims={fitting}, or a wider head"
            )
