"""A backbone, its pool and a head: one side of a model with several."""

from __future__ import annotations

from torch import Tensor, nn

from toolbox.base import Backbone, Head, Pool, PooledBackbone
from toolbox.utils.pool import make_pool


class Tower(nn.Module):
    """backbone -> pool -> head: what turns one input of a model into embeddings.

        class DualEncoder(Model):
            def __init__(self, vision: dict[str, Tower], text: dict[str, Tower], loss: Loss): ...

    - `backbone`: reads one input, of its `modality`.
    - `pool`: a pool, or the mode of `core.Pool` ("cls", "mean", "cls+mean", "gem", "last", "tokens").
    - `head`: from the pooled features to the embedding; None leaves the pooled features as they are.

    A model calls `connect` in its own, names `pooled_backbone` in `pooled_backbones`, so that features of a frozen
    backbone can be stored, and computes `apply_head(pool_features(batch, name))`.
    """

    def __init__(self, backbone: Backbone, pool: Pool | str = "cls", head: Head | None = None):
        super().__init__()
        self.backbone = backbone
        self.pool = make_pool(pool)
        self.head = head

    @property
    def pooled_backbone(self) -> PooledBackbone:
        return PooledBackbone(self.backbone, self.pool)

    @property
    def out_dim(self) -> int:
        """The width of what the head gives, or of the pooled features without one."""
        return self.pool.dim(self.backbone.dim) if self.head is None else self.head.out_dim

    def connect(self, classes: int | None = None) -> None:
        """Give the head its input width and the number of classes."""
        if self.head is not None:
            self.head.connect(self.pool.dim(self.backbone.dim), classes)

    def apply_head(self, pooled: Tensor) -> Tensor:
        """The embeddings, (rows, E) or (rows, N, E) of a pool that keeps tokens, not normalized."""
        if self.head is None:
            return pooled
        embeddings = self.head(pooled)
        if self.pool.keeps_tokens:  # padding stays padding, whatever the head's bias
            embeddings = embeddings * pooled.any(dim=-1, keepdim=True)
        return embeddings
