"""InfoNCE, also known as NT-Xent and as the contrastive loss of CLIP."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.base import Loss
from toolbox_losses.pairs import check_temperature, masked_logsumexp, masked_mean, pair_masks, views


class InfoNCE(Loss):
    """The mean over positive pairs of the cross-entropy of that pair against the anchor's negatives.

        loss_ap = -log( exp(cos_ap / T) / (exp(cos_ap / T) + sum over negatives n of a of exp(cos_an / T)) )

    Other positives of the anchor are left out of the denominator, unlike in `losses.SupCon`. Exactly 0 when there is
    no positive or no negative pair. Source: van den Oord et al., "Representation Learning with Contrastive Predictive
    Coding", 2018; with labels, NT-Xent of Chen et al., "SimCLR", 2020, equation 1.

    - `temperature`: T, divides the cosines; lower weighs hard negatives more.
    - `symmetric`: with a second view, the average of both directions (first -> second and second -> first). Without
      a second view both are the same.

    Without labels, row i of the second view is the positive of embedding i and all its other rows are negatives:
    cross-entropy with the diagonal as target. Raises ValueError when the temperature is not positive, or when there
    are neither labels nor a second view.
    """

    needs_labels = False

    def __init__(self, temperature: float = 0.07, symmetric: bool = False):
        super().__init__()
        self.temperature = check_temperature(temperature)
        self.symmetric = symmetric

    def compute(
        self, embeddings: Tensor, labels: Tensor | None, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        positive, negative = pair_masks(embeddings, labels, ref_embeddings, ref_labels)
        anchors, candidates = views(embeddings, ref_embeddings)
        scores = anchors @ candidates.T / self.temperature
        loss = _direction(scores, positive, negative)
        if self.symmetric and ref_embeddings is not None:
            loss = (loss + _direction(scores.T, positive.T, negative.T)) / 2
        return loss


def _direction(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    excess = masked_logsumexp(scores, negative)[:, None] - scores
    # log(1 + exp(x)); torch's softplus drops the tail beyond 20 and is not exact in float64
    return masked_mean(torch.logaddexp(excess, torch.zeros_like(excess)), positive)
