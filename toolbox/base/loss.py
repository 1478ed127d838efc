"""The extension point for losses over embeddings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn

from toolbox.base.functional import gather


class Loss(nn.Module, ABC):
    """A loss over the whole batch of all processes. Write `compute`; `forward` prepares its arguments.

        class Pull(Loss):
            def compute(self, embeddings, labels, ref_embeddings, ref_labels):
                same = labels[:, None] == ref_labels[None]
                return -(embeddings @ ref_embeddings.T)[same].mean()

    Parameters of a loss are trained, saved and resumed like any other part.

    - `needs_labels`: whether `compute` must be given labels; checked before it is called.
    """

    needs_labels: bool = True

    def connect(self, dim: int, classes: int | None = None) -> None:
        """Create parameters that depend on the embedding width `dim` or on the number of `classes`."""

    def after_step(self) -> None:
        """Called after every update: the place to clamp a learned scale."""

    @abstractmethod
    def compute(
        self, embeddings: Tensor, labels: Tensor | None, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        """The scalar loss, in float32 or float64, without autocast.

        - `embeddings`: (B, D), not necessarily normalised; `labels`: (B,) integers or None.
        - `ref_embeddings`: (R, D) to compare with, row i being a second view of embedding i when no labels
          are given; None to compare the embeddings among themselves, self pairs left out.
        - `ref_labels`: (R,) integers or None.
        """

    @final
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        *,
        ref_embeddings: Tensor | None = None,
        ref_labels: Tensor | None = None,
    ) -> Tensor:
        """Promote to at least float32, gather over processes with gradient, compute. Returns a scalar."""
        if self.needs_labels and labels is None:
            raise ValueError(f"{type(self).__name__} needs labels, and this batch has none")
        if ref_embeddings is not None and (labels is None) != (ref_labels is None):
            raise ValueError("labels and ref_labels go together: give both or neither")
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(
                gather(_at_least_float32(embeddings)),
                None if labels is None else gather(labels),
                None if ref_embeddings is None else gather(_at_least_float32(ref_embeddings)),
                None if ref_labels is None else gather(ref_labels),
            )


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
