"""A backbone without anything new behind it: what an encoder is, where no recipe says more."""

from __future__ import annotations

from torch import Tensor

from toolbox.base import Backbone, Batch, Pool
from toolbox.errors import Problem
from toolbox.utils.tower_model import TowerModel


class PooledFeatures(TowerModel):
    """backbone -> pool -> embedding, with nothing to train.

    - `backbone`: reads images, or texts.
    - `pool`: a pool, or the mode of `core.Pool` ("cls", "mean", "cls+mean", "gem", "last", "tokens").

    `predict` and `baseline` give the pooled features, (B, P) float32 rows of length 1, as "embeddings"; where the pool
    keeps tokens, "tokens" besides.
    """

    def __init__(self, backbone: Backbone, pool: Pool | str = "cls"):
        super().__init__(backbone, pool, head=None, loss=None)

    def check(self) -> list[Problem]:
        return [
            Problem(
                "Nothing in it can be trained: it encodes with a backbone as it comes.",
                "type",
                "Use a model that a loss trains.",
            )
        ]

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        return self.baseline(batch)
