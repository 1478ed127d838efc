"""Whitening by principal components, learned from batches of embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import get_dist_info
from toolbox.utils.ranking import normalize_rows

WIDEST = 8192
"""Of wider embeddings the covariance alone would take more than half a GiB, and its eigenvectors hours."""


class Whitening:
    """y = L^-1/2 U^T (x - mean) and then length 1, with the `dim` largest principal directions U of variances L.

    Jégou and Chum, "Negative evidences and co-occurrences in image retrieval: the benefit of PCA and whitening", 2012.
    Rows are made of length 1 before they count, and sums are kept in float64 on the CPU: (D, D) and nothing else.

    - `dim`: the width that is kept.
    """

    def __init__(self, dim: int) -> None:
        self.dim, self.count = dim, 0
        self._sums: tuple[Tensor, Tensor] | None = None  # of the rows, (D,), and of their products, (D, D)

    def add(self, embeddings: Tensor) -> None:
        """Take in (B, D). Raises ValueError where D is below `dim` or above `WIDEST`."""
        width = embeddings.shape[1]
        if width > WIDEST:
            raise ValueError(
                f"whitening needs a covariance of the embeddings, and {width} is too wide: {WIDEST} at most"
            )
        if width < self.dim:
            raise ValueError(f"whiten={self.dim} is wider than the embeddings, which have {width} dimensions")
        if self._sums is None:
            self._sums = torch.zeros(width).double(), torch.zeros(width, width).double()
        total, products = self._sums
        for part in embeddings.split(4096):
            rows = _normalize(part)
            self.count += len(rows)
            total += rows.sum(dim=0)
            products.addmm_(rows.T, rows)

    def gather(self) -> Whitening:
        """The sums of all processes in one."""
        if get_dist_info()[1] == 1:
            return self
        parts: list = [None] * get_dist_info()[1]
        dist.all_gather_object(parts, (self.count, self._sums))
        whitening = Whitening(self.dim)
        if sums := [part_sums for count, part_sums in parts if count]:
            whitening.count = sum(count for count, _ in parts)
            total, products = (torch.stack([part_sums[i] for part_sums in sums]).sum(dim=0) for i in (0, 1))
            whitening._sums = total, products
        return whitening

    def fit(self) -> WhiteningProjection:
        """The projection. Raises ValueError when the rows do not vary in `dim` directions."""
        if self._sums is None or not bool(self._sums[0].isfinite().all()):
            raise ValueError("whitening saw no embeddings, or some that hold NaN or infinity")
        total, products = self._sums
        mean = total / self.count
        covariance = products / self.count - mean[:, None] * mean[None]
        variances, directions = torch.linalg.eigh(covariance)
        rank = int((variances > 1e-10 * variances[-1].clamp(min=1e-12)).sum())
        if rank < self.dim:
            raise ValueError(
                f"whiten={self.dim} asks for more directions than the {rank} in which the {self.count} embeddings "
                f"that it is learned from vary: use whiten={max(rank, 1)} at most"
            )
        return WhiteningProjection(mean, directions[:, -self.dim :] / variances[-self.dim :].sqrt())


@dataclass
class WhiteningProjection:
    """A fitted whitening.

    - `mean`: (D,); `matrix`: (D, dim).
    """

    mean: Tensor
    matrix: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        """(N, D) -> (N, dim) float32 of length 1, on the same device."""
        if embeddings.shape[1] != len(self.mean):
            raise ValueError(
                f"whitening was learned from embeddings of {len(self.mean)} dimensions, and these have "
                f"{embeddings.shape[1]}"
            )
        parts = [(_normalize(part) - self.mean) @ self.matrix for part in embeddings.split(4096)]
        return normalize_rows(torch.cat(parts)).float().to(embeddings.device)


def _normalize(x: Tensor) -> Tensor:
    """Rows of length 1, in float64 on the CPU: not every accelerator has it."""
    return normalize_rows(x.to("cpu", torch.float64, copy=True))
