"""The extension points carry every job: four training objectives as toys on `toolbox.base`, each trained two steps.

An embedder, an N:M dual encoder, a vision-language model with a foreign vision tower, a teacher-student pretrainer.
"""

from __future__ import annotations

import copy
import math
import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from toolbox.base import Augment, Backbone, Dataset, Features, Loss, Model, Preprocess, l2_normalize, last_token
from toolbox.base import mean_tokens as mean
from toolbox.core.embedder import Embedder
from toolbox.core.projection import Projection
from toolbox.engine.data import Fetch, inputs_of


# --- the smallest loader and loop that keep the contracts --------------------------------------------------------
def load(model, dataset, draws, augment=None, seed=0):
    """draws of (draw, index) -> a batch, made by the engine's own loader, which is picklable."""
    return pickle.loads(pickle.dumps(Fetch(dataset, inputs_of(model), augment=augment, seed=seed)))[draws]


def train(model, dataset, augment=None, steps=2, lr=0.05, parts=()):
    """Two plain steps; `parts` are (module path, learning rate). Returns the loss of each step and the last batch."""
    model.connect(len(dataset.classes))
    for backbone in model.inputs.values():
        backbone.load_weights()
    model.weights_ready()
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": list(model.get_submodule(path).parameters()), "lr": own} for path, own in parts]
    own = {id(p) for group in groups for p in group["params"]}
    optimizer = torch.optim.SGD([*groups, {"params": [p for p in trained if id(p) not in own]}], lr=lr)
    losses = []
    for step in range(steps):
        model.train()
        model.before_step(step, steps)
        batch = load(model, dataset, [(8 * step + i, i) for i in range(8)], augment)
        values = model(batch, "loss")
        optimizer.zero_grad()
        values["loss"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in trained), "a trained part got no gradient"
        optimizer.step()
        model.after_step(step, steps)
        losses.append(values["loss"].item())
    return losses, batch


@torch.no_grad()
def predict(model, batch):
    return model.eval()(batch, "predict")


# --- toy parts ---------------------------------------------------------------------------------------------------
class Pixels(Preprocess):
    def __init__(self, size):
        self.size = size

    def __call__(self, value):
        if value.size != self.size[::-1]:
            value = value.resize(self.size[::-1])
        return torch.from_numpy(np.array(value)).permute(2, 0, 1) / 255


class Patches(Backbone):
    """A vision tower of any number of tokens, with `prefix` learnable ones before the patches."""

    abilities = frozenset({"mask"})

    def __init__(self, dim=16, patch=4, prefix=1, size=(16, 16), masked=False):
        super().__init__()
        self.dim, self.prefix, self.size, self.weights_id = dim, prefix, size, "toy"
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.first = nn.Parameter(torch.randn(prefix, dim))
        self.mask_token = nn.Parameter(torch.zeros(dim)) if masked else None
        self.block = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(0.1), nn.LayerNorm(dim))

    def forward(self, inputs, *, layers=1, mask=None):
        grid = self.embed(inputs)
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
        nn.init.normal_(self.embed.weight, std=0.2)


class Words(Preprocess):
    """Text, or several captions of one item, -> token ids; padding is made when a batch is."""

    def __call__(self, value):
        captions = [value] if isinstance(value, str) else value
        return [torch.tensor([1 + ord(letter) % 30 for letter in caption]) for caption in captions]

    def collate(self, items):
        flat = [caption for captions in items for caption in captions]
        ids = nn.utils.rnn.pad_sequence(flat, batch_first=True)
        return {"ids": ids, "mask": ids > 0, "captions": torch.tensor([len(captions) for captions in items])}


class Letters(Backbone):
    """A text tower: ids and a mask in, a token each out."""

    modality = "text"

    def __init__(self, dim=12):
        super().__init__()
        self.dim = dim
        self.embed = nn.Embedding(32, dim)
        self.block = nn.GRU(dim, dim, batch_first=True)

    def forward(self, inputs, *, layers=1, mask=None):
        return Features(self.block(self.embed(inputs["ids"]))[0], valid=inputs["mask"])

    def layers(self):
        return [self.block]

    def preprocess(self):
        return Words()


class Shades(Dataset):
    """Noise around one color a class, with two captions each."""

    def __init__(self, count=8):
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


class RandomCrops(Augment):
    def __init__(self, views=2):
        self.views = views

    def __call__(self, image, size):
        corners = [
            (random.randrange(image.width - size[1] + 1), random.randrange(image.height - size[0] + 1))
            for _ in range(self.views)
        ]
        return [image.crop((x, y, x + size[1], y + size[0])) for x, y in corners]


