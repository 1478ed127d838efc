"""Late interaction: two sets of tokens compared token by token."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from toolbox.base import Loss
from toolbox_losses.infonce import compute_direction
from toolbox_losses.pairs import check_temperature, mark_pairs, normalize_vectors

COMPARISONS = 2**24  # token pairs whose cosines are held at a time


class MaxSim(Loss):
    """Cross-entropy of late-interaction scores: each token of the anchor finds its best token of the candidate.

        score_ac = mean over tokens q of a of max over tokens t of c of cos_qt
        loss_ap = -log( exp(score_ap / T) / (exp(score_ap / T) + sum over negatives n of a of exp(score_an / T)) )

    The result is the mean over the positive pairs. Embeddings are sets of tokens, (B, N, D), as from `pool='tokens'`.
    Source: Khattab and Zaharia, "ColBERT", 2020.

    - `temperature`: T, divides the scores.
    - `reduce`: "mean" over the anchor's tokens, which keeps scores within -1 and 1; "sum" as in the paper, whose
      scores grow with the number of tokens, so that a fitting temperature is about that number times higher.

    A token of zeros is padding: it counts in neither the mean nor the maximum. Against a candidate of nothing but
    padding the score is 0.

    With labels and no second view, every candidate of the anchor's label is a positive. With a second view the one
    positive of anchor i is row i, and other rows of its label are left out of the softmax; where row i is of another
    label, all rows of the anchor's label are positives. Without labels row i is the positive and all other rows are
    negatives, explicit ones from row B on included. Cosines of tokens are computed in parts of about 16 million, so
    memory stays at a few numbers for each (token, candidate): B x N x R. Raises ValueError when the temperature is not
    positive, or when there are neither labels nor a second view.
    """

    needs_labels = False
    reads_tokens = True

    def __init__(self, temperature: float = 0.05, reduce: Literal["mean", "sum"] = "mean"):
        super().__init__()
        if reduce not in ("mean", "sum"):
            raise ValueError(f"reduce must be 'mean' or 'sum', not {reduce!r}")
        self.temperature, self.reduce = check_temperature(temperature), reduce

    def compute(
        self, embeddings: Tensor, labels: Tensor | None, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        positive, negative = mark_pairs(embeddings, labels, ref_embeddings, ref_labels)
        if labels is not None and ref_embeddings is not None:
            partner = positive & torch.eye(*positive.shape, dtype=torch.bool, device=positive.device)
            positive = torch.where(partner.any(dim=1, keepdim=True), partner, positive)
        scores = compute_maxsim(embeddings, embeddings if ref_embeddings is None else ref_embeddings)
        if self.reduce == "mean":
            scores = scores / count_tokens(embeddings)[:, None]
        return compute_direction(scores / self.temperature, positive, negative)


def compute_maxsim(queries: Tensor, documents: Tensor) -> Tensor:
    """(B, N, D), (R, M, D) -> (B, R): the sum over a query's tokens of the highest cosine among a document's."""
    query_units, document_units = _unit(queries), _unit(documents)
    padding = ~document_units.any(dim=-1)
    columns, missing = document_units.flatten(0, 1).T, padding.flatten()
    size = max(1, COMPARISONS // max(1, len(missing)))
    best = torch.cat(
        [
            # below every cosine
            (rows @ columns).masked_fill(missing, -2).unflatten(1, padding.shape).max(dim=2).values
            for rows in query_units.flatten(0, 1).split(size)
        ]
    )
    return best.masked_fill(padding.all(dim=1), 0).unflatten(0, queries.shape[:2]).sum(dim=1)


def count_tokens(tokens: Tensor) -> Tensor:
    """(B, N, D) -> (B,): how many tokens are no padding, at least 1."""
    return _unit(tokens.detach()).any(dim=-1).sum(dim=1).clamp(min=1)


def _unit(tokens: Tensor) -> Tensor:
    return normalize_vectors(tokens.flatten(0, 1)).view_as(tokens)
