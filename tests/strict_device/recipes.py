"""What runs on the device "strict": overrides of the toy recipe, and the settings of losses and metrics."""

from __future__ import annotations

from typing import Any

ARCH = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, patch_size=8)
VIT = dict(type="dinov3.ViT", name=None, arch=ARCH, size=16)
TOY = dict(type="toy.Patches", dropout=0.0)
NOISE = dict(type="toy.Noise", count=32, per_class=4)
QUICK: dict[str, Any] = {
    "model.backbone": TOY,
    "train_dataloader.dataset": NOISE,
    "val_dataloader.dataset": NOISE,
    "train_cfg": dict(max_steps=2, val_interval=1),
    "evaluate_before": False,
}
RECALL = dict(type="retrieval.Recall", ks=[1, 2])
SUPCON = dict(type="losses.SupCon")
OTHER = dict(dataset=NOISE | {"seed": 5}, batch_size=16, num_workers=0)
TEST = {"test_dataloader": dict(dataset=NOISE, batch_size=16, num_workers=0), "test_evaluator": [RECALL]}

EMBEDDER_LOSSES: dict[str, dict[str, Any]] = {
    "SupCon": SUPCON,
    "InfoNCE": dict(type="losses.InfoNCE"),
    "Triplet": dict(type="losses.Triplet"),
    "Triplet hard": dict(type="losses.Triplet", miner="hard"),
    "Triplet semihard": dict(type="losses.Triplet", miner="semi"),
    "MultiSimilarity": dict(type="losses.MultiSimilarity"),
    "Circle": dict(type="losses.Circle"),
    "CoSENT": dict(type="losses.CoSENT"),
    "SigLIP": dict(type="losses.SigLIP"),
    "RecallAtK": dict(type="losses.RecallAtK"),
    "ProxyAnchor": dict(type="losses.ProxyAnchor"),
    "ArcFace": dict(type="losses.ArcFace"),
    "SubCenterArcFace": dict(type="losses.SubCenterArcFace"),
    "Sum": dict(type="losses.Sum", losses=[SUPCON, dict(type="losses.RecallAtK")]),
    "Matryoshka": dict(type="losses.Matryoshka", loss=SUPCON, dims=[8, 4]),
    "CrossBatchMemory": dict(type="losses.CrossBatchMemory", loss=SUPCON, size=20, warmup=1),
}
NO_EVALUATION = {"val_dataloader": None, "val_evaluator": None}


def classifier(**more: Any) -> dict[str, Any]:
    model = dict(
        type="classification.Classifier",
        backbone=TOY | {"tune": dict(mode="full")},
        pool="mean",
        head=more.pop("head", dict(type="classification.Linear")),
        loss=more.pop("loss", dict(type="losses.CrossEntropy", label_smoothing=0.1)),
    )
    evaluator = [dict(type="classification.Accuracy", intervals=20), dict(type="classification.CalibrationError")]
    return {"model": model, "val_evaluator": evaluator, **more}


def probes(**more: Any) -> dict[str, Any]:
    frozen = VIT | {"tune": dict(mode="frozen")}
    return {
        "model": dict(type="classification.Probe", backbone=frozen, rates=[0.1, 1.0], repeats=more.pop("repeats", 1)),
        "val_evaluator": [
            dict(type="classification.ProbeAccuracy", choose=True),
            dict(type="classification.KNN", ks=[1, 3]),
            dict(type="classification.LogisticRegression", cs=[1.0, 10.0], max_iter=50),
        ],
        "optim_wrapper": dict(optimizer=dict(type="core.SGD", lr=1.0)),
        "custom_hooks": [dict(type="classification.CompareProbes")],
        **more,
    }


def mixed(**options: Any) -> dict[str, Any]:
    return classifier() | {"train_dataloader.mix": dict(type="core.Mix", **options)}


