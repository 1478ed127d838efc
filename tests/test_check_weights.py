"""--check looks for pretrained weights, without a download: absent ones, or of another net, are problems."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from pretrained import save_weights, vit
from safetensors.torch import load_file, save_file

from toolbox import api
from toolbox.cli import train
from toolbox.planning import plan
from toolbox.utils import hub

HERE = Path(__file__).parent
SMALL = dict(layers=[1, 1, 1, 1], channels=[8, 8, 8, 8], stem_width=8)


def found(recipe):
    return [str(problem) for problem in plan(recipe, data=False, weights=True).problems]


def resnet(file):
    arch = str(SMALL).replace(" ", "")
    return f"model.backbone=dict(type='encoders.Timm',name='resnet18',arch={arch},size=32,checkpoint={str(file)!r})"


def test_files_that_are_absent_damaged_or_of_another_net(toy, tmp_path):
    file = tmp_path / "net.safetensors"
    assert any("does not exist" in text and "model.backbone" in text for text in found(toy([resnet(file)])))
    torch.manual_seed(0)
    state = timm.create_model("resnet18", num_classes=0, **SMALL).state_dict()
    save_file(state, file)
    assert found(toy([resnet(file)])) == []
    save_file({**state, "conv1.weight": torch.zeros(4, 3, 7, 7)}, file)
    assert any("do not fit 'resnet18'" in text for text in found(toy([resnet(file)])))
    file.write_bytes(file.read_bytes()[:-100])
    assert any("was cut short" in text for text in found(toy([resnet(file)])))


def test_a_folder_of_transformers(toy, tmp_path):
    folder = save_weights(tmp_path / "vit")
    assert found(toy([vit(folder)])) == []
    state = load_file(folder / "model.safetensors")
    key = next(iter(state))
    save_file({name: tensor for name, tensor in state.items() if name != key}, folder / "model.safetensors")
    assert any("missing" in text and key in text for text in found(toy([vit(folder)])))
    (folder / "model.safetensors").unlink()
    assert any("has no model.safetensors" in text for text in found(toy([vit(folder)])))


@pytest.mark.parametrize(
    "backbone", ["dict(type='encoders.Timm',name='resnet18')", "dict(type='dinov3.ViT',name='vits16')"]
)
def test_ids_that_cannot_be_had(toy, backbone, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    recipe = toy([f"model.backbone={backbone}"])
    told = found(recipe)
    assert len(told) == 1
    assert "hf download" in told[0]
    assert api.plan(recipe, data=False).problems == []  # only --check looks
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "explain_unreachable", lambda *_: None)
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda *_, local_files_only=False, **__: (
            (_ for _ in ()).throw(OSError("not cached")) if local_files_only else pytest.fail("it was downloaded")
        ),
    )
    assert found(recipe) == []


def test_the_command_ends_with_2(toy, capsys, tmp_path):
    options = ["--plugin", str(HERE / "toy_plugin.py"), "--check", "--cfg-options", resnet(tmp_path / "absent.pth")]
    assert train.main([str(HERE / "toy_recipe.py"), *options]) == 2
    assert "absent.pth does not exist" in capsys.readouterr().err
