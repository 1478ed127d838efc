"""Circle loss for pairs."""

from __future__ import annotations

from torch import Tensor

from toolbox_losses.pairs import PairLoss, check_positive, log_one_plus_exp, masked_logsumexp, masked_mean


class Circle(PairLoss):
    """Positives are pulled and negatives pushed, each as strongly as it is far from its optimum.

        loss_i = log(1 + sum over positives p and negatives n of exp(gamma * e_pn))
        e_pn = w_n * (cos_in - m) + w_p * (1 - m - cos_ip)
        w_p = max(0, 1 + m - cos_ip),  w_n = max(0, cos_in + m), both without gradient

    The result is the mean of loss_i over the anchors that have a positive and a negative; exactly 0 when there are
    none. An anchor whose loss rounds to 0 counts in that mean. Source: Sun et al., "Circle Loss: A Unified Perspective
    of Pair Similarity Optimization", 2020, equations 4 to 6 and 8.

    - `m`: the relaxation, 0 <= m < 1. Positives aim at cosines above 1 - m, negatives at cosines below m.
    - `gamma`: the scale. The paper takes m=0.4, gamma=80 for fine-grained retrieval; m=0.25, gamma=128 for persons.

    With a second view all its rows are candidates, the anchor's own second view a positive. Without labels that one
    is the only positive, and rows from B on are explicit negatives. Raises ValueError for arguments outside their
    range, or when there are neither labels nor a second view.
    """

    def __init__(self, m: float = 0.4, gamma: float = 80.0):
        super().__init__()
        if not 0 <= m < 1:
            raise ValueError(f"m must be at least 0 and below 1, not {m}: try 0.4")
        self.m, self.gamma = float(m), check_positive("gamma", gamma, "try 80")

    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        scores = anchors @ candidates.T
        fixed = scores.detach()
        pull = self.gamma * (1 + self.m - fixed).relu() * (1 - self.m - scores)
        push = self.gamma * (fixed + self.m).relu() * (scores - self.m)
        counted = positive.any(dim=1) & negative.any(dim=1)
        excess = masked_logsumexp(pull, positive) + masked_logsumexp(push, negative)
        return masked_mean(log_one_plus_exp(excess.where(counted, 0)), counted)
