"""Models whose features cannot be stored."""

from __future__ import annotations

from torch import nn

from toolbox.base import Backbone, Model, PooledBackbone
from toolbox.plugin import Component, hookimpl
from toolbox.utils.pool import TokenPool

namespace = "loose"


@hookimpl
def toolbox_components():
    return [
        Component("model", "Bare", f"{__name__}:Bare", "names no towers"),
        Component("model", "Loose", f"{__name__}:Loose", "its backbone has no gradients, and dropout all the same"),
    ]


class Bare(Model):
    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone, self.pool = backbone.requires_grad_(False), TokenPool("mean")
        self.fc = nn.Linear(backbone.dim, 3)

    @property
    def inputs(self):
        return {"image": self.backbone}

    def predict(self, batch):
        return {"embeddings": self.fc(self.pool(self.backbone(batch.inputs["image"])))}

    def loss(self, batch):
        return {"loss": self.predict(batch)["embeddings"].square().mean()}


class Loose(Bare):
    def pooled_backbones(self):
        return {"image": PooledBackbone(self.backbone, self.pool)}
