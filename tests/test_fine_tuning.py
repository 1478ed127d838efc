"""Layer-wise decay, parts of a checkpoint, another resolution, the batch-norm neck, intervals in steps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrained import ARCH, TUNES, save_weights, tensors, vit
from test_resume import Said
from toolbox_dinov3.vit import ViT
from torch import nn

import toolbox
from toolbox import api
from toolbox.base import Backbone, Features, Model
from toolbox.builtins.bn_neck import BNNeck
from toolbox.builtins.optim import AdamW
from toolbox.builtins.tune import BackboneTuning
from toolbox.engine.checkpoint.transfer import below
from toolbox.engine.param_groups import distances, parameter_groups
from toolbox.registry import get_catalog

GOLDEN = Path(__file__).parent / "golden"


class Whole(Model):
    """A backbone with a head, nothing else."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(backbone.dim, 3)

    @property
    def inputs(self):
        return {"image": self.backbone}

    def predict(self, batch):
        raise NotImplementedError


def rates(model, **arguments) -> dict[str, tuple[float, float]]:
    """{parameter: (lr, weight decay)}, for a base rate and decay of 1."""
    groups = parameter_groups(model, AdamW(lr=1.0, weight_decay=1.0), arguments.pop("parts", {}), **arguments)
    found = [(name, (group.lr, group.weight_decay)) for group in groups for name in group.params]
    assert len(found) == len(dict(found))
    return dict(found)


def ours(name: str) -> str:
    """DINOv3's own name of a parameter -> its name in the model here."""
    for theirs, here in (
        ("storage_tokens", "embeddings.register_tokens"),
        ("cls_token", "embeddings.cls_token"),
        ("mask_token", "embeddings.mask_token"),
        ("patch_embed.proj", "embeddings.patch_embeddings"),
        ("blocks.", "model.layer."),
        (".ls1.gamma", ".layer_scale1.lambda1"),
        (".ls2.gamma", ".layer_scale2.lambda1"),
        (".attn.proj.", ".attention.o_proj."),
        (".attn.qkv.", ".attention.q_proj."),
        (".mlp.fc1.", ".mlp.up_proj."),
        (".mlp.fc2.", ".mlp.down_proj."),
    ):
        name = name.replace(theirs, here)
    return f"backbone.model.{name}"


def test_rates_are_those_of_dinov3():
    golden = np.load(GOLDEN / "dinov3_param_groups.npz", allow_pickle=False)
    model = Whole(ViT(name=None, arch={**ARCH, "num_register_tokens": 2}, size=16))
    decay, patch = float(golden["param_layerwise_decay"]), float(golden["param_patch_embed_lr_mult"])
    # a part's own rate is multiplied by the decay, which is what DINOv3 does with its patch embedding's
    parts = {"model.backbone.model.embeddings.patch_embeddings": {"lr": patch}}
    found = rates(model, parts=parts, layer_decay=decay)
    names = [ours(str(name)) for name in golden["out_backbone_names"]]
    assert len(names) == 35
    for name, expected in zip(names, golden["out_backbone_lr_multiplier"], strict=True):
        known = name if name in found else name.replace("model.layer.", "layer.")  # as transformers 4 names it
        assert found[known][0] == pytest.approx(float(expected), rel=1e-12), name
    assert {found[f"head.{name}"][0] for name in ("weight", "bias")} == {1.0}
    assert len({rate for rate, _ in found.values()}) == 5  # 1, .9, .81, .729, .2 * .729
    # negative controls
    assert len({rate for rate, _ in rates(model).values()}) == 1
    assert rates(model, layer_decay=0.5)[names[0]][0] != found[names[0]][0]


def test_adapters_count_with_their_block():
    backbone = ViT(name=None, arch=ARCH, size=16)
    BackboneTuning("lora", rank=2).apply(backbone)
    found = rates(Whole(backbone), layer_decay=0.5)
    lora = {name: rate for name, (rate, _) in found.items() if ".lora_" in name}
    assert {rate for name, rate in lora.items() if ".layer.0." in name} == {0.25}
    assert {rate for name, rate in lora.items() if ".layer.1." in name} == {0.5}
    assert len(lora) + 2 == len(found)


class Stages(Backbone):
    """Layers before, between and after its blocks, one of which is shared."""

    dim = 4

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.down = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.second, self.third, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.LayerNorm(4)

    def forward(self, inputs, *, layers=1, mask=None):
        return Features(inputs)

    def layers(self):
        return [self.first, self.second, self.third]

    def preprocess(self):
        raise NotImplementedError