class SupCon(Loss):
    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        alone = ref_embeddings is None
        other, other_labels = (embeddings, labels) if alone else (ref_embeddings, ref_labels)
        logits = l2_normalize(embeddings) @ l2_normalize(other).T / 0.1
        same = labels[:, None] == other_labels
        if alone:
            itself = torch.eye(len(logits), dtype=torch.bool)
            logits, same = logits.masked_fill(itself, -1e9), same & ~itself
        return -(logits.log_softmax(1) * same).sum(1).div(same.sum(1).clamp(min=1)).mean()


class Contrastive(Loss):
    """Symmetric InfoNCE with a learnable scale (Radford et al., 2021)."""

    needs_labels = False

    def __init__(self):
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def compute(self, embeddings, labels, ref_embeddings, ref_labels):
        logits = self.log_scale.exp() * l2_normalize(embeddings) @ l2_normalize(ref_embeddings).T
        target = torch.arange(len(logits))
        return (functional.cross_entropy(logits, target) + functional.cross_entropy(logits.T, target)) / 2


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# --- (a) embedder ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cross_view", [False, True])
def test_embedder(cross_view):
    model = Embedder(backbone=Patches(), head=Projection(dim=6), loss=SupCon(), cross_view=cross_view)
    losses, batch = train(model, Shades(), RandomCrops(views=2), lr=0.5)
    assert losses[1] < losses[0]
    assert batch["views"] == {"image": 2}
    assert predict(model, batch)["embeddings"].shape == (16, 6)
    assert model(batch, "baseline")["embeddings"].shape == (16, 16)


def test_a_draw_decides_the_views_and_not_the_place_in_the_batch():
    model = Embedder(backbone=Patches())
    once = load(model, Shades(), [(5, 2), (6, 2)], RandomCrops(1))["inputs"]["image"]
    again = load(model, Shades(), [(6, 2)], RandomCrops(1))["inputs"]["image"]
    assert torch.equal(once[1], again[0])
    assert not torch.equal(once[0], once[1])


# --- (b) N:M dual encoder ----------------------------------------------------------------------------------------
class DualEncoder(Model):
    """Any number of vision and text towers; the towers of a side are projected side by side and added."""

    def __init__(self, vision, text, loss, dim=8):
        super().__init__()
        self.vision, self.text, self.criterion = nn.ModuleList(vision), nn.ModuleList(text), loss
        self.vision_heads = nn.ModuleList(nn.Linear(tower.dim, dim) for tower in vision)
        self.text_heads = nn.ModuleList(nn.Linear(tower.dim, dim) for tower in text)

    @property
    def inputs(self):
        names = {f"image{i}": tower for i, tower in enumerate(self.vision)}
        return names | {f"text{i}": tower for i, tower in enumerate(self.text)}

    def predict(self, batch):
        pooled = {
            name: (mean if tower.modality == "image" else last_token)(tower(batch["inputs"][name]))
            for name, tower in self.inputs.items()
        }
        return {
            "image": sum(head(pooled[f"image{i}"]) for i, head in enumerate(self.vision_heads)),
            "text": sum(head(pooled[f"text{i}"]) for i, head in enumerate(self.text_heads)),
        }

    def loss(self, batch):
        outputs = self.predict(batch)
        images = outputs["image"].repeat_interleave(batch["inputs"]["text0"]["captions"], dim=0)
        return {"loss": self.criterion(images, ref_embeddings=outputs["text"]), "scale": self.criterion.log_scale.exp()}

    def after_step(self, step, steps):
        with torch.no_grad():
            self.criterion.log_scale.clamp_(0, math.log(100))


def test_dual_encoder_of_two_by_two_towers_with_one_of_each_side_frozen():
    model = DualEncoder([Patches(16), Patches(8, patch=8)], [Letters(12), Letters(10)], Contrastive())
    for tower in (model.vision[0], model.text[1]):
        tower.freeze()
    before = copy.deepcopy(model.state_dict())
    losses, batch = train(model, Shades())
    after = model.state_dict()
    moved = {name.rsplit(".", 1)[0] for name in after if not torch.equal(before[name], after[name])}
    assert losses[1] < losses[0]
    assert "text.0.block" in moved
    assert "vision.1.embed" in moved
    assert not [name for name in moved if name.startswith("text.1")], "a frozen tower was trained"
    assert [name for name in moved if name.startswith("vision.0")] == ["vision.0.embed"], "more than load_weights moved"
    assert not model.train().vision[0].block.training
    assert model.vision[1].block.training
    outputs = predict(model, batch)
    assert outputs["image"].shape == (8, 8)
    assert outputs["text"].shape == (16, 8), "two captions an item"


def test_dual_encoder_clamps_its_scale():
    model = DualEncoder([Patches(8)], [Letters(10)], Contrastive())
    with torch.no_grad():
        model.criterion.log_scale.fill_(6.0)
    train(model, Shades(), lr=0.0)
    assert model.criterion.log_scale.item() == pytest.approx(math.log(100))


