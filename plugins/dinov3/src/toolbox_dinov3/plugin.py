"""DINOv3 image encoders: vision transformers and ConvNeXts, on the modules of transformers."""

from __future__ import annotations

from toolbox.plugin import Component, hookimpl


@hookimpl
def toolbox_components() -> list[Component]:
    return [
        Component(
            "backbone",
            "ViT",
            "toolbox_dinov3.vit:ViT",
            "DINOv3 vision transformer: S, S+, B, L, H+, 7B, or your own sizes",
            requires=("transformers",),
        ),
        Component(
            "backbone",
            "ConvNeXt",
            "toolbox_dinov3.convnext:ConvNeXt",
            "DINOv3 ConvNeXt: tiny, small, base, large, or your own sizes",
            requires=("transformers",),
        ),
    ]
