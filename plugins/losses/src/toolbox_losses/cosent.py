"""CoSENT: every positive pair should be more similar than every negative one."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox_losses.pairs import PairLoss, check_positive, log_one_plus_exp, masked_logsumexp


class CoSENT(PairLoss):
    """Compares pairs with pairs, in one logarithm for the whole batch.

        loss = log(1 + sum over positive pairs p and negative pairs n of exp(scale * (cos_n - cos_p)))

    The sum is a product of two sums, so nothing of the size pairs x pairs is ever made. Exactly 0 when there is no
    positive or no negative pair. Source: Su, "CoSENT", 2022, for pairs that are equal or different.

    - `scale`: multiplies the cosines; higher weighs the hardest pairs more.
    - `within_anchor`: whether a positive pair is compared with the negative pairs of its own anchor only, the form
      for queries that each rank their own candidates. False compares pairs of all anchors, which makes cosines of
      different queries comparable, as for a threshold.

    Among themselves, two embeddings are one pair (with `within_anchor` one of each of the two). With a second view
    every embedding forms a pair with each of its rows. Without labels, an embedding and its second view are the one
    positive pair, and rows from B on are explicit negatives. Raises ValueError when the scale is not positive, or when
    there are neither labels nor a second view.
    """

    def __init__(self, scale: float = 20.0, within_anchor: bool = False):
        super().__init__()
        self.scale = check_positive("scale", scale, "20 is usual")
        self.within_anchor = bool(within_anchor)

    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        scores = self.scale * anchors @ candidates.T
        if not self.within_anchor:
            if candidates is anchors:
                positive, negative = positive.triu(), negative.triu()
            scores, positive, negative = (x.reshape(1, -1) for x in (scores, positive, negative))
        both = positive.any(dim=1) & negative.any(dim=1)
        excess = masked_logsumexp(scores, negative) + masked_logsumexp(-scores, positive)
        total = masked_logsumexp(torch.where(both, excess, 0)[None], both[None])[0]
        return log_one_plus_exp(total)
