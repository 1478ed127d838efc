"""Proxy-anchor loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from toolbox.base import Loss
from toolbox_losses.classification import check_classes, mark_classes, require_class_vectors, select_labelled_rows
from toolbox_losses.pairs import check_positive, log_one_plus_exp, masked_logsumexp, normalize_vectors


class ProxyAnchor(Loss):
    """Each class has a learned proxy, which is compared with all embeddings of the batch.

        pull_c = log(1 + sum over embeddings x of class c of exp(-alpha * (cos_xc - margin)))
        push_c = log(1 + sum over the other embeddings x of exp(alpha * (cos_xc + margin)))
        loss = mean of pull_c over the classes in the batch + mean of push_c over all classes

    - `margin`: in units of the cosine.
    - `alpha`: how sharply the loss turns to the hardest embeddings.

    `connect(dim, classes)` creates `proxies`, (classes, D), drawn from a normal distribution of standard deviation
    sqrt(2 / classes) as in the authors' code; only their directions count. They need a higher learning rate than a
    pretrained backbone, 100 times in that code: optim_wrapper.parts={'model.criterion': dict(lr=...)}. Source: Kim et
    al., "Proxy Anchor Loss for Deep Metric Learning", 2020, equation 4.

    Rows of a second view are further labelled embeddings. Raises ValueError for arguments outside their range, without
    labels or classes, and on the CPU for a label that is no class.
    """

    def __init__(self, margin: float = 0.1, alpha: float = 32.0):
        super().__init__()
        if not (margin >= 0 and math.isfinite(margin)):
            raise ValueError(f"margin must be 0 or more, not {margin}: try 0.1")
        self.margin, self.alpha = float(margin), check_positive("alpha", alpha, "try 32")
        self.proxies: nn.Parameter | None = None

    def connect(self, dim: int, classes: int | None = None) -> None:
        classes = check_classes("ProxyAnchor", classes)
        self.proxies = nn.Parameter(torch.randn(classes, dim) * math.sqrt(2 / classes))

    def compute(
        self, embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        proxies = require_class_vectors("ProxyAnchor", self.proxies)
        rows, labels = select_labelled_rows("ProxyAnchor", proxies, embeddings, labels, ref_embeddings, ref_labels)
        classes = len(proxies)
        scores = normalize_vectors(proxies.to(rows.dtype)) @ normalize_vectors(rows).T
        positive = mark_classes(labels, classes).T
        pull = log_one_plus_exp(masked_logsumexp(self.alpha * (self.margin - scores), positive))
        push = log_one_plus_exp(masked_logsumexp(self.alpha * (scores + self.margin), ~positive))
        return pull.sum() / positive.any(dim=1).sum().clamp(min=1) + push.sum() / classes
