"""The plugin `losses`: metric-learning losses over a batch of embeddings."""

from toolbox.plugin import Component, hookimpl

LOSSES = (
    ("SupCon", "supcon", "supervised contrastive: all positives of an anchor in one softmax"),
    ("InfoNCE", "infonce", "cross-entropy of each positive pair against its negatives (CLIP, NT-Xent)"),
    ("Triplet", "triplet", "margin between positives and negatives; all, hard or semi-hard triplets"),
    (
        "MultiSimilarity",
        "multi_similarity",
        "pulls far positives and pushes near negatives the most; with or without mining",
    ),
    ("Circle", "circle", "pairs weighted by how far each is from its optimum"),
    ("RecallAtK", "recall_at_k", "a smooth Recall@k, for large batches"),
    ("ProxyAnchor", "proxy_anchor", "a learned proxy for each class, compared with the whole batch"),
    ("ArcFace", "arcface", "classification by angle to learned class centres, with a margin"),
    ("SubCenterArcFace", "arcface", "ArcFace with several centres for each class, for noisy labels"),
    ("CrossEntropy", "cross_entropy", "classification by logits, with label smoothing and soft labels"),
    ("CoSENT", "cosent", "every positive pair more similar than every negative one, in one logarithm for the batch"),
    ("CLIP", "clip", "each pair found among the others of the batch, in both directions, with a learned scale"),
    ("SigLIP", "siglip", "each pair classified by a sigmoid with a learned scale and bias"),
    ("MaxSim", "maxsim", "late interaction of token sets (ColBERT)"),
    ("Distillation", "distillation", "a teacher's similarities or embeddings"),
    ("Sum", "sum", "several losses at once, weighted"),
    ("Matryoshka", "matryoshka", "a loss over the first components too, for embeddings that can be cut"),
    ("CrossBatchMemory", "memory", "a pair loss with the embeddings of past batches as further candidates"),
)
"""Of each loss its name, module and summary."""


@hookimpl
def toolbox_components():
    return [Component("loss", name, f"toolbox_losses.{module}:{name}", summary) for name, module, summary in LOSSES]
