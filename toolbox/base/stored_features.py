"""Which features of a model may be stored, which do not change, and which come out of a head."""

from __future__ import annotations

from typing import Any, NamedTuple, final

from torch import Tensor

from toolbox.base.backbone import Backbone
from toolbox.base.batch import Batch
from toolbox.base.pool import Pool


class PooledBackbone(NamedTuple):
    """A backbone and the pool behind it: what stands between an input and all that trains, where both are frozen."""

    backbone: Backbone
    pool: Pool

    def __call__(self, value: Any) -> Tensor:
        """The pooled features, (rows, P), of what the backbone reads, finished."""
        return self.pool(self.backbone(value, layers=self.pool.layers))


class StoredFeatures:
    """A model of which the pooled features of some inputs may be stored."""

    def pooled_backbones(self) -> dict[str, PooledBackbone]:
        """Backbone and pool of each input whose pooled features may be stored.

        A model that has some calls `pool_features`. A recipe with `features` stores those that are frozen, and batches
        then bring them instead of the inputs.
        """
        return {}

    @final
    def pool_features(self, batch: Batch, name: str | None = None) -> Tensor:
        """(rows, P): the pooled features of the input `name`, the first one by default, computed or stored."""
        towers = self.pooled_backbones()
        name = name or next(iter(towers))
        value = batch.inputs[name]
        if name in batch.stored:
            return value
        backbone, pool = towers[name]  # not called as a whole: a frame less in every stack of a step
        return pool(backbone(value, layers=pool.layers))

    @property
    def fixed_embeddings(self) -> bool:
        """Whether the "embeddings" of `predict` do not change in training, as of a frozen backbone."""
        return False

    @property
    def predicts_through_head(self) -> bool:
        """Whether the embeddings of `predict` come out of a trained head, so that those of `baseline` are others.

        A run then evaluates both after training: features before the head may be the better ones.
        """
        return False
