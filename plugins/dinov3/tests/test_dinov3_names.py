"""A wrong name is answered with the right one."""

from __future__ import annotations

import pytest
import torch
from toolbox_dinov3.convnext import ConvNeXt
from toolbox_dinov3.ids import KNOWN
from toolbox_dinov3.vit import ViT

WRONG = {
    "dinov3-vits14": "vits16",
    "facebook/dinov3-vits14-pretrain-lvd1689m": "vits16",
    "facebook/dinov3-small-384": "vits16",
    "facebook/dinov3-base-384": "vitb16",
    "facebook/dinov3-large-384": "vitl16",
    "facebook/dinov3-huge-384": "vith16plus",
    "facebook/dinov3-vitb16-pretrain-lvd1689": "vitb16",
    "facebook/dinov3-vitl16-pretrain-sat493": "vitl16-sat",
    "dinov3_vitb16": "vitb16",
    "dinov3_vits16plus": "vits16plus",
    "vits16+": "vits16plus",
    "vit-b/16": "vitb16",
    "ViT-B-16": "vitb16",
    "VITB16": "vitb16",
    "vitb": "vitb16",
    "vit7b": "vit7b16",
    "vtib16": "vitb16",
    "vit_large_patch16_dinov3.sat": "vitl16-sat",
    "facebook/dinov3-giant": "vit7b16",
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_name_names_the_right_one(name):
    known = next(known for known in KNOWN if known.short == WRONG[name])
    with pytest.raises(ValueError) as caught:
        ViT(name)
    message = str(caught.value)
    assert message.startswith(f"There is no {name!r}.")
    assert message.endswith(f"Use {known.short!r} ({known.id}).")
    assert ("patch size 16 only" in message) == ("14" in name)


def test_exact_message():
    with pytest.raises(ValueError) as caught:
        ViT("facebook/dinov3-small-384")
    assert str(caught.value) == (
        "There is no 'facebook/dinov3-small-384'. Use 'vits16' (facebook/dinov3-vits16-pretrain-lvd1689m)."
    )


@pytest.mark.parametrize("name", ["facebook/dinov2-base", "dinov2_vitb14"])
def test_another_generation(name):
    with pytest.raises(ValueError, match=r"is DINOv2, and this is DINOv3\..*Use 'vitb16'"):
        ViT(name)


@pytest.mark.parametrize("name", ["weights/vitb16", "./vitb16", "~/no such folder", "C:\\weights\\vitb16", "/none"])
def test_missing_folder(name):
    with pytest.raises(ValueError, match=r"^The folder .* does not exist"):
        ViT(name)


def test_file_instead_of_a_folder(tmp_path):
    file = tmp_path / "dinov3_vitb16.pth"
    file.touch()
    with pytest.raises(ValueError, match="is a file; give the folder"):
        ViT(str(file))


@pytest.mark.parametrize("name", ["resnet50", ""])
def test_unlike_anything_lists_what_exists(name):
    with pytest.raises(ValueError, match="knows vits16, vits16plus, vitb16"):
        ViT(name)
    with pytest.raises(ValueError, match="knows convnext-tiny, convnext-small"):
        ConvNeXt(name)


def test_the_other_family():
    with pytest.raises(ValueError, match=r"'convnext-tiny' is no dinov3.ViT: use dinov3.ConvNeXt"):
        ViT("convnext-tiny")
    with pytest.raises(ValueError, match=r"no dinov3.ConvNeXt: use dinov3.ViT"):
        ConvNeXt("facebook/dinov3-vitb16-pretrain-lvd1689m")
    with pytest.raises(ValueError, match=r"Use 'convnext-base' .* with dinov3.ConvNeXt"):
        ViT("dinov3_convnext_base")
    with pytest.raises(ValueError, match=r"Use 'vitb16' .* with dinov3.ViT"):
        ConvNeXt("vit-b")


def test_short_names_and_ids_are_the_same_encoder():
    assert len(KNOWN) == 12
    for known in KNOWN:
        build = ViT if known.family == "vit" else ConvNeXt
        with torch.device("meta"):
            assert build(known.id).weights_id == build(known.short).weights_id == known.id


def test_a_released_name_wins_over_a_folder(tmp_path, monkeypatch):
    (tmp_path / "vitb16").mkdir()
    monkeypatch.chdir(tmp_path)
    with torch.device("meta"):
        assert ViT("vitb16").weights_id == "facebook/dinov3-vitb16-pretrain-lvd1689m"
    with pytest.raises(FileNotFoundError, match=r"vitb16 has no config.json"):
        ViT("./vitb16")
