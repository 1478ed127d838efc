"""The plugin `alignment`: dual encoders of images and texts, and how they are evaluated."""

from pathlib import Path

from toolbox.plugin import Component, hookimpl

COMPONENTS = (
    ("model", "DualEncoder", "dual_encoder:DualEncoder", "towers of images and of texts that share a space"),
    ("head", "GatedMLP", "gated_mlp:GatedMLP", "layer norm, a gated layer, and a projection"),
    ("hook", "ChanceWatch", "chance_watch:ChanceWatch", "a warning where the loss stays at its chance level"),
    ("metric", "Recall", "image_text_recall:ImageTextRecall", "exact Recall@K of texts by images and images by texts"),
    ("metric", "Probe", "probe:AlignmentProbe", "recall of images mapped to texts by ridge regression, no training"),
    ("metric", "ZeroShot", "zero_shot:ZeroShot", "classification by the names of classes alone"),
)
"""Of each component its kind, name, where it is in this package, and its summary."""


@hookimpl
def toolbox_components():
    return [Component(kind, name, f"toolbox_alignment.{place}", summary) for kind, name, place, summary in COMPONENTS]


@hookimpl
def toolbox_foreign_keys():
    return [str(Path(__file__).with_name("foreign_keys.toml"))]
