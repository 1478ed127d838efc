"""A batch in chunks has the gradient of the whole batch, in every combination that is allowed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from toolbox.base import Batch, Model
from toolbox.engine.assemble import apply_tuning, build_structure
from toolbox.engine.device import choose_device, random_state, set_random_state
from toolbox.engine.grad_cache import GradCache, chunks, problems
from toolbox.engine.precision import Precision
from toolbox.errors import ToolboxError

ITEMS, SIZE = 24, 16
VIT = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=8)


def backbone(**changes):
    return dict(type="dinov3.ViT", name=None, arch=VIT, size=SIZE) | changes


LORA = dict(mode="lora", rank=2, alpha=4, dropout=0.3)
TEACHER = backbone(arch=VIT | dict(hidden_size=32))
SUPCON = dict(type="losses.SupCon")
DISTIL = dict(type="losses.Sum", losses=[SUPCON, dict(type="losses.Distillation", kind="kl")], weights=[1.0, 0.5])
COMBINATIONS = {
    "supcon": dict(loss=SUPCON),
    "infonce over pairs": dict(loss=dict(type="losses.InfoNCE"), cross_view=True),
    "triplet": dict(loss=dict(type="losses.Triplet", margin=0.3)),
    "proxies": dict(loss=dict(type="losses.ProxyAnchor")),
    "centres": dict(loss=dict(type="losses.ArcFace")),
    "lora with dropout": dict(loss=SUPCON, backbone=backbone(tune=LORA)),
    "dropout in the head": dict(loss=SUPCON, head=dict(type="core.Projection", dim=8, layers=2, dropout=0.5)),
    "gradient checkpointing": dict(loss=SUPCON, backbone=backbone(tune=LORA, gradient_checkpointing=True)),
    "matryoshka": dict(loss=dict(type="losses.Matryoshka", loss=SUPCON, dims=[8, 4, 2])),
    "distillation": dict(loss=DISTIL, teacher=TEACHER),
    "distillation over pairs": dict(loss=DISTIL, teacher=TEACHER, cross_view=True),
    "matryoshka, distillation, lora": dict(
        loss=dict(type="losses.Matryoshka", loss=DISTIL, dims=[8, 4]), teacher=TEACHER, backbone=backbone(tune=LORA)
    ),
    "memory": dict(loss=dict(type="losses.CrossBatchMemory", loss=SUPCON, size=30)),
    "frozen backbone": dict(loss=SUPCON, backbone=backbone(tune=dict(mode="frozen"))),
    "tokens": dict(loss=dict(type="losses.MaxSim"), pool="tokens", cross_view=True),
}


def build(changes: dict) -> Model:
    torch.manual_seed(0)
    recipe = dict(type="retrieval.Embedder", backbone=backbone(), head=dict(type="core.Projection", dim=8))
    model = build_structure({"model": recipe | changes}, classes=6)
    apply_tuning(model)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():  # adapters start at zero, where half of their gradients vanish
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.double().train()


def batch(model: Model, views: int = 1, items: int = ITEMS) -> Batch:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(items) % 6
    pixels = torch.randn(views * items, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)
    inputs = dict.fromkeys(model.inputs, pixels)
    return Batch.example(inputs, labels=labels, views=dict.fromkeys(inputs, views))


def gradients(model: Model) -> dict[str, torch.Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def cache(model: nn.Module, size: int) -> GradCache:
    device = choose_device("cpu")
    return GradCache(model, size, Precision("fp32", device), device)


@pytest.mark.parametrize("size", [5, 24])
@pytest.mark.parametrize("name", COMBINATIONS)
def test_gradients_equal_the_whole_batch(name, size):
    whole = build(COMBINATIONS[name])
    views = 2 if whole.cross_view else 1
    given = batch(whole, views)
    for module in whole.modules():  # a draw of dropout depends on how many rows it is drawn for
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    chunked = copy.deepcopy(whole)
    for _ in range(2):  # the second batch meets what the first left in a memory
        for model in (whole, chunked):
            model.zero_grad(set_to_none=True)
        expected = whole(given, "loss")["loss"]
        expected.backward()
        found = cache(chunked, size)(given, lambda loss: loss.backward())["loss"]
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)
    assert not found.requires_grad
    theirs, ours = gradients(whole), gradients(chunked)
    assert theirs.keys() == ours.keys()
    assert any(value.abs().max() > 1e-6 for value in theirs.values()), "nothing to compare"
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-6, atol=1e-9, msg=key)
    for key, value in whole.state_dict().items():  # what a loss remembers was written once
        torch.testing.assert_close(chunked.state_dict()[key], value, msg=key)


class Doubled(nn.Module):
    """Represents every chunk as `model` does, and keeps what it returned."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, batch, mode, *given):
        found = self.model(batch, mode, *given)
        if mode == "encode":
            self.seen.append(found["embeddings"].detach().clone())
        return found


