"""The plugin `losses`: metric-learning losses over a batch of embeddings."""

from toolbox.plugin import Component, hookimpl


@hookimpl
def toolbox_components():
    return [
        Component(
            "loss",
            "SupCon",
            "toolbox_losses.supcon:SupCon",
            "supervised contrastive: all positives of an anchor in one softmax",
        ),
        Component(
            "loss",
            "InfoNCE",
            "toolbox_losses.infonce:InfoNCE",
            "cross-entropy of each positive pair against its negatives (CLIP, NT-Xent)",
        ),
        Component(
            "loss",
            "Triplet",
            "toolbox_losses.triplet:Triplet",
            "margin between positives and negatives; all, hard or semi-hard triplets",
        ),
        Component(
            "loss",
            "MultiSimilarity",
            "toolbox_losses.multi_similarity:MultiSimilarity",
            "pulls far positives and pushes near negatives the most; with or without pair mining",
        ),
        Component(
            "loss",
            "Circle",
            "toolbox_losses.circle:Circle",
            "pairs weighted by how far each is from its optimum",
        ),
        Component(
            "loss",
            "RecallAtK",
            "toolbox_losses.recall_at_k:RecallAtK",
            "a smooth Recall@k, for large batches",
        ),
        Component(
            "loss",
            "ProxyAnchor",
            "toolbox_losses.proxy_anchor:ProxyAnchor",
            "a learned proxy for each class, compared with the whole batch",
        ),
        Component(
            "loss",
            "ArcFace",
            "toolbox_losses.arcface:ArcFace",
            "classification by angle to learned class centres, with a margin",
        ),
        Component(
            "loss",
            "SubCenterArcFace",
            "toolbox_losses.arcface:SubCenterArcFace",
            "ArcFace with several centres for each class, for noisy labels",
        ),
        Component(
            "loss",
            "CrossEntropy",
            "toolbox_losses.cross_entropy:CrossEntropy",
            "classification by logits, with label smoothing and soft labels",
        ),
        Component(
            "loss",
            "CoSENT",
            "toolbox_losses.cosent:CoSENT",
            "every positive pair more similar than every negative one, in one logarithm for the batch",
        ),
        Component(
            "loss",
            "SigLIP",
            "toolbox_losses.siglip:SigLIP",
            "each pair classified by a sigmoid with a learned scale and bias",
        ),
        Component(
            "loss",
            "MaxSim",
            "toolbox_losses.maxsim:MaxSim",
            "late interaction of token sets (ColBERT)",
        ),
        Component(
            "loss",
            "Distillation",
            "toolbox_losses.distillation:Distillation",
            "a teacher's similarities or embeddings",
        ),
        Component(
            "loss",
            "Sum",
            "toolbox_losses.sum:Sum",
            "several losses at once, weighted",
        ),
        Component(
            "loss",
            "Matryoshka",
            "toolbox_losses.matryoshka:Matryoshka",
            "a loss over the first components too, for embeddings that can be cut",
        ),
        Component(
            "loss",
            "CrossBatchMemory",
            "toolbox_losses.memory:CrossBatchMemory",
            "a pair loss with the embeddings of past batches as further candidates",
        ),
    ]