# --- (c) a vision-language model with a swapped encoder ----------------------------------------------------------
class Chat(Words):
    """A question and its answer, "question|answer"; only the answer is learned."""

    def __call__(self, value):
        question, answer = value.split("|")
        ids = super().__call__(question + answer)[0]
        return ids, torch.arange(len(ids)) >= len(question)

    def collate(self, items):
        pad = nn.utils.rnn.pad_sequence
        ids = pad([ids for ids, _ in items], batch_first=True)
        learned = pad([learned for _, learned in items], batch_first=True)
        return {"ids": ids, "mask": ids > 0, "labels": ids.masked_fill(~learned, -100)}


class ToyLanguageModel(Letters):
    """Causal by its recurrence; takes ready embeddings, as language models with `inputs_embeds` do."""

    def forward(self, inputs, *, layers=1, mask=None):
        return Features(self.block(inputs["embeddings"])[0], valid=inputs["mask"])

    def preprocess(self):
        return Chat()


class SwappedVisionLanguage(Model):
    """Patches of any vision tower, projected into the sequence of a language model before the text."""

    def __init__(self, vision, language):
        super().__init__()
        self.vision, self.language = vision, language
        self.merger = nn.Sequential(nn.LayerNorm(4 * vision.dim), nn.Linear(4 * vision.dim, language.dim))
        self.output = nn.Linear(language.dim, 32)

    @property
    def inputs(self):
        return {"image": self.vision, "text": self.language}

    def _logits(self, batch):
        features, text = self.vision(batch["inputs"]["image"]), batch["inputs"]["text"]
        grid = features.tokens[:, features.prefix :].unflatten(1, features.grid).permute(0, 3, 1, 2)
        visual = self.merger(functional.pixel_unshuffle(grid, 2).flatten(2).transpose(1, 2))
        embeddings = torch.cat([visual, self.language.embed(text["ids"])], dim=1)
        mask = functional.pad(text["mask"], (visual.shape[1], 0), value=True)
        return self.output(self.language({"embeddings": embeddings, "mask": mask}).tokens), visual.shape[1]

    def loss(self, batch):
        logits, visual = self._logits(batch)
        predicted = logits[:, visual - 1 : -1]  # the token before each token of the text
        return {"loss": functional.cross_entropy(predicted.flatten(0, 1), batch["inputs"]["text"]["labels"].flatten())}

    def predict(self, batch):
        logits, visual = self._logits(batch)
        return {"tokens": logits[:, visual - 1 : -1].argmax(-1)}


class Questions(Shades):
    def __getitem__(self, index):
        return super().__getitem__(index) | {"text": f"which color? {'x' * index}|{self.classes[self.labels[index]]}"}


@pytest.mark.parametrize(
    ("prefix", "size", "tokens"), [(0, (16, 16), 4), (1, (8, 24), 3), (5, (24, 16), 6)], ids=["0+16", "1+12", "5+24"]
)
def test_swapped_vision_language_model_takes_any_number_of_tokens(prefix, size, tokens):
    model = SwappedVisionLanguage(Patches(16, prefix=prefix, size=size), ToyLanguageModel())
    model.vision.freeze()
    losses, batch = train(model, Questions(), lr=0.5)
    assert losses[1] < losses[0]
    assert model._logits(batch)[1] == tokens
    assert predict(model, batch)["tokens"].shape == batch["inputs"]["text"]["ids"].shape


def test_parts_of_a_model_train_at_their_own_rate():
    model = SwappedVisionLanguage(Patches(16), ToyLanguageModel())
    before = copy.deepcopy(model.state_dict())
    train(model, Questions(), lr=0.0, parts=[("merger", 0.1), ("language.block", 0.1)])
    after = model.state_dict()
    moved = {name.rsplit(".", 1)[0] for name in after if not torch.equal(before[name], after[name])}
    assert moved == {"merger.0", "merger.1", "language.block", "vision.embed"}, "load_weights fills vision.embed"


def test_swapped_vision_language_model_learns_from_answers_only():
    model = SwappedVisionLanguage(Patches(16), ToyLanguageModel()).eval()
    batch = load(model, Questions(), [(i, i) for i in range(8)])
    text = batch["inputs"]["text"]
    reference = model(batch, "loss")["loss"]
    logits = model._logits(batch)[0][:, 3:-1]
    answers = [len(Questions().classes[label]) for label in Questions().labels]
    per_token = functional.cross_entropy(logits.transpose(1, 2), text["ids"], reduction="none")
    ends = text["mask"].sum(1)
    answer = torch.stack([per_token[i, ends[i] - n : ends[i]].sum() for i, n in enumerate(answers)]).sum() / sum(
        answers
    )
    assert reference.item() == pytest.approx(answer.item(), rel=1e-5)
    text["labels"] = text["ids"].masked_fill(~text["mask"], -100)
    assert model(batch, "loss")["loss"].item() != pytest.approx(answer.item(), rel=1e-3), "the mask changes nothing"