def test_what_stands_between_blocks_belongs_to_the_upper_one():
    found = {name.split(".")[1]: distance for name, distance in distances(Whole(Stages())).items()}
    assert found == {"stem": 4, "first": 3, "down": 2, "second": 2, "third": 1, "norm": 0}


def test_parts_may_have_a_layer_decay_of_their_own():
    model = Whole(Stages())
    found = rates(model, parts={"model.backbone": {"layer_decay": 0.5, "lr": 2.0}})
    assert found["backbone.third.weight"][0] == 1.0
    assert found["head.weight"][0] == 1.0
    both = rates(model, layer_decay=0.5, parts={"model.backbone.first": {"layer_decay": 1.0}})
    assert (both["backbone.first.weight"][0], both["backbone.second.weight"][0]) == (1.0, 0.25)


def problems(config) -> str:
    return "\n".join(str(problem) for problem in api.check_config(config))


def test_layer_decay_without_effect_is_refused(toy):
    assert problems(toy(["optim_wrapper.layer_decay=0.75"])) == ""
    frozen = toy(["optim_wrapper.layer_decay=0.75", "model.backbone.tune=dict(mode='frozen')"])
    assert "No backbone trains, so layer_decay has no effect" in problems(frozen)
    for value in ("0.0", "1.5", "-1"):
        assert "above 0 and at most 1" in problems(toy([f"optim_wrapper.layer_decay={value}"]))
    head = toy(["optim_wrapper.parts={'model.head': dict(layer_decay=0.5)}"])
    assert "'model.head' holds no backbone that trains" in problems(head)
    assert "layer_decay" in problems(toy(["optim_wrapper.layer_deacy=0.5"]))


def test_the_table_of_parts_shows_ranges(toy, capsys):
    from toolbox.cli.tables import print_plan

    plan = api.plan(toy([vit(None), "model.pool=cls", "optim_wrapper.layer_decay=0.5"]))
    assert plan.problems == []
    rows = {(part.name, part.weight_decay): (part.lowest_lr, part.lr) for part in plan.parts}
    assert rows["model.backbone", 0.05] == (1.25e-4, 5e-4)
    assert rows["model.backbone", 0.0] == (1.25e-4, 1e-3)  # the last norm has the whole rate
    assert rows["model.head", 0.05] == (None, 1e-3)
    print_plan(plan)
    assert "0.000125 to 0.0005" in capsys.readouterr().out


def test_layer_decay_reaches_the_optimizer(toy):
    options = [vit(None), "model.pool=cls", "train_cfg.max_steps=2", "param_scheduler=None"]
    toolbox.train(toy([*options, "optim_wrapper.optimizer=dict(type='core.SGD',lr=0.1)"]), out="plain")
    decayed = [*options, "optim_wrapper.optimizer=dict(type='core.SGD',lr=0.1)", "optim_wrapper.layer_decay=0.01"]
    toolbox.train(toy(decayed), out="decayed")
    toolbox.train(toy([*decayed, "train_cfg.max_steps=1", "optim_wrapper.optimizer.lr=0.0"]), out="start")
    start, plain, decay = (tensors(f"{name}/last") for name in ("start", "plain", "decayed"))
    name = next(name for name in start if "layer.0." in name and name.endswith("up_proj.weight"))
    moved = [(found[name] - start[name]).norm() for found in (plain, decay)]
    assert moved[1] < 1e-3 * moved[0]


# --- parts of a checkpoint ---------------------------------------------------------------------------------------


def test_parts_of_a_checkpoint_go_into_a_model_with_another_head_and_loss(toy):
    toolbox.train(toy(), out="w")
    other = ["model.head.dim=5", "optim_wrapper.optimizer.lr=0.0", "load_from=w/last"]
    with pytest.raises(toolbox.ToolboxError, match="of another model: of another shape: head") as caught:
        toolbox.train(toy(other), out="v")
    assert "load_parts=['model.backbone']" in str(caught.value)
    assert "w/config.py" in str(caught.value), "the recipe that it was made with"
    said = Said()
    toolbox.train(toy([*other, "load_parts=['model.backbone']"]), out="v", console=said)
    before, after = tensors("w/last"), tensors("v/last")
    own = {name for name in before if name.startswith("backbone.")}
    assert own
    assert all(torch.equal(before[name], after[name]) for name in own)
    assert after["head.stack.0.weight"].shape == (5, 16)
    line = next(line for line in said.lines if "tensors were taken" in line)
    assert f"{len(own)} tensors were taken from it (model.backbone)" in line
    assert "3 tensors of the model are not from it (model.criterion, model.head)" in line
    assert "3 tensors of it were left out (model.criterion, model.head)" in line
    # negative control: without load_from the backbone is another one
    toolbox.train(toy(other[:2]), out="u")
    fresh = tensors("u/last")
    assert not any(torch.equal(before[name], fresh[name]) for name in own if name.endswith("weight"))


