"""The symmetric cross-entropy of CLIP, with a learned scale."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolbox_losses.learned_scale import ScaledPairLoss
from toolbox_losses.pairs import masked_mean


class CLIP(ScaledPairLoss):
    """Each embedding finds its partner among all second views, and each second view its own among the embeddings.

        z_ij = exp(log_scale) * cos_ij
        loss = 1/2 * (mean over rows i of CE(z_i, p_i) + mean over columns j of CE(z_j, p_j)),
        p_i = 1/|P_i| for the positives P_i of i, else 0

    Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, figure 3;
    with several positives the target is spread over them evenly, so that equal captions do not push each other away.

    - `log_scale`: where the learned parameter `log_scale` starts; 2.6592 is a scale of 1/0.07.
    - `max_scale`: the scale is kept at this or below after every update, and at 1 or above; None for no upper limit.

    The parameter is the part `model.criterion` of a recipe. Pairs of equal labels are positive; without labels, row i
    of the second view is the one positive of embedding i, and rows from B on are explicit negatives, which have no
    direction of their own. Without a second view the embeddings are compared among themselves, self pairs left out. A
    row without a positive takes no part. Raises ValueError for a start that is not finite or outside the limits, for a
    batch of a single pair, which has nothing to be told from, and when there are neither labels nor a second view.
    """

    def __init__(self, log_scale: float = 2.6592, max_scale: float | None = 100.0):
        super().__init__(log_scale, max_scale, min_scale=1.0)

    def chance_level(self, rows: int) -> float:
        return math.log(max(rows, 1))

    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        if len(candidates) < 2:
            raise ValueError(
                "CLIP compares a pair with the others of its batch, and this batch has one pair: use a larger "
                "batch_size, or drop the last incomplete batch"
            )
        logits = self.scale(anchors @ candidates.T)
        compared = positive | negative
        loss = cross_entropy(logits, positive, compared)
        if candidates is anchors:
            return loss
        return (loss + cross_entropy(*(x[:, : len(anchors)].T for x in (logits, positive, compared)))) / 2


def cross_entropy(logits: Tensor, positive: Tensor, compared: Tensor) -> Tensor:
    """The mean over rows of the cross-entropy with the even distribution over their positives.

    - `logits`, `positive`, `compared`: (B, R); what is not `compared` is left out of the softmax. A row without
      positives takes no part.
    """
    count = positive.sum(dim=1)
    mean_positive = torch.where(positive, logits, 0).sum(dim=1) / count.clamp(min=1)
    normalizer = logits.masked_fill(~compared, -torch.inf).logsumexp(dim=1)
    return masked_mean(torch.where(count > 0, normalizer - mean_positive, 0), count > 0)
