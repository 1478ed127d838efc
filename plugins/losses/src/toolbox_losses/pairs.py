"""What pair losses share: directions of length 1, cosines, and which pairs are positive or negative."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from toolbox.base import Loss

_left_out: ContextVar[Tensor | None] = ContextVar("left_out", default=None)


class PairLoss(Loss):
    """The base of losses that compare pairs one by one, by the directions of two embeddings."""

    needs_labels = False

    @abstractmethod
    def compare(self, anchors: Tensor, candidates: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """The scalar loss.

        - `anchors`: (B, D) of length 1; `candidates`: (R, D) of length 1, `anchors` itself without a second view.
        - `positive`, `negative`: (B, R) bool, as of `mark_pairs`.
        """

    def compute(
        self, embeddings: Tensor, labels: Tensor | None, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        positive, negative = mark_pairs(embeddings, labels, ref_embeddings, ref_labels)
        return self.compare(*normalize_views(embeddings, ref_embeddings), positive, negative)


@contextmanager
def leave_out(pairs: Tensor) -> Iterator[None]:
    """Inside, `mark_pairs` of labels with a second view has True nowhere in `pairs`, (B, R) bool."""
    token = _left_out.set(pairs)
    try:
        yield
    finally:
        _left_out.reset(token)


def normalize_vectors(x: Tensor) -> Tensor:
    """(B, D) -> (B, D): rows of length 1. A zero row has no direction: it stays zero and gets no gradient."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    zero = length < torch.finfo(x.dtype).tiny ** 0.5
    return torch.where(zero, 0, x / torch.where(zero, 1, length))


def normalize_views(embeddings: Tensor, ref_embeddings: Tensor | None) -> tuple[Tensor, Tensor]:
    """The directions of anchors (B, D) and of candidates (R, D); one and the same when there is no second view."""
    anchors = normalize_vectors(embeddings)
    return anchors, anchors if ref_embeddings is None else normalize_vectors(ref_embeddings)


def mark_pairs(
    embeddings: Tensor, labels: Tensor | None, ref_embeddings: Tensor | None, ref_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Which (anchor, candidate) pairs are positive and which negative: two (B, R) bool masks.

    With labels, equal ones are positive and different ones negative; without, row i of the second view is the one
    positive of anchor i, and its other rows are negatives: the second views of the other anchors, and the explicit
    negatives that follow from row B on. Without a second view the anchors are their own candidates, and self pairs
    are neither. Raises ValueError when nothing tells what is positive.
    """
    rows, device = len(embeddings), embeddings.device
    if labels is not None:
        positive = labels[:, None] == (labels if ref_labels is None else ref_labels)[None]
        if ref_embeddings is None:
            return positive & ~torch.eye(rows, dtype=torch.bool, device=device), ~positive
        left_out = _left_out.get()
        return (positive, ~positive) if left_out is None else (positive & ~left_out, ~positive & ~left_out)
    if ref_embeddings is None:
        raise ValueError(
            "this loss has neither labels nor a second view, so no pair is positive: use a labelled dataset, "
            "or two views of each item (sampler retrieval.Pairs or an augment with views=2, and model.cross_view=True)"
        )
    if len(ref_embeddings) < rows:
        raise ValueError(
            f"without labels row i of the second view belongs to embedding i, but there are {rows} embeddings and "
            f"{len(ref_embeddings)} second views: give one for each (rows beyond that are negatives), or labels"
        )
    positive = torch.eye(rows, len(ref_embeddings), dtype=torch.bool, device=device)
    return positive, ~positive


def masked_logsumexp(scores: Tensor, mask: Tensor) -> Tensor:
    """(B, R) -> (B,): logsumexp over True entries; the most negative finite number for a row without any."""
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min).logsumexp(dim=1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of finite `values` where `mask`; exactly 0, still with a gradient, where the mask is empty."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def log_one_plus_exp(x: Tensor) -> Tensor:
    """log(1 + exp(x)). Torch's softplus drops the tail beyond 20 and is not exact in float64."""
    return torch.logaddexp(x, torch.zeros_like(x))


def check_positive(name: str, value: float, usual: str) -> float:
    """Raise ValueError unless `value` is a positive finite number; `usual` says what to try."""
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a positive number, not {value}: {usual}")
    return float(value)


def check_temperature(temperature: float) -> float:
    """Raise ValueError unless it is a positive finite number."""
    return check_positive("temperature", temperature, "usual values are 0.05 to 0.2")
