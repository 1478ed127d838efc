"""The plugin `losses`: metric-learning losses over a batch of embeddings."""

from toolbox.plugin import Component, hookimpl


@hookimpl
def toolbox_components():
    return [
        Component(
            "loss", "SupCon", "toolbox_losses.supcon:SupCon",
            "supervised contrastive: all positives of an anchor in one softmax",
        ),
        Component(
            "loss", "InfoNCE", "toolbox_losses.infonce:InfoNCE",
            "cross-entropy of each positive pair against its negatives (CLIP, NT-Xent)",
        ),
        Component(
            "loss", "Triplet", "toolbox_losses.triplet:Triplet",
            "margin between positives and negatives; all, hard or semi-hard triplets",
        ),
    ]  # fmt: skip
