"""The base of models with one backbone: its pool, a head and a loss."""

from __future__ import annotations

from torch import Tensor

from toolbox.base import Backbone, Batch, Head, Loss, Model, Pool, PooledBackbone, l2_normalize
from toolbox.errors import Problem
from toolbox.utils.tower import Tower


class TowerModel(Model, Tower):
    """A tower that is trained by a loss: backbone -> pool -> head, and nothing beside it.

    - `backbone`: reads the input that is named by its modality, `batch.inputs["image"]` or `batch.inputs["text"]`.
    - `pool`: a pool, or the mode of one, as in `TokenPool("cls")`.
    - `head`: from the pooled features on; None leaves them as they are.
    - `loss`: what is minimised; None for a model that is only evaluated. Its parameters are the part `criterion`.

    Subclasses compute the loss from `pool_features(batch)`, and `predict`; `baseline` gives the pooled features alone.
    """

    def __init__(self, backbone: Backbone, pool: Pool | str, head: Head | None, loss: Loss | None):
        Tower.__init__(self, backbone, pool, head)
        self.criterion = loss
        self._connected = False

    @property
    def inputs(self) -> dict[str, Backbone]:
        return {self.backbone.modality: self.backbone}

    def pooled_backbones(self) -> dict[str, PooledBackbone]:
        return {self.backbone.modality: self.pooled_backbone}

    def connect(self, classes: int | None = None) -> None:
        if self._connected:
            raise ValueError("this model is already connected to its data: build a new one for other data")
        self._connected = True
        Tower.connect(self, classes)
        if self.criterion is not None:
            self.criterion.connect(self.out_dim, classes)

    def baseline(self, batch: Batch) -> dict[str, Tensor]:
        return self.normalize(self.pool_features(batch))

    def in_plain_torch(self) -> list[str]:
        lines = self.pool.in_plain_torch("pool")
        if self.predicts_through_head and self.head is not None:
            lines += self.head.in_plain_torch("head")
        if self.pool.keeps_tokens:
            lines.append("x = F.normalize(x, dim=-1).sum(dim=1)")
        return [*lines, "embedding = F.normalize(x, dim=-1)"]

    def normalize(self, x: Tensor) -> dict[str, Tensor]:
        """What `predict` returns of features, (B, E): {"embeddings": float32 rows of length 1}.

        Where the pool keeps tokens, of (B, N, E): "tokens", each of length 1 (padding: 0), and "embeddings", the
        directions of their sums.
        """
        x = l2_normalize(x.float())
        return {"embeddings": l2_normalize(x.sum(dim=1)), "tokens": x} if self.pool.keeps_tokens else {"embeddings": x}

    def check_loss(self, example: str) -> list[Problem]:
        """Whether there is a loss; `example` is the type of one that fits."""
        if self.criterion is not None:
            return []
        return [
            Problem("A model without a loss cannot be trained.", "loss", f"Set it, e.g. to dict(type='{example}').")
        ]

    def require_loss(self) -> Loss:
        if self.criterion is None:
            raise ValueError("this model has no loss: set model.loss to train it")
        return self.criterion
