"""Training one backbone to embed images, the model of retrieval recipes."""

from __future__ import annotations

from torch import Tensor

from toolbox.base import Backbone, Batch, Head, Loss, Model, Pool, l2_normalize
from toolbox.core import pool as pools
from toolbox.errors import Problem


class Embedder(Model):
    """backbone -> pool -> head -> embedding, trained by a loss over the batch.

    - `backbone`: reads `batch["inputs"]["image"]`.
    - `pool`: a pool, or the mode of `core.Pool` ("cls", "mean", "cls+mean", "gem", "last").
    - `head`: from the pooled features to the embedding; None leaves the pooled features as they are.
    - `loss`: what is minimised, over unnormalised embeddings and the labels; None for a model that is only
      evaluated. Its parameters are the part `criterion`.
    - `cross_view`: with several views of an item in the batch, whether the first views are compared with the
      others only, as in InfoNCE on pairs. False compares all rows among themselves. Without labels it takes
      exactly two views.

    `predict` returns {"embeddings": (B, E) float32 rows of length 1}; `baseline` the same of the pooled features
    without the head, (B, P). Raises ValueError where a batch does not fit these settings.
    """

    def __init__(
        self,
        backbone: Backbone,
        pool: Pool | str = "cls",
        head: Head | None = None,
        loss: Loss | None = None,
        cross_view: bool = False,
    ):
        super().__init__()
        self.backbone = backbone
        self.pool = pools.Pool(pool) if isinstance(pool, str) else pool
        self.head = head
        self.criterion = loss
        self.cross_view = cross_view
        self._connected = False

    @property
    def inputs(self) -> dict[str, Backbone]:
        return {"image": self.backbone}

    @property
    def embedding_dim(self) -> int:
        """E, the width of an embedding."""
        return self.pool.dim(self.backbone.dim) if self.head is None else self.head.out_dim

    def check(self) -> list[Problem]:
        if self.criterion is not None:
            return []
        return [
            Problem("A model without a loss cannot be trained.", "loss", "Set it, e.g. to dict(type='losses.SupCon').")
        ]

    def connect(self, classes: int | None = None) -> None:
        if self._connected:
            raise ValueError("this model is already connected to its data: build a new one for other data")
        self._connected = True
        if self.head is not None:
            self.head.connect(self.pool.dim(self.backbone.dim), classes)
        if self.criterion is not None:
            self.criterion.connect(self.embedding_dim, classes)

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        if self.criterion is None:
            raise ValueError("this model has no loss: set model.loss to train it")
        own, labels = batch["views"]["image"], batch["labels"]
        views = own * batch["blocks"]
        labels = None if labels is None else labels.repeat(own)
        if self.cross_view and views < 2:
            raise ValueError(
                "cross_view=True compares two views of an item, and this batch has one: "
                "use the sampler core.Pairs, an augment with views=2, or cross_view=False"
            )
        embeddings = self._embed(batch)
        if not self.cross_view:
            return {"loss": self.criterion(embeddings, labels)}
        if labels is None and views > 2:
            raise ValueError(f"cross_view=True without labels takes exactly 2 views, and this batch has {views}")
        count = len(embeddings) // views
        first, others = (None, None) if labels is None else (labels[:count], labels[count:])
        return {"loss": self.criterion(embeddings[:count], first, ref_embeddings=embeddings[count:], ref_labels=others)}

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        return {"embeddings": l2_normalize(self._embed(batch).float())}

    def baseline(self, batch: Batch) -> dict[str, Tensor]:
        return {"embeddings": l2_normalize(self._pooled(batch).float())}

    def _pooled(self, batch: Batch) -> Tensor:
        return self.pool(self.backbone(batch["inputs"]["image"]))

    def _embed(self, batch: Batch) -> Tensor:
        pooled = self._pooled(batch)
        return pooled if self.head is None else self.head(pooled)
