"""The extension points carry every job: four training objectives as toys on `toolbox.base`, each trained two steps.

An embedder, an N:M dual encoder, a vision-language model with a foreign vision tower, a teacher-student pretrainer.
Here they have the smallest loop that keeps the contracts; tests/test_contracts_in_runs.py gives them to the engine.
"""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from contract_models import DualEncoder, Pretrainer, SwappedVisionLanguage
from contract_parts import Contrastive, LanguageModel, Letters, Patches, Questions, RandomCrops, Shades
from toolbox_retrieval.embedder import Embedder
from torch.nn import functional

from toolbox.base import Loss, l2_normalize
from toolbox.builtins.projection import Projection
from toolbox.engine.data.batch_builder import BatchBuilder, input_specs
from toolbox.utils.tower import Tower


# --- the smallest loader and loop that keep the contracts --------------------------------------------------------
def load(model, dataset, draws, augment=None, seed=0):
    """draws of (draw, index) -> a batch, made by the engine's own loader, which is picklable."""
    return pickle.loads(pickle.dumps(BatchBuilder(dataset, input_specs(model), augment=augment, seed=seed)))[draws]


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


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


# --- (a) embedder ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("cross_view", [False, True])
def test_embedder(cross_view):
    model = Embedder(backbone=Patches(), head=Projection(dim=6), loss=SupCon(), cross_view=cross_view)
    losses, batch = train(model, Shades(), RandomCrops(views=2), lr=0.5)
    assert losses[1] < losses[0]
    assert batch.views == {"image": 2}
    assert predict(model, batch)["embeddings"].shape == (16, 6)
    assert model(batch, "baseline")["embeddings"].shape == (16, 16)


def test_a_draw_decides_the_views_and_not_the_place_in_the_batch():
    model = Embedder(backbone=Patches())
    once = load(model, Shades(), [(5, 2), (6, 2)], RandomCrops(1)).inputs["image"]
    again = load(model, Shades(), [(6, 2)], RandomCrops(1)).inputs["image"]
    assert torch.equal(once[1], again[0])
    assert not torch.equal(once[0], once[1])


# --- (b) N:M dual encoder ----------------------------------------------------------------------------------------
def align(vision, text):
    vision = {name: Tower(backbone, "mean", Projection(dim=8)) for name, backbone in vision.items()}
    text = {name: Tower(backbone, "last", Projection(dim=8)) for name, backbone in text.items()}
    return DualEncoder(vision, text, Contrastive())


def test_dual_encoder_of_two_by_two_towers_with_one_of_each_side_frozen():
    model = align({"image": Patches(16), "fine": Patches(8, patch=8)}, {"text": Letters(12), "title": Letters(10)})
    for tower in (model.vision["image"], model.text["title"]):
        tower.backbone.freeze()
    for tower in model.inputs.values():
        tower.load_weights()  # once more when training starts, to the same values
    before = copy.deepcopy(model.state_dict())
    losses, batch = train(model, Shades())
    after = model.state_dict()
    moved = {name.rsplit(".", 1)[0] for name in before if not torch.equal(before[name], after[name])}
    assert losses[1] < losses[0]
    assert "text.text.backbone.block" in moved
    assert "vision.fine.backbone.embed" in moved
    frozen = ("vision.image.backbone", "text.title.backbone")
    assert not [name for name in moved if name.startswith(frozen)], "a frozen tower was trained"
    assert not model.train().vision["image"].backbone.block.training
    assert model.vision["fine"].backbone.block.training
    outputs = predict(model, batch)
    assert outputs["embeddings"].shape == outputs["text_embeddings"].shape == (8, 8), "one of two captions a draw"
    whole = BatchBuilder(Shades(), input_specs(model), all_texts=True)[[(i, i) for i in range(8)]]
    assert predict(model, whole)["text_embeddings"].shape == (16, 8), "both captions of an item"


def test_dual_encoder_clamps_its_scale():
    model = align({"image": Patches(8)}, {"text": Letters(10)})
    with torch.no_grad():
        model.criterion.log_scale.fill_(6.0)
    train(model, Shades(), lr=0.0)
    assert model.criterion.log_scale.item() == pytest.approx(math.log(100))


# --- (c) a vision-language model with a swapped encoder ----------------------------------------------------------
@pytest.mark.parametrize(
    ("prefix", "size", "tokens"), [(0, (16, 16), 4), (1, (8, 24), 3), (5, (24, 16), 6)], ids=["0+16", "1+12", "5+24"]
)
def test_swapped_vision_language_model_takes_any_number_of_tokens(prefix, size, tokens):
    model = SwappedVisionLanguage(Patches(16, prefix=prefix, size=size), LanguageModel())
    model.vision.freeze()
    losses, batch = train(model, Questions(), lr=0.5)
    assert losses[1] < losses[0]
    assert model.logits(batch)[1] == tokens
    assert predict(model, batch)["tokens"].shape == batch.inputs["text"]["ids"].shape


def test_parts_of_a_model_train_at_their_own_rate():
    model = SwappedVisionLanguage(Patches(16), LanguageModel())
    model.vision.load_weights()
    before = copy.deepcopy(model.state_dict())
    train(model, Questions(), lr=0.0, parts=[("merger", 0.1), ("language.block", 0.1)])
    after = model.state_dict()
    moved = {name.rsplit(".", 1)[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"merger.0", "merger.1", "language.block"}


def test_swapped_vision_language_model_learns_from_answers_only():
    model = SwappedVisionLanguage(Patches(16), LanguageModel()).eval()
    batch = load(model, Questions(), [(i, i) for i in range(8)])
    text = batch.inputs["text"]
    reference = model(batch, "loss")["loss"]
    logits = model.logits(batch)[0][:, 3:-1]
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
CROPS = {"global_crops": RandomCrops(views=2), "local_crops": RandomCrops(views=4)}


def test_pretrainer():
    model = Pretrainer(Patches(16, masked=True))
    fresh = copy.deepcopy(model.student.state_dict())
    losses, batch = train(model, Shades(), CROPS)
    assert all(map(math.isfinite, losses))
    assert batch.inputs["global_crops"].shape == (16, 3, 16, 16)
    assert batch.inputs["local_crops"].shape == (32, 3, 8, 8)
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