def test_the_zero_shot_numbers_are_those_of_the_loaded_part(toy, monkeypatch):
    toy()
    nearest = get_catalog().resolve("toy.Nearest")
    monkeypatch.setattr(nearest, "compute", lambda self: {"nearest": float(torch.cat(self.rows).sum())})
    toolbox.train(toy(), out="w")
    other = toy(["model.head.dim=5", "load_from=w/last", "load_parts=['model.backbone']"])
    assert toolbox.evaluate(other) == toolbox.evaluate(toy(["load_from=w/last"]))
    assert toolbox.evaluate(other) != toolbox.evaluate(toy())
    assert any("tensors were taken" in note for note in api.plan(other).notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["load_parts=['model.backbone']"], "no effect without load_from"),
        (["load_from=w/last", "load_parts=[]"], "names no part"),
        (["load_from=w/last", "load_parts=['model.bakcbone']"], "'model.bakcbone' holds no tensors in the model"),
        (["load_from=w/last", "load_parts=['model.head']", "model.head=None"], "'model.head' holds no tensors in"),
        (["load_from=w/last", "load_parts=['model.backbone']", "model.backbone.width=8"], "of another shape: backbone"),
        (["load_from=w/last", "load_parts='model.backbone'"], "expected here"),
    ],
)
def test_parts_that_do_not_fit_are_refused_before_anything_runs(toy, options, message):
    toolbox.train(toy(), out="w")
    assert message in problems(toy(options))


def test_a_part_inside_a_pretrained_backbone_lies_over_its_own_weights(toy, tmp_path):
    save_weights(tmp_path / "a", seed=1)
    save_weights(tmp_path / "b", seed=2)
    first = ["model.pool=cls", "train_cfg.max_steps=2"]
    toolbox.train(toy([*first, vit(tmp_path / "a")]), out="w")
    options = [*first, vit(tmp_path / "b"), "load_from=w/last", "optim_wrapper.optimizer.lr=0.0"]
    toolbox.train(toy([*options, "load_parts=['model.backbone.model.embeddings']"]), out="v")
    toolbox.train(toy([*options[:3], *options[4:]]), out="own")
    there, here, own = tensors("w/last"), tensors("v/last"), tensors("own/last")
    for name in here:
        if name.startswith("backbone."):
            source = there if ".embeddings." in name else own
            assert torch.equal(here[name], source[name]), name


def test_an_adapter_is_never_left_out_silently(toy, tmp_path):
    save_weights(tmp_path / "a")
    first = ["model.pool=cls", "train_cfg.max_steps=2"]
    toolbox.train(toy([*first, vit(tmp_path / "a", TUNES[1])]), out="w")
    frozen = toy([*first, vit(tmp_path / "a", "dict(mode='frozen')"), "load_from=w/last"])
    assert "unexpected: backbone.adapter" in problems(frozen)
    other = toy([*first, vit(tmp_path / "a", TUNES[1]), "model.head.dim=5", "load_from=w/last"])
    assert "another model" in problems(other)
    more = {"load_parts": ["model.backbone"], "optim_wrapper.optimizer.lr": 0.0}
    toolbox.train(api.apply_changes(other, more), out="v")
    there, here = tensors("w/last"), tensors("v/last")
    lora = [name for name in there if "lora_" in name]
    assert lora
    assert all(torch.equal(there[name], here[name]) for name in lora)
    inside = api.apply_changes(other, {"load_parts": ["model.backbone.model.norm"]})
    assert "is part of a backbone with an adapter" in problems(inside)


def test_weights_that_were_trained_and_would_be_frozen_say_what_to_do(toy, tmp_path):
    save_weights(tmp_path / "a")
    first = ["model.pool=cls", "train_cfg.max_steps=2"]
    toolbox.train(toy([*first, vit(tmp_path / "a")]), out="w")
    frozen = [*first, vit(tmp_path / "a", "dict(mode='frozen')"), "load_from=w/last"]
    assert "weights=False" in problems(toy(frozen))
    toolbox.train(toy([*frozen, "model.backbone.weights=False"]), out="v")
    there, here = tensors("w/last"), tensors("v/last")
    assert all(torch.equal(there[name], here[name]) for name in there if name.startswith("backbone."))


