"""A small plugin for tests of the engine: everything in it is tiny, and fast on one core."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import nn

from toolbox.base import Backbone, Dataset, Features, Loss, Metric, Preprocess, gather
from toolbox.plugin import Component, hookimpl

namespace = "toy"


@hookimpl
def toolbox_components():
    here = __name__
    return [
        Component("backbone", "Patches", f"{here}:Patches", "a convolution and a block"),
        Component("backbone", "Bypassed", f"{here}:Bypassed", "reads the weight of a layer past the layer"),
        Component("loss", "Pull", f"{here}:Pull", "softmax over labels, with a learnable scale"),
        Component("dataset", "Noise", f"{here}:Noise", "coloured noise in classes"),
        Component("metric", "Nearest", f"{here}:Nearest", "share of items whose nearest neighbour is of their class"),
    ]


class ToTensor(Preprocess):
    def __init__(self, size):
        self.size = (size, size)

    def __call__(self, value):
        if value.size != self.size[::-1]:
            value = value.resize(self.size[::-1])
        return torch.from_numpy(np.asarray(value, dtype=np.float32).copy()).permute(2, 0, 1) / 255 - 0.5


class Patches(Backbone):
    """- `width`: of its tokens; `dropout`: in its block, to make a step depend on the model's generator."""

    modality = "image"

    def __init__(self, width: int = 16, size: int = 16, dropout: float = 0.1):
        super().__init__()
        self.dim, self.size = width, size
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.block = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(dropout))

    def forward(self, inputs, *, layers=1, mask=None):
        grid = self.embed(inputs)
        tokens = grid.flatten(2).transpose(1, 2)
        return Features(tokens + self.block(tokens), grid=tuple(grid.shape[-2:]))

    def preprocess(self):
        return ToTensor(self.size)

    def layers(self):
        return [self.block]


class Bypassed(Patches):
    def forward(self, inputs, *, layers=1, mask=None):
        tokens = self.embed(inputs).flatten(2).transpose(1, 2)
        weight = getattr(self.block[1], "base_layer", self.block[1]).weight
        return Features(tokens + nn.functional.linear(tokens, weight))


class Pull(Loss):
    def __init__(self, explode_at: int | None = None):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(5.0))
        self.explode_at, self.calls = explode_at, 0

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        self.calls += 1
        x = nn.functional.normalize(embeddings, dim=-1)
        similar = (self.scale * x @ x.T).masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), -1e4)
        same = (labels[:, None] == labels[None]).fill_diagonal_(False)
        loss = -(similar.log_softmax(1) * same).sum() / same.sum().clamp(min=1)
        return loss * torch.nan if self.calls == self.explode_at else loss


class Noise(Dataset):
    """- `count`: items; `per_class`: items of a class; `bad`: indices that cannot be read."""

    def __init__(self, count: int = 64, per_class: int = 4, seed: int = 0, bad: list[int] | None = None):
        self.labels = [index // per_class for index in range(count)]
        self.classes = [f"class {label}" for label in range(self.labels[-1] + 1)]
        self.seed, self.bad = seed, set(bad or ())

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError(f"item-{index}.png: broken data stream")
        label = self.labels[index]
        return {"image": draw_noise(self.seed, index, label).copy(), "label": label, "id": index}


@cache
def draw_noise(seed: int, index: int, label: int) -> Image.Image:
    tint = np.random.default_rng((seed, label)).integers(60, 200, 3)
    noise = np.random.default_rng((seed, 1000 + index)).integers(-50, 50, (20, 20, 3))
    return Image.fromarray((tint + noise).clip(0, 255).astype(np.uint8))


class Nearest(Metric):
    def reset(self):
        self.rows, self.labels = [], []

    def update(self, outputs, batch):
        self.rows.append(outputs["embeddings"])
        self.labels.append(batch.labels)

    def compute(self):
        rows, labels = gather(torch.cat(self.rows)), gather(torch.cat(self.labels))
        nearest = (rows @ rows.T).fill_diagonal_(-2).argmax(1)
        return {"nearest": (labels[nearest] == labels).float().mean().item()}