@pytest.mark.parametrize("name", ["lora with dropout", "dropout in the head"])
def test_the_second_pass_repeats_the_random_numbers_of_the_first(name, monkeypatch):
    model = Doubled(build(COMBINATIONS[name]))
    given = batch(model.model)
    cache(model, 5)(given, lambda loss: loss.backward())
    half = len(model.seen) // 2
    assert half == 5
    assert all(map(torch.equal, model.seen[:half], model.seen[half:]))
    assert not torch.equal(*(cat[:5] for cat in (model.seen[0], model.model(given, "encode")["embeddings"])))
    # control: without the replay the passes differ
    monkeypatch.setattr("toolbox.engine.grad_cache.set_random_state", lambda device, state: None)
    model.seen.clear()
    cache(model, 5)(given, lambda loss: loss.backward())
    assert not all(map(torch.equal, model.seen[:half], model.seen[half:]))


def test_dropout_s_gradient_is_that_of_the_masks_that_made_the_loss():
    """One chunk as large as the batch draws the very numbers of a plain step, so the two must agree exactly."""
    whole = build(COMBINATIONS["dropout in the head"])
    chunked = copy.deepcopy(whole)
    given = batch(whole)
    device = choose_device("cpu")
    state = random_state(device)
    whole(given, "loss")["loss"].backward()
    after = torch.rand(3)
    set_random_state(device, state)
    cache(chunked, ITEMS)(given, lambda loss: loss.backward())
    assert torch.equal(torch.rand(3), after), "the generator must end where a plain step would leave it"
    for key, value in gradients(whole).items():
        torch.testing.assert_close(gradients(chunked)[key], value, rtol=1e-9, atol=1e-12)


def test_chunks_keep_every_row_once_and_refuse_uneven_inputs():
    rows = torch.arange(10)
    parts = list(chunks({"image": rows, "text": {"ids": rows * 2}}, 4))
    assert [len(part["image"]) for part in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([part["image"] for part in parts]), rows)
    assert torch.equal(torch.cat([part["text"]["ids"] for part in parts]), rows * 2)
    with pytest.raises(ToolboxError, match="equally many rows"):
        list(chunks({"image": rows, "text": rows[:4]}, 4))


def test_batch_norm_and_models_of_one_piece_are_refused():
    head = dict(type="core.Projection", dim=8, norm="batch")
    found = problems(build(dict(loss=SUPCON, head=head)))
    assert len(found) == 1
    assert "BatchNorm1d" in found[0].message
    assert found[0].where == "model.head.stack.0"
    assert problems(build(dict(loss=SUPCON))) == []

    class OnePiece(Model):
        inputs = {}

        def loss(self, batch):
            return {}

        def predict(self, batch):
            return {}

    assert "one piece" in problems(OnePiece())[0].message


def test_a_recipe_is_refused_before_anything_runs(toy):
    from toolbox.api import check_config

    config = toy({"optim_wrapper.grad_cache": dict(chunk_size=3), "model.head.norm": "batch"})
    assert any("BatchNorm1d" in problem.message for problem in check_config(config))
    assert any("at least 1" in p.message for p in check_config(toy({"optim_wrapper.grad_cache.chunk_size": 0})))
    assert check_config(toy({"optim_wrapper.grad_cache.chunk_size": 3})) == []


def test_a_whole_run_learns_what_the_plain_run_learns(toy):
    """Dropout aside, a run in chunks ends at the weights of the plain run; it accumulates and is resumed like it."""
    from toolbox import api

    plain = {"model.backbone.dropout": 0.0, "optim_wrapper.accumulative_counts": 2}
    chunked = plain | {"optim_wrapper.grad_cache.chunk_size": 3}
    weights = []
    for name, options in (
        ("plain", plain),
        ("chunked", chunked),
        ("dropout", {**chunked, "model.backbone.dropout": 0.4}),
    ):
        api.train(toy(options), out=name)
        weights.append(api.load(f"{name}/last").model.state_dict())
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-4, atol=1e-5, msg=key)
    assert not all(torch.allclose(weights[2][key], value, atol=1e-4) for key, value in weights[0].items())
