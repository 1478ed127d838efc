"""Image encoders of timm and of transformers, and text encoders of transformers."""

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
        Component(
            "backbone",
            "HFText",
            "toolbox_encoders.hf_text:HFText",
            "any text encoder of transformers",
            requires=("transformers",),
        ),
    ]
