"""Multi-similarity loss, with its pair mining."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolbox_losses.pairs import PairLoss, check_positive, log_one_plus_exp, masked_logsumexp


class MultiSimilarity(PairLoss):
    """Each anchor pulls its positives and pushes its negatives, the far positives and the near negatives the most.

        loss_i = 1/alpha * log(1 + sum over positives p of exp(-alpha * (cos_ip - base)))
               + 1/beta * log(1 + sum over negatives n of exp(beta * (cos_in - base)))

    The result is the mean of loss_i over all anchors. An anchor without positives still pushes its negatives, and one
    without negatives still pulls its positives. Source: Wang et al., "Multi-Similarity Loss with General Pair
    Weighting for Deep Metric Learning", 2019, equation 15.

    - `alpha`, `beta`: how sharply the loss turns to the hardest positives and negatives.
    - `base`: the cosine that positives should exceed and negatives stay below.
    - `mine`: use only informative pairs (equations 11 and 12 there): of an anchor the negatives that are nearer than
      its farthest positive, up to `epsilon`, and the positives that are farther than its nearest negative, up to
      `epsilon`. An anchor without positives or without negatives then has the loss 0.
    - `epsilon`: the tolerance of the mining, a difference of cosines.

    With a second view all its rows are candidates, the anchor's own second view a positive. Without labels that one
    is the only positive, and rows from B on are explicit negatives. Raises ValueError for arguments outside their
    range, or when there are neither labels nor a second view.
    """

    def __init__(
        self, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, mine: bool = False, epsilon: float = 0.1
    ):
        super().__init__()
        self.alpha = check_positive("alpha", alpha, "try 2")
        self.beta = check_positive("beta", beta, "try 50")
        if not -1 <= base <= 1:
            raise ValueError(f"base is a cosine, -1 to 1, not {base}: try 0.5")
        if not (epsilon >= 0 and math.isfinite(epsilon)):
            raise ValueError(f"epsilon must be 0 or more, not {epsilon}: try 0.1")
        self.base, self.mine, self.epsilon = float(base), mine, float(epsilon)

    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        scores = anchors @ candidates.T
        if self.mine:
            positive, negative = mine_pairs(scores.detach(), positive, negative, self.epsilon)
        pull = log_one_plus_exp(masked_logsumexp(self.alpha * (self.base - scores), positive)) / self.alpha
        push = log_one_plus_exp(masked_logsumexp(self.beta * (scores - self.base), negative)) / self.beta
        return (pull + push).mean()


def mine_pairs(scores: Tensor, positive: Tensor, negative: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """The pairs of two (B, R) masks that mining keeps, as two masks."""
    limits = torch.finfo(scores.dtype)
    nearest = scores.masked_fill(~negative, limits.min).amax(dim=1, keepdim=True)
    farthest = scores.masked_fill(~positive, limits.max).amin(dim=1, keepdim=True)
    return positive & (scores - epsilon < nearest), negative & (scores + epsilon > farthest)
