"""The sigmoid loss of SigLIP."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolbox_losses.learned_scale import ScaledPairLoss


class SigLIP(ScaledPairLoss):
    """Every pair by itself is classified as positive or negative, with a learned scale and bias.

        loss = 1/B * sum over pairs of log(1 + exp(-y * (exp(log_scale) * cos + bias))),  y = +1 or -1

    Unlike a softmax it needs no large batch, and it is the same in both directions. Source: Zhai et al., "Sigmoid Loss
    for Language Image Pre-Training", 2023, equation 1.

    - `log_scale`: where the learned parameter `log_scale` starts; 2.6592 is a scale of 14.3, the paper starts at 10.
    - `bias`: where the learned `bias` starts; strongly negative, as nearly all pairs of a batch are negative.
    - `max_scale`: the scale is kept at this or below after every update; None for no limit.

    Both parameters are the part `model.criterion` of a recipe, with a learning rate of their own if
    `optim_wrapper.parts` gives one. Pairs of equal labels are positive; without labels, an embedding and its second
    view, and rows from B on are explicit negatives. Without a second view self pairs are left out. Raises ValueError
    for a start that is not finite or above the limit, or when there are neither labels nor a second view.
    """

    def __init__(self, log_scale: float = 2.6592, bias: float = -10.0, max_scale: float | None = 100.0):
        super().__init__(log_scale, max_scale)
        if not math.isfinite(bias):
            raise ValueError(f"bias must be a finite number, not {bias}")
        self.bias = nn.Parameter(torch.tensor(float(bias)))

    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        scores = anchors @ candidates.T
        logits = self.scale(scores) + self.bias.to(scores.dtype)
        losses = -nn.functional.logsigmoid(torch.where(positive, logits, -logits))
        return torch.where(positive | negative, losses, 0).sum() / len(anchors)

    def chance_level(self, rows: int) -> float:
        share = 1 / max(rows, 2)  # of positive pairs; the best constant logit is that of this probability
        return -(math.log(share) + (1 - share) / share * math.log1p(-share))
