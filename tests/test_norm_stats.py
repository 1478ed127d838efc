"""Batch norms that are fine-tuned: whose statistics they normalise by, and whether these change."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from toolbox_encoders.timm_backbone import Timm
from toolbox_retrieval.embedder import Embedder
from torch import nn
from torch.nn import functional

from toolbox import api
from toolbox.base import Backbone, Features, ImagePreprocess
from toolbox.builtins.tune import BackboneTuning
from toolbox.engine.assemble import apply_tuning, norm_notes
from toolbox.engine.distributed.parallel import _synchronise_norms
from toolbox.engine.grad_cache import problems as grad_cache_problems
from toolbox.errors import ToolboxError


class Norms(Backbone):
    """Two blocks with batch norms of several libraries."""

    dim = 8

    def __init__(self, weights_id=None):
        super().__init__()
        self.weights_id = weights_id
        self.blocks = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.GroupNorm(2, 8)),
                nn.Sequential(nn.Conv2d(8, 8, 1), BatchNormAct2d(8), nn.SyncBatchNorm(8)),
            ]
        )

    def forward(self, inputs, *, layers=1, mask=None):
        for block in self.blocks:
            inputs = block(inputs)
        return Features(inputs.flatten(2).transpose(1, 2), grid=inputs.shape[-2:])

    def preprocess(self):
        return ImagePreprocess((8, 8), (0.5,) * 3, (0.5,) * 3)

    def layers(self):
        return list(self.blocks)


def tuned(weights_id="weights", tune=None, net=Norms):
    model = Embedder(net(weights_id), "mean")
    model.backbone.tune = tune
    apply_tuning(model)
    return model.train()


def at_rest(model):
    return [not norm.training for norm in model.backbone.batch_norms()]


@pytest.mark.parametrize(
    ("weights_id", "tune", "expected"),
    [
        ("weights", None, [True] * 3),
        ("weights", BackboneTuning("full"), [True] * 3),
        ("weights", BackboneTuning("last"), [True] * 3),
        ("weights", BackboneTuning("full", norm_stats="train"), [False] * 3),
        ("weights", BackboneTuning("last", norm_stats="train"), [True, False, False]),
        ("weights", BackboneTuning("frozen"), [True] * 3),
        (None, None, [False] * 3),
        (None, BackboneTuning("full"), [False] * 3),
        (None, BackboneTuning("full", norm_stats="frozen"), [True] * 3),
    ],
)
def test_which_norms_keep_their_statistics(weights_id, tune, expected):
    model = tuned(weights_id, tune)
    assert at_rest(model) == expected
    model.eval()
    model.train()
    assert at_rest(model) == expected
    assert at_rest(copy.deepcopy(model).train()) == expected
    trains = [any(p.requires_grad for p in norm.parameters()) for norm in model.backbone.batch_norms()]
    mode = "full" if tune is None else tune.mode
    assert trains == {"full": [True] * 3, "last": [False, True, True], "frozen": [False] * 3}[mode]
    assert model.backbone.blocks[0][2].training == (mode == "full")  # a group norm is none of them
    notes = norm_notes(model)
    assert len(notes) == (mode != "frozen")
    if notes:
        assert ("keep their running statistics" in notes[0]) == (expected == [True] * 3)


def test_adapters_leave_statistics_alone():
    resnet = Embedder(Timm("resnet18", size=32, weights=False), "mean")
    resnet.backbone.tune = BackboneTuning("lora", rank=2, norm_stats="frozen")
    with pytest.raises(ToolboxError, match="linear"):
        apply_tuning(resnet)  # it has none to adapt
    for mode in ("frozen", "lora"):
        with pytest.raises(ValueError, match="trains no batch norm, so norm_stats='train' has no effect"):
            BackboneTuning(mode, norm_stats="train")
    with pytest.raises(ValueError, match="norm_stats must be 'train' or 'frozen', not 'eval'"):
        BackboneTuning(norm_stats="eval")


def batches(count, generator):
    """Batches of two pictures of one class, of four that differ a little in colour, and all pictures at the end."""
    means = torch.randn(4, 3, 1, 1, generator=generator)
    labels = torch.arange(count) % 4
    pairs = [(means[k] + 0.5 * torch.randn(2, 3, 8, 8, generator=generator), torch.full((2,), k)) for k in labels]
    test = torch.arange(64) % 4
    return pairs, means[test] + 0.5 * torch.randn(64, 3, 8, 8, generator=generator), test


def test_small_batches_of_one_class_spoil_statistics_that_are_not_kept():
    """The direction of what ImageNet's EfficientNet showed: worse than before with "train", better with "frozen"."""
    accuracy, changed = {}, {}
    for stats in ("frozen", "train"):
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        pairs, pictures, labels = batches(60, generator)
        backbone = Norms("weights")
        norms, head = backbone.batch_norms(), nn.Linear(8, 4)
        backbone.train()
        for norm in norms:
            norm.momentum = None  # the mean over what it sees
        backbone.blocks[1][2].momentum = 1.0
        with torch.no_grad():
            for module in backbone.modules():
                if isinstance(module, nn.SyncBatchNorm):
                    module.eval()
            backbone(pictures)  # what pretraining left in the statistics
        for norm in norms:
            norm.momentum = 0.1
        model = Embedder(backbone, "mean")
        backbone.tune = BackboneTuning("full", norm_stats=stats)
        apply_tuning(model)
        backbone.blocks[1][2].eval()  # torch's needs a GPU to train
        before = [norm.running_mean.clone() for norm in norms]
        optimizer = torch.optim.SGD([*backbone.parameters(), *head.parameters()], lr=0.05)
        for pixels, targets in pairs:
            loss = functional.cross_entropy(head(backbone(pixels).tokens.mean(1)), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        backbone.eval()
        with torch.no_grad():
            accuracy[stats] = (head(backbone(pictures).tokens.mean(1)).argmax(1) == labels).float().mean().item()
        changed[stats] = [not torch.equal(a, norm.running_mean) for a, norm in zip(before, norms, strict=True)]
    assert changed == {"frozen": [False] * 3, "train": [True, True, False]}
    assert accuracy["frozen"] > accuracy["train"] + 0.2


def test_chunks_and_processes_take_norms_at_rest():
    assert [problem.where for problem in grad_cache_problems(tuned(tune=BackboneTuning("full")))] == []
    found = grad_cache_problems(tuned(tune=BackboneTuning("full", norm_stats="train")))
    assert len(found) == 3
    assert "norm_stats='frozen'" in found[0].hint
    _synchronise_norms(tuned(tune=BackboneTuning("full")), torch.device("cpu"))
    with pytest.raises(ToolboxError, match="one process's share of the batch"):
        _synchronise_norms(tuned(tune=BackboneTuning("full", norm_stats="train")), torch.device("cpu"))


def as_older_version(checkpoint):
    """Make a checkpoint one of before `decay_tokens`, when batch norms always updated their statistics."""
    path = checkpoint.resolve() / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["recipe"]["optim_wrapper"]["decay_tokens"]
    path.write_text(json.dumps(manifest))


def test_pretrained_weights_of_a_file_keep_statistics_in_a_run(toy, tmp_path):
    from safetensors.torch import load_file, save_file

    small = dict(layers=[1, 1, 1, 1], channels=[8, 8, 8, 8], stem_width=8)
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=0, **small)
    with torch.no_grad():
        for buffer in net.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.5)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    arch = str(small).replace(" ", "")
    given = f"type='encoders.Timm',name='resnet18',arch={arch},size=32,checkpoint={str(tmp_path / 'net.safetensors')!r}"
    options = ["train_cfg.max_steps=2", "param_scheduler.warmup=1"]
    for stats, kept in ((None, True), ("train", False)):
        tune = "" if stats is None else f",tune=dict(norm_stats='{stats}')"
        recipe = toy([*options, f"model.backbone=dict({given}{tune})"])
        notes = [note for note in api.plan(recipe).notes if "norms" in note]
        assert len(notes) == 1
        assert ("keep their running statistics" in notes[0]) == kept
        api.train(recipe, out=f"run {stats}")
        as_older_version(Path(f"run {stats}", "last"))
        api.train(recipe, out=f"run {stats}", resume=True)
        said = "model.backbone.tune.norm_stats='train' goes on as it did"
        assert (said in Path(f"run {stats}", "train.log").read_text()) == kept
        saved = load_file(tmp_path / f"run {stats}" / "last" / "model.safetensors")
        key = "backbone.model.bn1.running_mean"
        assert torch.equal(saved[key], net.state_dict()["bn1.running_mean"]) == kept
