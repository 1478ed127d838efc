"""Toy parts of the plugin `contract`: towers, data, crops, a loss and metrics."""

from __future__ import annotations

import math
import random
import zlib

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from toolbox.base import Augment, Backbone, Dataset, Features, Loss, Metric, Preprocess, l2_normalize


def fill(module: nn.Module, weights_id: str) -> None:
    """Stands for reading a file: the same values for the same name, in every process."""
    generator = torch.Generator().manual_seed(zlib.crc32(weights_id.encode()))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, 0.2, generator=generator)
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            part.reset_parameters()


class Pixels(Preprocess):
    def __init__(self, size):
        self.size = size

    def __call__(self, value):
        if value.size != self.size[::-1]:
            value = value.resize(self.size[::-1])
        return torch.from_numpy(np.array(value)).permute(2, 0, 1) / 255


class Patches(Backbone):
    """A vision tower of any number of tokens, with `prefix` learnable ones before the patches.

    - `norm`: the patches pass a batch norm; `dropout`: in its block.
    """

    abilities = frozenset({"mask"})

    def __init__(
        self,
        dim: int = 16,
        patch: int = 4,
        prefix: int = 1,
        size: tuple[int, int] = (16, 16),
        masked: bool = False,
        weights: str | None = "toy",
        norm: bool = False,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.dim, self.prefix, self.size, self.weights_id = dim, prefix, tuple(size), weights
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.first = nn.Parameter(torch.randn(prefix, dim))
        self.mask_token = nn.Parameter(torch.zeros(dim)) if masked else None
        self.block = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout), nn.LayerNorm(dim))
        self.norm = nn.BatchNorm2d(dim) if norm else nn.Identity()

    def forward(self, inputs, *, layers=1, mask=None):
        grid = self.norm(self.embed(inputs))
        tokens = grid.flatten(2).transpose(1, 2)
        if mask is not None:
            tokens = torch.where(mask[..., None], self.mask_token, tokens)
        context = tokens.mean(1, keepdim=True)
        tokens = torch.cat([context + self.first, tokens + context], 1)
        return Features(self.block(tokens), self.prefix, grid.shape[-2:])

    def layers(self):
        return [self.block]

    def preprocess(self):
        return Pixels(self.size)

    def load_weights(self):
        if self.weights_id is not None:
            fill(self, self.weights_id)


class Words(Preprocess):
    """A text -> token ids; padding is made when a batch is."""

    def __call__(self, value):
        return torch.tensor([1 + ord(letter) % 30 for letter in value])

    def collate(self, items):
        ids = nn.utils.rnn.pad_sequence(items, batch_first=True)
        return {"ids": ids, "mask": ids > 0}

    def example(self, rows):
        ids = torch.zeros(rows, 24, dtype=torch.long, device="meta")
        return {"ids": ids, "mask": ids > 0}


class Chat(Words):
    """A question and its answer, "question|answer"; only the answer is learned."""

    def __call__(self, value):
        question, answer = value.split("|")
        ids = super().__call__(question + answer)
        return ids, torch.arange(len(ids)) >= len(question)

    def collate(self, items):
        pad = nn.utils.rnn.pad_sequence
        ids = pad([ids for ids, _ in items], batch_first=True)
        learned = pad([learned for _, learned in items], batch_first=True)
        return {"ids": ids, "mask": ids > 0, "labels": ids.masked_fill(~learned, -100)}


class Letters(Backbone):
    """A text tower: ids and a mask in, a token each out. `dropout`: on its tokens."""

    modality = "text"

    def __init__(self, dim: int = 12, weights: str | None = None, dropout: float = 0.0):
        super().__init__()
        self.dim, self.weights_id = dim, weights
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Embedding(32, dim)
        self.block = nn.GRU(dim, dim, batch_first=True)

    def forward(self, inputs, *, layers=1, mask=None):
        return Features(self.dropout(self.block(self.embed(inputs["ids"]))[0]), valid=inputs["mask"])

    def layers(self):
        return [self.block]

    def preprocess(self):
        return Words()

    def load_weights(self):
        if self.weights_id is not None:
            fill(self, self.weights_id)


class LanguageModel(Letters):
    """Causal by its recurrence; takes ready embeddings, as language models with `inputs_embeds` do."""

    def forward(self, inputs, *, layers=1, mask=None):
        return Features(self.block(inputs["embeddings"])[0], valid=inputs["mask"])

    def preprocess(self):
        return Chat()


class Shades(Dataset):
    """Noise around one color a class, with two captions each."""

    def __init__(self, count: int = 8):
        self.labels = [i % 4 for i in range(count)]
        self.classes = ["black", "dark gray", "gray", "white"]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        label = self.labels[index]
        noise = np.random.default_rng(index).integers(0, 60, (20, 24, 3))
        image = Image.fromarray((noise + 60 * label).astype(np.uint8))
        captions = [self.classes[label], f"{self.classes[label]} number {index}"]
        return {"image": image, "text": captions, "label": label, "id": index}


class Captions(Shades):
    """The same with one to four captions an item; the first is that of its class, so some items share it."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        return sample | {"text": [sample["text"][0], *(f"{word} {index}" for word in ("a", "b", "c")[: index % 4])]}


class Questions(Shades):
    def __getitem__(self, index):
        return super().__getitem__(index) | {"text": f"which color? {'x' * index}|{self.classes[self.labels[index]]}"}


class RandomCrops(Augment):
    def __init__(self, views: int = 2):
        self.views = views

    def __call__(self, image, size):
        corners = [
            (random.randrange(image.width - size[1] + 1), random.randrange(image.height - size[0] + 1))
            for _ in range(self.views)
        ]
        return [image.crop((x, y, x + size[1], y + size[0])) for x, y in corners]


class Contrastive(Loss):
    """Symmetric InfoNCE with a learnable scale, at most 100 (Radford et al., 2021)."""

    needs_labels = False

    def __init__(self, scale: float = 1 / 0.07):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        logits = self.log_scale.exp() * l2_normalize(embeddings) @ l2_normalize(ref_embeddings).T
        target = torch.arange(len(logits), device=logits.device)
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2

    def after_step(self):
        with torch.no_grad():
            self.log_scale.clamp_(0, math.log(100))


class Matching(Metric):
    """Of a dual encoder, for a dataset with any number of captions an item."""

    def reset(self):
        self.images, self.captions, self.labels, self.caption_labels = [], [], [], []

    def update(self, outputs, batch):
        self.images.append(outputs["embeddings"])
        self.captions.append(outputs["text_embeddings"])
        self.labels.append(batch.labels)
        self.caption_labels.append(batch.labels[batch.owners["text"]])

    def compute(self):
        images, captions = torch.cat(self.images), torch.cat(self.captions)
        best = (l2_normalize(captions) @ l2_normalize(images).T).argmax(1)
        return {"matching": (torch.cat(self.labels)[best] == torch.cat(self.caption_labels)).float().mean().item()}


class Answers(Metric):
    """Of a vision-language model."""

    def reset(self):
        self.right = self.count = 0

    def update(self, outputs, batch):
        labels = batch.inputs["text"]["labels"]
        learned = labels != -100
        self.right += int((outputs["tokens"] == labels)[learned].sum())
        self.count += int(learned.sum())

    def compute(self):
        return {"answers": self.right / self.count}
