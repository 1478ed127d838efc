"""Cross-entropy of a classifier's logits."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.base import Loss
from toolbox_losses.classification import check_classes, check_labels


class CrossEntropy(Loss):
    """The mean over rows of -sum_c target_c * log softmax(logits)_c.

    The target is 1 for the class of a row and 0 for others, or what soft labels give. Its share `label_smoothing` is
    spread evenly over all classes, the own one included (Szegedy et al., "Rethinking the Inception Architecture",
    2016, section 7).

    - `label_smoothing`: 0 <= s < 1.

    Reads logits (B, C) with labels (B,), or with soft labels (B, C): shares of at least 0 that add up to 1, as mixed
    images have. Rows of a second view are further labelled rows. Raises ValueError for a smoothing outside its range,
    without labels or classes, for logits that are not one a class, and on the CPU for a label that is no class and for
    shares that are none.
    """

    reads_logits = True
    gathers = False

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing}: try 0.1")
        self.label_smoothing = label_smoothing
        self.classes: int | None = None

    def connect(self, dim: int, classes: int | None = None) -> None:
        self.classes = check_classes(type(self).__name__, classes)
        if dim != classes:
            raise ValueError(
                f"CrossEntropy reads one logit a class, and the model gives {dim} numbers for {classes} classes: use "
                "classification.Classifier"
            )

    def compute(
        self, embeddings: Tensor, labels: Tensor, ref_embeddings: Tensor | None, ref_labels: Tensor | None
    ) -> Tensor:
        if ref_embeddings is not None and ref_labels is not None:
            embeddings, labels = torch.cat([embeddings, ref_embeddings]), torch.cat([labels, ref_labels])
        classes = self._check_shape(embeddings)
        log_shares = embeddings.log_softmax(dim=1)
        if labels.ndim == 2:
            _check_shares(labels, embeddings)
            terms = (labels.to(log_shares.dtype) * log_shares).sum(dim=1)
        else:
            index = check_labels("CrossEntropy", labels, embeddings, classes)
            terms = log_shares.gather(1, index[:, None])[:, 0]
        if self.label_smoothing > 0:
            terms = (1 - self.label_smoothing) * terms + self.label_smoothing * log_shares.mean(dim=1)
        return -terms.mean()

    def _check_shape(self, logits: Tensor) -> int:
        """The number of classes. Raises ValueError where it is unknown, or not that of the logits."""
        if self.classes is None:
            raise ValueError("CrossEntropy does not know its classes yet: call connect(dim, classes) first")
        if logits.shape[1] != self.classes:
            raise ValueError(
                f"CrossEntropy reads one logit for each of {self.classes} classes, and these rows have "
                f"{logits.shape[1]}"
            )
        return self.classes


def _check_shares(shares: Tensor, logits: Tensor) -> None:
    """Raise ValueError unless each row holds shares of the classes; their values are looked at on the CPU only."""
    if shares.shape != logits.shape or not shares.is_floating_point():
        raise ValueError(
            f"CrossEntropy takes soft labels of the shape of the logits, {tuple(logits.shape)}, in floating point, not "
            f"{tuple(shares.shape)} of {shares.dtype}"
        )
    if shares.device.type == "cpu" and len(shares):
        sums = shares.sum(dim=1)
        if not bool((shares >= 0).all()) or not bool(((sums - 1).abs() <= 1e-2).all()):
            raise ValueError("CrossEntropy: the soft labels of a row are shares of at least 0 that add up to 1")
