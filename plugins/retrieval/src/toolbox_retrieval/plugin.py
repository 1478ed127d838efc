"""The plugin `retrieval`: embedding models, class-balanced and pair samplers, retrieval metrics, mining."""

from pathlib import Path

from toolbox.plugin import Command, Component, hookimpl

COMPONENTS = (
    ("model", "Embedder", "embedder", "backbone, pool and head trained by a loss"),
    ("sampler", "PK", "pk", "batches of P classes with K images each"),
    ("sampler", "GroupPK", "group_pk", "P x K out of few super-classes, for harder negatives"),
    ("sampler", "Pairs", "pairs", "every image beside another one of its class"),
    ("metric", "Recall", "recall", "exact Recall@K by cosine"),
    ("metric", "LateInteractionRecall", "late_interaction", "exact Recall@K of token sets"),
)
"""Of each component its kind, name, module and summary."""


@hookimpl
def toolbox_components():
    return [
        Component(kind, name, f"toolbox_retrieval.{module}:{name}", summary)
        for kind, name, module, summary in COMPONENTS
    ]


@hookimpl
def toolbox_commands():
    target = "toolbox_retrieval.commands.mine_negatives:main"
    return [Command("mine_negatives", target, "write the most similar items of other classes, to train with")]


@hookimpl
def toolbox_foreign_keys():
    return [str(Path(__file__).with_name("foreign_keys.toml"))]
