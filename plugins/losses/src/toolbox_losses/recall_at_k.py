"""A smooth Recall@k, as a loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from toolbox_losses.pairs import PairLoss, check_positive, masked_mean

COMPARISONS = 2**22  # how many are held at a time


class RecallAtK(PairLoss):
    """One minus a Recall@k whose two steps, being ahead and being within the first k, are sigmoids.

        rank_ip = 1 + sum over candidates c other than p of sigmoid((cos_ic - cos_ip) / rank_temperature)
        recall_ik = min(k, sum over positives p of sigmoid((k - rank_ip) / k_temperature)) / min(k, |P_i|)
        loss_i = 1 - mean over ks of recall_ik

    The result is the mean of loss_i over the anchors that have a positive and a negative; exactly 0 when there are
    none. An anchor is no candidate of its own. It never reaches 0 otherwise: a positive at rank k counts one half.
    Source: Patel et al., "Recall@k Surrogate Loss with Large Batches and Similarity Mixup", 2022; dividing by, and
    cutting at, k where an anchor has more positives than k is taken from the authors' code. Unlike that code, the
    anchor itself takes no place in its ranking.

    - `ks`: the ks to average over, None for 1, 2, 4, 8 and 16. Those beyond the number of candidates teach nothing.
    - `rank_temperature`: of the comparison of two cosines; pairs that differ by far more have no gradient.
    - `k_temperature`: of the comparison of a rank with k.

    It makes (number of positive pairs) x R comparisons, B x B x B for a single class. They are computed in parts of
    about 4 million and again for the gradient, so memory stays within a few hundred MiB plus the matrix of cosines.

    With a second view all its rows are candidates, the anchor's own second view a positive. Without labels that one
    is the only positive, and rows from B on are explicit negatives. Raises ValueError for arguments outside their
    range, or when there are neither labels nor a second view.
    """

    def __init__(self, ks: list[int] | None = None, rank_temperature: float = 0.01, k_temperature: float = 1.0):
        super().__init__()
        self.ks = [1, 2, 4, 8, 16] if ks is None else list(ks)
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks must be different numbers from 1 up, not {self.ks}: try ks=[1,2,4,8,16]")
        self.rank_temperature = check_positive("rank_temperature", rank_temperature, "try 0.01")
        self.k_temperature = check_positive("k_temperature", k_temperature, "try 1")

    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        counts = positive.sum(dim=1)
        # positives first: of each row as many columns as the anchor with the most positives has
        chosen, columns = positive.int().topk(int(counts.max()), dim=1)
        ranks = compute_soft_ranks(anchors @ candidates.T, columns, positive | negative, self.rank_temperature)
        recalls = [
            (((k - ranks) / self.k_temperature).sigmoid() * chosen).sum(dim=1).clamp(max=k) / counts.clamp(1, k)
            for k in self.ks
        ]
        return masked_mean(1 - torch.stack(recalls).mean(dim=0), (counts > 0) & negative.any(dim=1))


def compute_soft_ranks(scores: Tensor, columns: Tensor, candidate: Tensor, temperature: float) -> Tensor:
    """Smooth ranks, from 1 up, (B, P): of the candidates `columns` (B, P) among all of `scores` (B, R).

    - `candidate`: (B, R) bool, False for columns that take no place in the ranking.
    """
    targets = scores.gather(1, columns)
    size = max(1, COMPARISONS // max(1, columns.shape[1] * scores.shape[1]))
    if size >= len(scores):
        return _compute_ranks(scores, targets, candidate, temperature)
    parts = [part.split(size) for part in (scores, targets, candidate)]
    # only the inputs of a part are kept; its comparisons are made again when the gradient is computed
    return torch.cat(
        [
            checkpoint(_compute_ranks, *part, temperature, use_reentrant=False, preserve_rng_state=False)
            for part in zip(*parts, strict=True)
        ]
    )


def _compute_ranks(scores: Tensor, targets: Tensor, candidate: Tensor, temperature: float) -> Tensor:
    ahead = ((scores[:, None] - targets[:, :, None]) / temperature).sigmoid()
    # the sum has the target's comparison with itself, which is one half
    return 0.5 + (ahead * candidate[:, None]).sum(dim=2)