# --- (d) teacher-student pretraining -----------------------------------------------------------------------------
CROPS = {"global": RandomCrops(views=2), "local": RandomCrops(views=4)}


class Pretrainer(Model):
    """Self-distillation: the student sees masked global and plain local crops, the teacher plain global ones."""

    def __init__(self, backbone, momentum=0.9, prototypes=12):
        super().__init__()
        self.student = nn.ModuleDict({"backbone": backbone, "head": nn.Linear(backbone.dim, prototypes)})
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.first_momentum = momentum

    @property
    def inputs(self):
        backbone = self.student["backbone"]
        return {"global": backbone, "local": backbone}

    def preprocess(self):
        small = self.student["backbone"].preprocess()
        small.size = (8, 8)
        return super().preprocess() | {"local": small}

    def weights_ready(self):
        self.teacher.load_state_dict(self.student.state_dict())

    def train(self, mode=True):
        super().train(mode)
        self.teacher.eval()
        return self

    def before_step(self, step, steps):
        self.momentum = 1 - (1 - self.first_momentum) * (math.cos(math.pi * step / steps) + 1) / 2

    def after_step(self, step, steps):
        with torch.no_grad():
            for mine, other in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mine.lerp_(other, 1 - self.momentum)

    def loss(self, batch):
        whole, local = batch["inputs"]["global"], batch["inputs"]["local"]
        items = len(batch["ids"])
        backbone, head = self.student["backbone"], self.student["head"]
        with torch.no_grad():
            taught = self.teacher["backbone"](whole).tokens
            target = (self.teacher["head"](taught) / 0.05).softmax(-1)
        mask = torch.rand(taught.shape[0], taught.shape[1] - 1) < 0.4
        seen = head(backbone(whole, mask=mask).tokens)
        patches = -(target[:, 1:] * seen[:, 1:].log_softmax(-1)).sum(-1)[mask].mean()
        crops = head(backbone(local).tokens[:, 0]).log_softmax(-1).unflatten(0, (-1, items))
        image = -(target[:, 0].unflatten(0, (-1, items))[:, None] * crops[None]).sum(-1).mean()
        return {"loss": image + patches, "image": image.detach(), "patches": patches.detach()}

    def predict(self, batch):
        return {"embeddings": l2_normalize(self.teacher["backbone"](batch["inputs"]["global"]).tokens[:, 0])}


def test_pretrainer():
    model = Pretrainer(Patches(16, masked=True))
    fresh = copy.deepcopy(model.student.state_dict())
    losses, batch = train(model, Shades(), CROPS)
    assert all(map(math.isfinite, losses))
    assert batch["inputs"]["global"].shape == (16, 3, 16, 16)
    assert batch["inputs"]["local"].shape == (32, 3, 8, 8)
    assert predict(model, batch)["embeddings"].shape == (16, 16)
    names = set(model.state_dict())
    assert {name.replace("student", "teacher", 1) for name in names if name.startswith("student")} <= names
    assert len(names) == 2 * len(fresh), "a second name for the backbone's weights reached the checkpoint"
    assert not any(p.requires_grad or p.grad is not None for p in model.teacher.parameters())
    assert not model.train().teacher.training


def test_pretrainer_copies_its_teacher_when_the_weights_are_ready_and_moves_it_by_the_scheduled_momentum():
    model = Pretrainer(Patches(16, masked=True), momentum=0.9)
    stale = model.teacher["backbone"].embed.weight.clone()
    model.student["backbone"].load_weights()
    model.weights_ready()
    first = model.teacher["backbone"].embed.weight.clone()
    assert torch.equal(first, model.student["backbone"].embed.weight)
    assert not torch.equal(first, stale), "weights_ready would not be needed"
    with torch.no_grad():
        model.student["backbone"].embed.weight.add_(1)
    model.before_step(1, 2)
    model.after_step(1, 2)
    moved = (model.teacher["backbone"].embed.weight - first).mean().item()
    assert moved == pytest.approx(0.05), "half the cosine is over: the momentum is 0.95"


def test_a_masked_patch_is_not_seen():
    backbone = Patches(16, masked=True).eval()
    images = torch.rand(1, 3, 16, 16)
    mask = torch.zeros(1, 16, dtype=torch.bool)
    mask[0, 0] = True
    other = images.clone()
    other[:, :, :4, :4] = 0
    assert torch.equal(backbone(images, mask=mask).tokens, backbone(other, mask=mask).tokens)
    assert not torch.equal(backbone(images).tokens, backbone(other).tokens)


def test_the_engine_only_knows_three_modes():
    with pytest.raises(ValueError, match="mode must be"):
        Embedder(backbone=Patches())({}, "fit")