RECIPES: dict[str, dict[str, Any]] = {
    "mix": mixed(),
    "mixup, MLP": classifier(head=dict(type="classification.MLP"))
    | {"train_dataloader.mix": dict(type="core.Mix", cutmix=0.0)},
    "cutmix": mixed(mixup=0.0),
    "classifier with everything before": classifier(
        evaluate_before=True,
        test_dataloader=TEST["test_dataloader"],
        test_evaluator=[
            dict(type="classification.Accuracy"),
            dict(type="classification.KNN", ks=[1, 3]),
            dict(type="classification.LogisticRegression", cs=[1.0, 10.0], max_iter=50),
        ],
    ),
    "probes": probes(),
    "probes repeated": probes(
        repeats=2,
        **{"train_dataloader.sampler": dict(type="core.Shuffled", batch_size=8, repeats=2)},
        test_dataloader=OTHER,
        test_evaluator=[dict(type="classification.ProbeAccuracy")],
    ),
    "retrieval with everything before": {
        **TEST,
        "evaluate_before": True,
        "evaluate_pixels": True,
        "test_evaluator": [
            dict(
                type="retrieval.Recall",
                ks=[1, 2],
                dims=[4],
                intervals=20,
                whiten=4,
                alpha_qe=[2, 3.0],
                rerank=[4, 2, 0.3],
            ),
        ],
    },
    "late interaction": {
        "model.pool": "tokens",
        "model.head": dict(type="core.Projection", dim=8),
        "model.loss": dict(type="losses.MaxSim"),
        "val_evaluator": [dict(type="retrieval.LateInteractionRecall", ks=[1])],
    },
    "lora": {"model.backbone": VIT | {"tune": dict(mode="lora", rank=2)}, "val_evaluator": [RECALL]},
    "last": {"model.backbone": VIT | {"tune": dict(mode="last")}},
    "checkpointing": {"model.backbone": VIT | {"gradient_checkpointing": True}, "model.loss": SUPCON},
    "grad cache": {"model.loss": SUPCON, "optim_wrapper.grad_cache.chunk_size": 3},
    "accumulation": {"optim_wrapper.accumulative_counts": 2},
    "averages": {"optim_wrapper.average": dict(decay=0.5, start=0.0)},
    "layer decay": {"model.backbone": VIT, "optim_wrapper.layer_decay": 0.5},
    "no clipping": {"optim_wrapper.clip_grad": None},
    "skipped updates": {
        "model.loss": dict(type="toy.Pull", explode_at=2),
        "optim_wrapper.on_nonfinite": "skip",
        "train_cfg": dict(max_steps=4, val_interval=2),
    },
    "bn neck": {"model.head": dict(type="core.BNNeck", dim=8), "model.loss": SUPCON},
    "batch norm": {"model.head": dict(type="core.Projection", dim=8, norm="batch"), "model.loss": SUPCON},
    "gem": {"model.pool": "gem"},
    "cls+mean": {"model.backbone": VIT, "model.pool": "cls+mean"},
    "distillation": {
        "model.teacher": VIT,
        "model.loss": dict(type="losses.Distillation"),
    },
    "cross view": {
        "train_dataloader.sampler": dict(type="retrieval.Pairs", batch_size=8),
        "model.cross_view": True,
        "model.loss": dict(type="losses.InfoNCE"),
    },
    "views": {"train_dataloader.augment": dict(type="core.Augment", views=2), "model.loss": SUPCON},
    "shuffled": {"train_dataloader.sampler": dict(type="core.Shuffled", batch_size=8)},
    "early stop": {
        "custom_hooks": [dict(type="core.EarlyStop", metric="nearest", patience=1)],
        "train_cfg": dict(max_steps=6, val_interval=1),
    },
    "tensorboard": {"custom_hooks": [dict(type="core.TensorBoard")]},
    "data workers": {"train_dataloader.num_workers": 2, "val_dataloader.num_workers": 1},
    "convnext": {
        "model.backbone": dict(
            type="dinov3.ConvNeXt", name=None, size=32, arch=dict(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])
        ),
    },
    "timm": {
        "model.backbone": dict(
            type="encoders.Timm",
            name="vit_tiny_patch16_224",
            size=32,
            weights=False,
            arch=dict(depth=2, embed_dim=24, num_heads=2),
        ),
    },
}

METRICS: dict[str, dict[str, Any]] = {
    "recall": dict(
        type="retrieval.Recall", ks=[1, 2], dims=[4], intervals=20, whiten=4, alpha_qe=[2, 3.0], rerank=[4, 2, 0.3]
    ),
    "whitened by the gallery": dict(type="retrieval.Recall", ks=[1], whiten=4, whiten_from="gallery"),
    "expanded gallery": dict(type="retrieval.Recall", ks=[1], alpha_qe=[2, 3.0], expand_gallery=True),
    "late": dict(type="retrieval.LateInteractionRecall", ks=[1]),
    "accuracy": dict(type="classification.Accuracy", intervals=20),
    "calibration": dict(type="classification.CalibrationError"),
    "knn": dict(type="classification.KNN", ks=[1, 3]),
    "logistic": dict(type="classification.LogisticRegression", cs=[1.0, 10.0], max_iter=50),
    "probe": dict(type="classification.ProbeAccuracy", choose=True),
}

SLOW = (
    "chosen",
    "lora",
    "mixup, MLP",
    "cutmix",
    "probes repeated",
    "last",
    "checkpointing",
    "layer decay",
    "no clipping",
    "batch norm",
    "views",
    "shuffled",
    "tensorboard",
    "data workers",
    "convnext",
    "timm",
    "cls+mean",
    "cross view",
    "fp16",
    "all losses",
    "used more",
    "accumulation",
    "dual encoder of several towers",
    "fused dual encoder in chunks",
    "stored dual encoder",
)
"""The cases that only `make test-slow` runs."""
