"""The plugin `alignment`: dual encoders of images and texts, and how they are evaluated."""

from toolbox.plugin import Component, hookimpl

COMPONENTS: tuple[tuple[str, str, str, str], ...] = (
    ("model", "DualEncoder", "dual_encoder", "towers of images and of texts that share a space"),
    ("head", "GatedMLP", "gated_mlp", "layer norm, a gated layer, and a projection"),
    ("hook", "ChanceWatch", "chance_watch", "a warning where the loss stays at its chance level"),
    ("metric", "ZeroShot", "zero_shot", "classification by the names of classes alone"),
)
"""Of each component its kind, name, module and summary."""


@hookimpl
def toolbox_components():
    return [
        Component(kind, name, f"toolbox_alignment.{module}:{name}", summary)
        for kind, name, module, summary in COMPONENTS
    ]
