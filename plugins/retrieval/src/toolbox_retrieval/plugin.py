"""Embedding models, what their batches hold, and what retrieval is worth."""

from pathlib import Path

from toolbox.plugin import Command, Component, hookimpl


@hookimpl
def toolbox_components():
    package = "toolbox_retrieval"
    return [
        Component("model", "Embedder", f"{package}.embedder:Embedder", "backbone, pool and head trained by a loss"),
        Component("sampler", "PK", f"{package}.pk:PK", "batches of P classes with K images each"),
        Component(
            "sampler", "GroupPK", f"{package}.group_pk:GroupPK", "P x K out of few super-classes, for harder negatives"
        ),
        Component("sampler", "Pairs", f"{package}.pairs:Pairs", "every image beside another one of its class"),
        Component("metric", "Recall", f"{package}.recall:Recall", "exact Recall@K by cosine"),
        Component(
            "metric",
            "LateInteractionRecall",
            f"{package}.late_interaction:LateInteractionRecall",
            "exact Recall@K of token sets",
        ),
    ]


@hookimpl
def toolbox_commands():
    target = "toolbox_retrieval.commands.mine_negatives:main"
    return [Command("mine_negatives", target, "write the most similar items of other classes, to train with")]


@hookimpl
def toolbox_foreign_keys():
    return [str(Path(__file__).with_name("foreign_keys.toml"))]
