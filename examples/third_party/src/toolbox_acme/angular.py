"""Angular prototypes: a loss that turns each embedding towards the others of its class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolbox.base import Loss, l2_normalize


class Angular(Loss):
    """Cross-entropy over the cosines between an embedding and the prototype (mean direction) of each class.

        loss_i = -log( exp(s * cos(x_i, p_own)) / sum over classes c of exp(s * cos(x_i, p_c)) )

    The prototype of an embedding's own class leaves the embedding itself out. The result is the mean over the
    embeddings whose class has another member; without any it is 0. Source: Chung et al., "In defence of metric
    learning for speaker recognition", Interspeech 2020; there the scale is learned too.

    - `scale`: s at the start; it is learned, and kept between 1 and 100.

    Raises ValueError when the scale is outside that range.
    """

    def __init__(self, scale: float = 10.0):
        super().__init__()
        if not 1 <= scale <= 100:
            raise ValueError(f"scale={scale} must be between 1 and 100; try 10")
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def compute(
        self, embeddings: Tensor, labels: Tensor | None, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        x = l2_normalize(embeddings)
        among_themselves = ref_embeddings is None
        members, member_labels = (x, labels) if among_themselves else (l2_normalize(ref_embeddings), ref_labels)
        classes = member_labels.unique()
        belongs = (classes[:, None] == member_labels).to(x.dtype)  # (C, R)
        own = labels[:, None] == classes  # (B, C)
        sums, others = belongs @ members, own.to(x.dtype) @ belongs.sum(dim=1)
        cosines = x @ l2_normalize(sums).T
        if among_themselves:
            rest = l2_normalize(own.to(x.dtype) @ sums - x)
            cosines = torch.where(own, (x * rest).sum(dim=1, keepdim=True), cosines)
            others = others - 1
        scores = cosines * self.log_scale.to(x.dtype).exp()
        losses = -torch.where(own, scores.log_softmax(dim=1), 0).sum(dim=1)
        counted = others > 0
        return torch.where(counted, losses, 0).sum() / counted.sum().clamp(min=1)

    def after_step(self) -> None:
        with torch.no_grad():
            self.log_scale.clamp_(0, math.log(100))
