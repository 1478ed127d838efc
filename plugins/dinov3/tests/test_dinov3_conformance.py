"""The contracts that every plugin is held to."""

from __future__ import annotations

from toolbox_dinov3.convnext import ConvNeXt
from toolbox_dinov3.vit import ViT

from toolbox.testing import check_backbone, check_plugin

SMALL_VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
SMALL_CONVNEXT = {"hidden_sizes": [8, 16], "depths": [1, 2], "layer_scale_init_value": 0.5}


def test_plugin():
    check_plugin("dinov3")


def test_vit():
    check_backbone(lambda: ViT(name=None, arch={**SMALL_VIT, "num_register_tokens": 2}, size=32))
    check_backbone(lambda: ViT(name=None, arch={**SMALL_VIT, "use_gated_mlp": True}, size=32))


def test_convnext():
    check_backbone(lambda: ConvNeXt(name=None, arch=SMALL_CONVNEXT, size=32))
