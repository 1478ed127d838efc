"""The model of classification recipes: backbone, pool and head, trained on labels."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.base import Backbone, Batch, Head, Loss, Pool, without_autocast
from toolbox.plugin import Problem
from toolbox.utils.frozen import FrozenBackbone
from toolbox.utils.tower_model import TowerModel
from toolbox_classification.class_heads import Linear


class Classifier(TowerModel):
    """backbone -> pool -> head -> one logit for each class, trained on labels.

    - `backbone`: reads images, or texts. Without a `tune` it is frozen, as `tune=dict(mode="frozen")` does.
    - `pool`: a pool, or the mode of `core.Pool` ("cls", "mean", "cls+mean", "gem", "last").
    - `head`: from the pooled features to the logits, `Linear` of this plugin (None means it) or `MLP`. It computes
      in float32 at least, whatever the precision of the backbone.
    - `loss`: what is minimised over the logits, e.g. `losses.CrossEntropy`; None for a model that is only evaluated.

    Several views of an item all have its label; items that the loader has mixed have soft ones. `predict` returns
    {"logits": (B, C) float32, "embeddings": (B, P), the pooled features, float32 of length 1}; `baseline` the
    embeddings alone. Raises ValueError where the data have no labels or fewer than two classes, for a pool that keeps
    tokens, and for a head that does not give one number for each class.
    """

    closed_set = True
    reads_mixed = True
    user_class = "toolbox_classification.image_classifier:ImageClassifier"

    def __init__(
        self, backbone: Backbone, pool: Pool | str = "cls", head: Head | None = None, loss: Loss | None = None
    ):
        head = Linear() if head is None else head
        super().__init__(backbone, pool, head, loss)
        self.head: Head = head
        if self.pool.keeps_tokens:
            raise ValueError("a classifier reads one vector an item, and this pool keeps tokens: try pool='cls'")
        if backbone.tune is None:
            backbone.tune = FrozenBackbone()

    @property
    def fixed_embeddings(self) -> bool:
        return not any(p.requires_grad for part in (self.backbone, self.pool) for p in part.parameters())

    def check(self) -> list[Problem]:
        if self.criterion is None or self.criterion.reads_logits:
            return self.check_loss("losses.CrossEntropy")
        message = f"{type(self.criterion).__name__} compares embeddings, and this model gives logits."
        return [Problem(message, "loss", "Use losses.CrossEntropy, or retrieval.Embedder.")]

    def connect(self, classes: int | None = None) -> None:
        if classes is None:
            raise ValueError("a classifier learns the classes of its training data, and these data have no labels")
        if classes < 2:
            raise ValueError(f"a classifier tells classes apart, and the training data have {classes}")
        super().connect(classes)
        if self.out_dim != classes:
            name = type(self.head).__name__
            raise ValueError(
                f"the head {name} gives {self.out_dim} numbers for {classes} classes: use classification.Linear or "
                "classification.MLP"
            )

    def encode(self, batch: Batch) -> dict[str, Tensor]:
        return {"logits": self._logits(self.pool_features(batch))}

    def compute_loss(self, representations: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        criterion, logits, labels = self.require_loss(), representations["logits"], batch.labels
        if labels is not None and batch.mixed is not None:
            labels = _mix_labels(labels, *batch.mixed, classes=logits.shape[1])
        if labels is not None:
            views = batch.views[self.backbone.modality]
            labels = labels.repeat(views, *[1] * (labels.ndim - 1))  # every item's first view before any second
        return {"loss": criterion(logits, labels)}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        pooled = self.pool_features(batch)
        return {"logits": self._logits(pooled).float(), **self.normalize(pooled)}

    def in_plain_torch(self) -> list[str]:
        return [*super().in_plain_torch(), *self.head.in_plain_torch("head"), "logits = x"]

    def _logits(self, pooled: Tensor) -> Tensor:
        with without_autocast(pooled.device):
            return self.head(pooled if pooled.dtype == torch.float64 else pooled.float())


def _mix_labels(labels: Tensor, partner: Tensor, share: Tensor, *, classes: int) -> Tensor:
    """(B, classes): `share` of an item's label, the rest of its partner's."""
    shares = share.float()[:, None]
    targets = shares.new_zeros(len(labels), classes).scatter_(1, labels[:, None], shares)
    return targets.scatter_add_(1, labels[partner][:, None], 1 - shares)