def test_below():
    assert below("head.weight", "model.head")
    assert below("head.weight", "model")
    assert not below("header.weight", "model.head")


# --- another resolution ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", TUNES)
def test_a_run_goes_on_at_another_resolution(toy, tmp_path, tune):
    """Rotary positions follow any size: the weights are the same."""
    save_weights(tmp_path / "a")
    first = ["model.pool=cls", "train_cfg.max_steps=3", "train_cfg.val_interval=3"]
    toolbox.train(toy([*first, vit(tmp_path / "a", tune)]), out="small")
    large = [*first, vit(tmp_path / "a", tune, size=24), "load_from=small/last"]
    kept = toolbox.train(toy([*large, "optim_wrapper.optimizer.lr=0.0"]), out="kept")
    assert all(
        torch.equal(a, b) for a, b in zip(*(tensors(f"{n}/last").values() for n in ("small", "kept")), strict=True)
    )
    toolbox.train(toy(large), out="large")
    assert any(
        not torch.equal(a, b) for a, b in zip(*(tensors(f"{n}/last").values() for n in ("small", "large")), strict=True)
    )
    assert toolbox.load("large").model.backbone.size == 24
    # the larger images were really seen
    assert kept["best"]["metrics"] == toolbox.evaluate(toy(large), "small/last", split="val")
    assert toolbox.load("large").model.preprocess()["image"].size == (24, 24)


# --- the batch-norm neck -----------------------------------------------------------------------------------------


def test_the_neck_is_a_batch_norm_without_shift():
    torch.manual_seed(0)
    x = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    neck = BNNeck()
    neck.connect(5, classes=3)
    neck.double()
    with torch.no_grad():
        neck.norm.weight.uniform_(0.5, 2)
    out = neck(x)
    expected = (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() * neck.norm.weight
    weight = torch.randn_like(out)
    for a, b in zip(
        *(torch.autograd.grad((y * weight).sum(), x, retain_graph=True) for y in (out, expected)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    assert [name for name, p in neck.named_parameters() if p.requires_grad] == ["norm.weight"]
    assert neck.norm.bias.eq(0).all()
    assert neck.out_dim == 5
    neck.eval()
    assert neck(x[:1]).shape == (1, 5)  # in evaluation single items are fine, by the running statistics
    wide = BNNeck(dim=3)
    wide.connect(5)
    assert (wide.out_dim, wide.linear.bias) == (3, None)


def test_the_neck_refuses_what_has_no_statistics():
    neck = BNNeck()
    neck.connect(5)
    with pytest.raises(toolbox.ToolboxError, match="at least 2 items"):
        neck(torch.randn(1, 5))
    with pytest.raises(ValueError, match="one vector an item"):
        neck(torch.randn(4, 5, 5))
    with pytest.raises(ValueError, match="dim=0"):
        BNNeck(dim=0)


def test_the_neck_trains_is_saved_and_gives_what_retrieval_reads(toy):
    options = ["model.head=dict(type='core.BNNeck',dim=6)"]
    results = toolbox.train(toy(options), out="w")
    saved = tensors("w/last")
    assert saved["head.norm.bias"].eq(0).all()
    assert not saved["head.norm.running_mean"].eq(0).all()
    assert toolbox.evaluate(toy(options), "w/best", split="val") == results["best"]["metrics"]
    single = ["train_dataloader.sampler=None", "train_dataloader.batch_size=1", *options]
    assert "at least 2 items" in problems(toy(single))


# --- intervals in steps ------------------------------------------------------------------------------------------


def test_checkpoints_by_steps_in_a_run_by_epochs(toy):
    length = ["train_cfg=dict(max_epochs=3)", "default_hooks.checkpoint.max_keep_ckpts=99"]
    steps = "default_hooks.checkpoint.interval=2", "default_hooks.checkpoint.by_epoch=False"
    results = toolbox.train(toy([*length, *steps]), out="w")
    found = {int(path.name.split("-")[1]) for path in Path("w").glob("checkpoint-*")}
    assert results["steps"] == 24
    assert found == set(range(2, 26, 2))
    toolbox.train(toy(length), out="v")  # negative control: the toy recipe's interval of 4 counts epochs here
    assert {int(path.name.split("-")[1]) for path in Path("v").glob("checkpoint-*")} <= {8, 16, 24}
    assert json.loads(Path("w/checkpoint-2/manifest.json").read_text())["step"] == 2
