"""Toy objectives of the plugin `contract`: alignment, a swapped vision tower, self-distillation."""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional

from toolbox.base import Backbone, Loss, Model, l2_normalize
from toolbox.utils.tower import Tower


class DualEncoder(Model):
    """Any number of vision and text towers; the embeddings of the towers of a side are added."""

    def __init__(self, vision: dict[str, Tower], text: dict[str, Tower], loss: Loss):
        super().__init__()
        self.vision, self.text, self.criterion = nn.ModuleDict(vision), nn.ModuleDict(text), loss

    @property
    def towers(self):
        return dict(self.vision.items()) | dict(self.text.items())

    reads_modalities_alone = True

    @property
    def inputs(self):
        return {name: tower.backbone for name, tower in self.towers.items()}

    def pooled_backbones(self):
        return {name: tower.pooled_backbone for name, tower in self.towers.items()}

    def connect(self, classes=None):
        for tower in self.towers.values():
            tower.connect(classes)

    def encode(self, batch):
        sides = {"embeddings": self.vision, "text_embeddings": self.text}
        return {
            output: sum(tower.apply_head(self.pool_features(batch, name)) for name, tower in side.items())
            for output, side in sides.items()
            if side.keys() <= batch.inputs.keys()
        }

    def predict(self, batch):
        return self.encode(batch)

    def compute_loss(self, representations, batch):
        loss = self.criterion(representations["embeddings"], ref_embeddings=representations["text_embeddings"])
        return {"loss": loss, "scale": self.criterion.log_scale.exp()}


class SwappedVisionLanguage(Model):
    """Patches of any vision tower, projected into the sequence of a language model before the text."""

    def __init__(self, vision: Backbone, language: Backbone):
        super().__init__()
        self.vision, self.language = vision, language
        self.merger = nn.Sequential(nn.LayerNorm(4 * vision.dim), nn.Linear(4 * vision.dim, language.dim))
        self.output = nn.Linear(language.dim, 32)

    @property
    def inputs(self):
        return {"image": self.vision, "text": self.language}

    def logits(self, batch):
        """(B, visual + text tokens, words), and the number of visual tokens."""
        features, text = self.vision(batch.inputs["image"]), batch.inputs["text"]
        grid = features.tokens[:, features.prefix :].unflatten(1, features.grid).permute(0, 3, 1, 2)
        visual = self.merger(functional.pixel_unshuffle(grid, 2).flatten(2).transpose(1, 2))
        embeddings = torch.cat([visual, self.language.embed(text["ids"])], dim=1)
        mask = functional.pad(text["mask"], (visual.shape[1], 0), value=True)
        return self.output(self.language({"embeddings": embeddings, "mask": mask}).tokens), visual.shape[1]

    def loss(self, batch):
        logits, visual = self.logits(batch)
        predicted = logits[:, visual - 1 : -1]  # the token before each token of the text
        return {"loss": functional.cross_entropy(predicted.flatten(0, 1), batch.inputs["text"]["labels"].flatten())}

    def predict(self, batch):
        logits, visual = self.logits(batch)
        return {"tokens": logits[:, visual - 1 : -1].argmax(-1)}


class Pretrainer(Model):
    """Self-distillation: the student sees masked global and plain local crops, the teacher plain global ones.

    With an `anchor`, similarities between the student's patches are also held near those of this other, ready tower
    (Siméoni et al., "DINOv3", 2025: Gram anchoring). It reads what the student reads, and is no input of its own.
    """

    def __init__(self, backbone: Backbone, momentum: float = 0.9, prototypes: int = 12, anchor: Backbone | None = None):
        super().__init__()
        self.student = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(backbone.dim, prototypes)})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.anchor = anchor
        self.first_momentum = momentum

    @property
    def inputs(self):
        backbone = self.student["backbone"]
        return {"global_crops": backbone, "local_crops": backbone}

    def preprocess(self):
        small = self.student["backbone"].preprocess()
        small.size = (8, 8)
        return super().preprocess() | {"local_crops": small}

    def weights_ready(self):
        self.teacher.load_state_dict(self.student.state_dict())

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def before_step(self, step, steps):
        self.momentum = 1 - (1 - self.first_momentum) * (math.cos(math.pi * step / steps) + 1) / 2

    def after_step(self, step, steps):
        super().after_step(step, steps)
        with torch.no_grad():
            for mine, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mine.lerp_(other, 1 - self.momentum)

    def loss(self, batch):
        whole, local = batch.inputs["global_crops"], batch.inputs["local_crops"]
        items = len(batch.ids)
        backbone, head = self.student["backbone"], self.student["head"]
        with torch.no_grad():
            taught = self.teacher["backbone"](whole).tokens
            target = (self.teacher["head"](taught) / 0.05).softmax(-1)
        mask = torch.rand(taught.shape[0], taught.shape[1] - 1, device=taught.device) < 0.4
        tokens = backbone(whole, mask=mask).tokens
        seen = head(tokens)
        patches = -(target[:, 1:] * seen[:, 1:].log_softmax(-1)).sum(-1)[mask].mean()
        crops = head(backbone(local).tokens[:, 0]).log_softmax(-1).unflatten(0, (-1, items))
        image = -(target[:, 0].unflatten(0, (-1, items))[:, None] * crops[None]).sum(-1).mean()
        values = {"loss": image + patches, "image": image.detach(), "patches": patches.detach()}
        if self.anchor is not None:
            gram = (_similarities(tokens) - _similarities(self.anchor(whole).tokens)).square().mean()
            values |= {"loss": values["loss"] + gram, "gram": gram.detach()}
        return values

    def predict(self, batch):
        return {"embeddings": l2_normalize(self.teacher["backbone"](batch.inputs["global_crops"]).tokens[:, 0])}


def _similarities(tokens):
    patches = l2_normalize(tokens[:, 1:])
    return patches @ patches.transpose(1, 2)
