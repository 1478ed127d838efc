"""InfoNCE, also known as NT-Xent and as the contrastive loss of CLIP."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox_losses.pairs import PairLoss, check_temperature, log_one_plus_exp, masked_logsumexp, masked_mean


class InfoNCE(PairLoss):
    """The mean over positive pairs of the cross-entropy of that pair against the anchor's negatives.

        loss_ap = -log( exp(cos_ap / T) / (exp(cos_ap / T) + sum over negatives n of a of exp(cos_an / T)) )

    Other positives of the anchor are left out of the denominator, unlike in `losses.SupCon`. Exactly 0 when there is
    no positive or no negative pair. Source: van den Oord et al., "Representation Learning with Contrastive Predictive
    Coding", 2018; with labels, NT-Xent of Chen et al., "SimCLR", 2020, equation 1.

    - `temperature`: T, divides the cosines; lower weighs hard negatives more.
    - `symmetric`: with a second view, the average of both directions (first -> second and second -> first). Without
      a second view both are the same.
    - `hardest`: how many negatives of an anchor, those of the highest cosine, stay in its denominator; the others get
      no gradient. None, or more than there are, keeps all.

    Without labels, row i of the second view is the positive of embedding i and all its other rows are negatives:
    cross-entropy with the diagonal as target. Rows from B on are explicit negatives, in addition to those of the
    batch. They belong to no embedding, so the second direction (the first B rows of the second view as anchors, the
    embeddings as candidates) does not see them. Raises ValueError when the temperature or `hardest` is not positive,
    or when there are neither labels nor a second view.
    """

    def __init__(self, temperature: float = 0.07, symmetric: bool = False, hardest: int | None = None):
        super().__init__()
        if hardest is not None and (isinstance(hardest, bool) or not isinstance(hardest, int) or hardest < 1):
            raise ValueError(f"hardest must be a number of negatives, 1 or more, or None for all, not {hardest!r}")
        self.temperature = check_temperature(temperature)
        self.symmetric, self.hardest = symmetric, hardest

    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        scores = anchors @ candidates.T / self.temperature
        loss = compute_direction(scores, positive, negative, self.hardest)
        if self.symmetric and candidates is not anchors:
            loss = (loss + compute_direction(scores.T, positive.T, negative.T, self.hardest)) / 2
        return loss


def compute_direction(scores: Tensor, positive: Tensor, negative: Tensor, hardest: int | None = None) -> Tensor:
    """The scalar loss of (B, R) scaled cosines, rows as anchors. An anchor without positives takes no part."""
    negative_scores, kept = scores, negative
    if hardest is not None and hardest < scores.shape[1]:
        negatives = scores.masked_fill(~negative, torch.finfo(scores.dtype).min).topk(hardest, dim=1)
        negative_scores, kept = negatives.values, negative.gather(1, negatives.indices)
    return masked_mean(log_one_plus_exp(masked_logsumexp(negative_scores, kept)[:, None] - scores), positive)
