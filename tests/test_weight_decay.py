"""What weight decay leaves out: vectors, and what has a place rather than a size."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toolbox_dinov3.vit import ViT
from toolbox_encoders.hf_vision import HFVision
from toolbox_encoders.timm_backbone import Timm
from toolbox_retrieval.embedder import Embedder

import toolbox
from toolbox import api
from toolbox.builtins.optim import AdamW
from toolbox.engine.checkpoint.transfer import match
from toolbox.engine.param_groups import decay_notes, parameter_groups
from toolbox.engine.parts import frozen_identity, left_out
from toolbox.engine.resume import differences

VIT = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_register_tokens=4)
HF = dict(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, patch_size=16)
SWIN = dict(depths=(1, 1, 1, 1), embed_dim=24, num_heads=(1, 2, 3, 4))
HF_SWIN = dict(depths=[1, 1], embed_dim=8, num_heads=[1, 2], window_size=2, image_size=32, patch_size=4)
NETS = {
    "dinov3": (lambda: ViT(None, 32, arch=VIT), {"cls_token", "register_tokens", "mask_token"}),
    "dinov3 by timm": (
        lambda: Timm("vit_small_patch16_dinov3", size=32, weights=False, arch=dict(depth=1)),
        {"cls_token", "reg_token"},
    ),
    "timm vit": (
        lambda: Timm("vit_tiny_patch16_224", size=32, weights=False, arch=dict(depth=1)),
        {"cls_token", "pos_embed"},
    ),
    "timm swin": (
        lambda: Timm("swin_tiny_patch4_window7_224", weights=False, arch=SWIN),
        {"relative_position_bias_table"},
    ),
    "timm levit": (lambda: Timm("levit_128s", weights=False), {"attention_biases"}),
    "timm swin v2": (
        lambda: Timm("swinv2_tiny_window8_256", weights=False, arch=SWIN),
        {"logit_scale", "cpb_mlp"},
    ),
    "dinov2": (
        lambda: HFVision(None, 32, arch=dict(model_type="dinov2", hidden_size=32, num_hidden_layers=1, patch_size=16)),
        {"cls_token", "mask_token", "position_embeddings"},
    ),
    "clip": (
        lambda: HFVision(None, 32, arch=dict(model_type="clip_vision_model", **HF)),
        {"position_embedding"},
    ),
    "swin": (lambda: HFVision(None, 32, arch=dict(model_type="swin", **HF_SWIN)), {"relative_position_bias_table"}),
}


def decayed(model, **options):
    groups = parameter_groups(model, AdamW(lr=1.0, weight_decay=0.05), {}, **options)
    return {name: group.weight_decay > 0 for group in groups for name in group.params}


@pytest.mark.parametrize("kind", NETS)
def test_tokens_and_positions_are_not_decayed_unless_asked(kind):
    build, names = NETS[kind]
    with torch.device("meta"):
        model = Embedder(build())
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    found = decayed(model)
    places = {name for name in shapes if shapes[name] > 1 and names & set(name.split("."))}
    assert {part for name in places for part in names & set(name.split("."))} == names
    assert not [name for name in places if found[name]]
    weights = {name for name in shapes if shapes[name] > 1 and name.endswith(".weight") and name not in places}
    assert len(weights) > 3
    assert all(found[name] for name in weights)
    said = getattr(model.backbone.model, "no_weight_decay", set)()
    assert not [name for name in said if found.get(f"backbone.model.{name}")]
    asked = decayed(model, decay_tokens=True)
    assert all(asked[name] == (ndim > 1) for name, ndim in shapes.items())
    everything = decayed(model, decay_tokens=True, decay_one_dim=True)
    assert all(everything.values())


def test_a_parameter_without_values_counts_nowhere():
    """Sharding freezes it, and what is saved and compared must be the same with and without."""
    arch = dict(VIT, num_register_tokens=0)
    model = Embedder(ViT(None, 32, arch=arch))
    model.backbone.weights_id = "weights"
    empty = "backbone.model.embeddings.register_tokens"
    parameter = dict(model.named_parameters())[empty]
    assert parameter.numel() == 0
    for trains in (True, False):
        parameter.requires_grad_(trains)
        names = [name for group in parameter_groups(model, AdamW(lr=1.0), {}) for name in group.params]
        assert len(names) > 10
        assert empty not in names
        assert left_out(model) == {empty}
        assert frozen_identity(model) == {}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    without = {name: shape for name, shape in shapes.items() if name != empty}
    for held, skip in ((shapes, {empty}), (without, {empty}), (without, set())):  # older versions held it
        match(shapes, skip, held, None).check("checkpoint")


def test_the_note_names_what_is_left_out():
    with torch.device("meta"):
        model = Embedder(NETS["dinov3"][0]())
    optimizer = AdamW(lr=1.0, weight_decay=0.05)
    note = decay_notes(model, parameter_groups(model, optimizer, {}), 0.05)
    assert "model.backbone.model.embeddings.cls_token" in note[0]
    assert "optim_wrapper.decay_tokens=True" in note[0]
    assert decay_notes(model, parameter_groups(model, optimizer, {}, decay_tokens=True), 0.05) == []
    model.backbone.freeze()
    assert decay_notes(model, parameter_groups(model, optimizer, {}), 0.05) == []


def test_the_recipe_decides_and_a_run_of_an_older_version_is_told(toy):
    arch = str(dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, patch_size=8))
    vit = f"model.backbone=dict(type='dinov3.ViT',name=None,arch={arch.replace(' ', '')},size=16)"
    options = [vit, "train_cfg.max_steps=3"]
    check = api.plan(toy([*options, "optim_wrapper.decay_tokens=True"]))
    assert not any("decay_tokens" in note for note in check.notes)
    assert any("cls_token" in note for note in api.plan(toy(options)).notes)
    toolbox.train(toy(options), out="run")
    manifest = json.loads(Path("run", "last", "manifest.json").read_text())
    recipe = copy.deepcopy(manifest["recipe"])
    now = (recipe, {}, manifest["classes"])
    manifest["plugins"] = {}
    assert differences(SimpleNamespace(manifest=manifest), *now) == []
    del manifest["recipe"]["optim_wrapper"]["decay_tokens"]
    told = differences(SimpleNamespace(manifest=manifest), *now)
    assert len(told) == 1
    assert "optim_wrapper.decay_tokens=True goes on as it did" in told[0]
