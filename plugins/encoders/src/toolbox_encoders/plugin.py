"""Image encoders of timm and of transformers."""

from __future__ import annotations

from toolbox.plugin import Component, hookimpl


@hookimpl
def toolbox_components() -> list[Component]:
    return [
        Component(
            "backbone", "Timm", "toolbox_encoders.timm_backbone:Timm", "any image encoder of timm", requires=("timm",)
        ),
        Component(
            "backbone",
            "HFVision",
            "toolbox_encoders.hf_vision:HFVision",
            "any image encoder of transformers",
            requires=("transformers",),
        ),
    ]
