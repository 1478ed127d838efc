"""Triplet margin loss with three ways to choose triplets."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from toolbox_losses.pairs import PairLoss, masked_mean


class Triplet(PairLoss):
    """Every positive should be nearer to the anchor than every negative, by a margin.

        loss_apn = max(0, d_ap - d_an + margin)

    - `margin`: in units of the distance; 0.05 to 0.5 are usual.
    - `miner`: which triplets count. "all": every anchor, positive and negative. "hard": for each anchor its farthest
      positive and its nearest negative (batch-hard). "semi": those whose negative is farther than the positive, but
      by no more than the margin (semi-hard).
    - `distance`: of the normalised embeddings. "euclidean": their Euclidean distance, not squared, 0 to 2.
      "cosine": minus their cosine.
    - `reducer`: "nonzero": the mean over the chosen triplets whose loss is above 0. "mean": over all chosen ones.
      None takes "mean" for `miner="hard"` and "nonzero" else, the usual form of each.

    Without labels, row i of the second view is the one positive of embedding i; rows from B on are explicit negatives
    of every embedding, in addition to those of the batch. The loss is exactly 0 when no triplet is chosen. Raises
    ValueError for a margin that makes no sense, or when there are neither labels nor a second view. Sources: Schroff
    et al., "FaceNet", 2015 (semi-hard); Hermans et al., "In Defense of the Triplet Loss for Person
    Re-Identification", 2017 (batch-hard).
    """

    def __init__(
        self,
        margin: float = 0.05,
        miner: Literal["all", "hard", "semi"] = "all",
        distance: Literal["euclidean", "cosine"] = "euclidean",
        reducer: Literal["nonzero", "mean"] | None = None,
    ):
        super().__init__()
        if not (margin >= 0 and math.isfinite(margin)):
            raise ValueError(f"margin must be 0 or more, not {margin}: try 0.05")
        if miner not in ("all", "hard", "semi"):
            raise ValueError(f"miner must be 'all', 'hard' or 'semi', not {miner!r}")
        if miner == "semi" and margin == 0:
            raise ValueError("margin=0 leaves no semi-hard triplet to learn from: try margin=0.05")
        if distance not in ("euclidean", "cosine"):
            raise ValueError(f"distance must be 'euclidean' or 'cosine', not {distance!r}")
        if reducer not in ("nonzero", "mean", None):
            raise ValueError(f"reducer must be 'nonzero', 'mean' or None, not {reducer!r}")
        self.margin, self.miner, self.distance = float(margin), miner, distance
        self.reducer = reducer or ("mean" if miner == "hard" else "nonzero")

    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        distances = (
            compute_distances(anchors, candidates) if self.distance == "euclidean" else -(anchors @ candidates.T)
        )
        if self.miner == "hard":
            return self._hard(distances, positive, negative)
        return self._many(distances, positive, negative)

    def _hard(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        fixed = distances.detach()
        farthest = fixed.masked_fill(~positive, -torch.inf).max(dim=1, keepdim=True).indices
        nearest = fixed.masked_fill(~negative, torch.inf).min(dim=1, keepdim=True).indices
        losses = (distances.gather(1, farthest) - distances.gather(1, nearest) + self.margin).relu()[:, 0]
        counted = positive.any(dim=1) & negative.any(dim=1)
        if self.reducer == "nonzero":
            counted = counted & (losses > 0)
        return masked_mean(losses, counted)

    def _many(self, distances: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        # The sum over losing triplets is linear in the distances, so counting how often each distance takes part gives
        # value and gradient exactly. Sorted rows give the counts without ever listing triplets: O(B R log R).
        near = distances.detach()
        limit = near + self.margin  # a negative loses to a positive when it is nearer than this
        negatives = _sorted_rows(near, negative)
        losing = torch.searchsorted(negatives, limit)
        chosen = torch.searchsorted(negatives, limit, right=True)
        beaten = torch.searchsorted(_sorted_rows(limit, positive), near, right=True)
        if self.miner == "semi":
            nearer = torch.searchsorted(negatives, near, right=True)
            losing, chosen = losing - nearer, chosen - nearer
            wins = torch.searchsorted(_sorted_rows(near, positive), near) - beaten
        else:
            chosen = negative.sum(dim=1, keepdim=True).expand_as(losing)
            wins = positive.sum(dim=1, keepdim=True) - beaten
        share = (torch.where(positive, losing, 0) - torch.where(negative, wins, 0)).to(near.dtype)
        active = torch.where(positive, losing, 0).sum().to(near.dtype)
        count = active if self.reducer == "nonzero" else torch.where(positive, chosen, 0).sum()
        return ((share * distances).sum() + self.margin * active) / count.clamp(min=1)


def _sorted_rows(values: Tensor, mask: Tensor) -> Tensor:
    """Each row's values where `mask`, ascending; the rest of the row is infinite."""
    return values.masked_fill(~mask, torch.inf).sort(dim=1).values


def compute_distances(anchors: Tensor, candidates: Tensor) -> Tensor:
    """(B, D), (R, D) of length 1 or 0 -> (B, R): Euclidean distances; equal points have distance 0 and no gradient.

    Squared distances within the rounding error of the matrix product count as equal points: there the square root's
    slope is unbounded and multiplies nothing but noise.
    """
    squared = anchors.square().sum(1)[:, None] + candidates.square().sum(1)[None] - 2 * anchors @ candidates.T
    equal = squared <= 8 * torch.finfo(squared.dtype).eps
    return torch.where(equal, 0, torch.where(equal, 1, squared).sqrt())
