"""Supervised contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox_losses.pairs import PairLoss, check_temperature, masked_logsumexp, masked_mean


class SupCon(PairLoss):
    """For each anchor, the mean over its positives of the cross-entropy against all candidates.

        loss_i = -1/|P_i| * sum over p in P_i of log( exp(cos_ip / T) / sum over all candidates c of exp(cos_ic / T) )

    The result is the mean of loss_i over the anchors that have a positive; the others serve as negatives only. It is
    exactly 0 when there is no positive pair, or no negative pair, in the whole batch. Source: Khosla et al.,
    "Supervised Contrastive Learning", 2020, equation 2 (L_out).

    - `temperature`: T, divides the cosines; lower weighs hard negatives more.

    Among themselves, an embedding is no candidate of its own. With a second view all its rows are candidates, and the
    anchor's own second view is a positive. Without labels that one is the only positive, which makes this InfoNCE;
    rows from B on are explicit negatives of every anchor, in addition to those of the batch.
    Raises ValueError when the temperature is not positive, or when there are neither labels nor a second view.
    """

    def __init__(self, temperature: float = 0.1):
        super().__init__()
        self.temperature = check_temperature(temperature)

    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        scores = anchors @ candidates.T / self.temperature
        count = positive.sum(dim=1)
        mean_positive = torch.where(positive, scores, 0).sum(dim=1) / count.clamp(min=1)
        counted = (count > 0) & negative.any()
        per_anchor = masked_logsumexp(scores, positive | negative) - mean_positive
        return masked_mean(torch.where(counted, per_anchor, 0), counted)
