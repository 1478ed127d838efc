"""Every recipe takes another encoder by overrides; what that one lacks is left out, with a note."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from offline_encoders import stand_in_for_hub

from toolbox import api
from toolbox.base import ImagePreprocess
from toolbox.config import load_config
from toolbox.utils.export_formats import save_processor

ROOT = Path(__file__).parent.parent
RECIPES = sorted(path for path in (ROOT / "configs").rglob("*.py") if path.parent.name != "_base_")
SMALL = {
    "resnet": ("encoders.Timm", "resnet18", dict(layers=[1, 1, 1, 1], channels=[8, 8, 8, 8], stem_width=8)),
    "vit": ("encoders.Timm", "vit_tiny_patch16_224", dict(depth=2, embed_dim=48)),
    "swin": (
        "encoders.Timm",
        "swin_tiny_patch4_window7_224",
        dict(depths=[1, 1, 1, 1], embed_dim=16, num_heads=[1, 2, 4, 8]),
    ),
    "convnext": ("dinov3.ConvNeXt", None, dict(hidden_sizes=[8, 16], depths=[1, 1])),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small ViT of transformers, as a download leaves it."""
    from transformers import Dinov2Config, Dinov2Model

    place = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=8, image_size=32)
    ).save_pretrained(place)
    save_processor(place, ImagePreprocess((32, 32), (0.5,) * 3, (0.5,) * 3))
    return place


def find_image_encoder(model) -> str:
    """The key of the encoder of images, of the first one where there are several."""
    return f"model.vision.{next(iter(model['vision']))}.backbone" if "vision" in model else "model.backbone"


def list_cases() -> list:
    """Every recipe with every kind of encoder; of those with a large text encoder most are slow."""
    cases = []
    for recipe in RECIPES:
        is_large = recipe.parent.name == "configs" and ("qwen3" in recipe.name or "multi" in recipe.name)
        for kind in (*SMALL, "folder"):
            marks = [pytest.mark.slow] if is_large and kind not in ("resnet", "folder") else []
            name = f"{recipe.relative_to(ROOT / 'configs')}-{kind}"
            cases.append(pytest.param(recipe, kind, marks=marks, id=name))
    return cases


@pytest.mark.parametrize(("recipe", "kind"), list_cases())
def test_every_recipe_takes_every_encoder(recipe, kind, folder, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "siglip" in recipe.stem:
        pytest.skip("the two towers of a released pair are replaced together")
    if "4bit" in recipe.stem:
        pytest.importorskip("bitsandbytes")
    place = find_image_encoder(load_config(recipe).model)
    if kind == "folder":
        given = {f"{place}.type": "encoders.HFVision", f"{place}.name": str(folder)}
    else:
        component, name, arch = SMALL[kind]
        given = {f"{place}.type": component, f"{place}.name": name, f"{place}.arch": arch, f"{place}.weights": False}
        given["train_cfg.wise_ft"] = None  # it mixes with pretrained weights
    given |= stand_in_for_hub(recipe) | {"evaluate_before": False}
    if kind == "resnet" and recipe.name in ("dinov3_sop.py", "dinov3_qwen3_clip.py") and "demo" not in recipe.parts:
        given[f"{place}.tune.norm_stats"] = "frozen"  # by default only of pretrained weights, and chunks need it
    plan = api.plan(load_config(recipe, given), data=False)
    assert [str(problem) for problem in plan.problems if "core.AdamW8bit" not in str(problem)] == []


def planned(recipe, *overrides):
    resnet = ["model.backbone.type=encoders.Timm", "model.backbone.name=resnet18"]
    return api.plan(load_config(ROOT / "configs" / recipe, [*resnet, *overrides]), data=False)


def test_what_is_left_out_is_said(monkeypatch):
    monkeypatch.chdir(ROOT)
    notes = "\n".join(planned("dinov3_folder.py").notes)
    assert "model.backbone.tune.mode is 'last' instead of 'lora': this Timm has no linear layers to adapt." in notes
    assert (
        "model.inputs leaves out cls:4: this Timm gives its last block alone."
        in planned("dinov3_folder_probe.py").notes
    )
    notes = "\n".join(planned("demo/dinov3_food101.py").notes)
    assert "model.backbone.arch is left out" in notes
    assert "that checkpoint is of another encoder than model.backbone" in notes


def test_the_name_of_an_encoder_before_it_moved_leads_to_its_new_one(monkeypatch):
    monkeypatch.chdir(ROOT)
    told = [str(problem) for problem in planned("dinov3_folder.py", "model.backbone.type=core.Timm").problems]
    assert any("model.backbone" in text and text.endswith("Did you mean 'encoders.Timm'?") for text in told), told


def test_what_the_user_sets_is_never_dropped(monkeypatch):
    monkeypatch.chdir(ROOT)
    told = [str(problem) for problem in planned("dinov3_folder.py", "model.backbone.attention=eager").problems]
    assert any("encoders.Timm has no argument 'attention'" in text for text in told)
    told = [str(problem) for problem in planned("dinov3_folder.py", "model.backbone.tune.mode=lora").problems]
    assert any("has no linear layers inside layers() for adapters" in text for text in told)
    told = [str(problem) for problem in planned("dinov3_food101_probe.py", "model.inputs=['cls:4']").problems]
    assert any("reads the last 4 blocks" in text for text in told)


def test_an_encoder_of_the_same_type_keeps_its_arguments(monkeypatch):
    monkeypatch.chdir(ROOT)
    recipe = ROOT / "configs" / "demo" / "dinov3_food101.py"
    kind = load_config(recipe).model.backbone.type
    plan = api.plan(load_config(recipe, [f"model.backbone.type={kind}"]), data=False)
    assert not [note for note in plan.notes if "is left out: it is an argument" in note]


def test_a_run_and_an_evaluation_say_what_is_left_out(toy, tmp_path, capsys):
    toy()
    text = f"_base_ = {str(ROOT / 'tests' / 'toy_recipe.py')!r}\nmodel = dict(backbone=dict(width=16))\n"
    (tmp_path / "recipe.py").write_text(text)
    component, name, arch = SMALL["resnet"]
    given = {"type": component, "name": name, "arch": arch, "size": 32, "weights": False}
    given = {f"model.backbone.{key}": value for key, value in given.items()}
    recipe = load_config("recipe.py", given | {"train_cfg.max_steps": 2, "evaluate_before": False})
    note = "model.backbone.width is left out: it is an argument of the recipe's own encoder."
    api.train(recipe, out="w")
    assert capsys.readouterr().out.count(note) == 1
    said = []
    api.evaluate(recipe, "w/last", split="val", log=said.append)
    assert said.count(note) == 1
