"""Short runs whose logged numbers must not depend on the number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import toolbox
from toolbox.engine.checkpoint import checkpoint as checkpoints
from toolbox.engine.console import QuietConsole
from toolbox.engine.distributed.context import DistributedContext

RECIPE = Path(__file__).parent.parent / "toy_recipe.py"
CLASSIFIER = dict(
    type="classification.Classifier",
    pool="mean",
    backbone=dict(type="toy.Patches", dropout=0.0, tune=dict(mode="full")),
    loss=dict(type="losses.CrossEntropy", label_smoothing=0.1),
)
SIGLIP = dict(type="losses.SigLIP")
UNEVEN = {"train_dataloader.sampler": dict(type="core.Shuffled", batch_size=18, drop_last=False)}
SKIP = {"train_dataloader.on_bad_item": "skip", "train_dataloader.max_bad_share": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "SupCon": {"model.loss": dict(type="losses.SupCon")},
    "SigLIP": {"model.loss": SIGLIP},
    "Sum": {"model.loss": dict(type="losses.Sum", losses=[dict(type="losses.SupCon"), SIGLIP], weights=[1, 0.5])},
    "CrossEntropy": {"model": CLASSIFIER},
    "mixed": {"model": CLASSIFIER, "train_dataloader.mix": dict(type="core.Mix")},
    "own": {"model.type": "processes.OwnNumbers"},
    "accumulated": {"model.type": "processes.OwnNumbers", "optim_wrapper.accumulative_counts": 2, **UNEVEN},
    "chunks": {"model.loss": SIGLIP, "optim_wrapper.grad_cache.chunk_size": 2},
    "unreadable": {
        "model.type": "processes.OwnNumbers",
        **SKIP,
        "train_dataloader.dataset": dict(type="toy.Noise", bad=[3, 17, 18, 40]),
        "train_dataloader.sampler": dict(type="core.Shuffled", batch_size=32),
    },
    "left out": {
        "model.loss": dict(type="processes.Explodes"),
        "optim_wrapper.on_nonfinite": "skip",
        "model.type": "processes.OwnNumbers",
    },
}
MANY = ("accumulated", "mixed")  # what four processes look at too


def everything(distributed: DistributedContext, folder: Path) -> dict[str, list[dict[str, float]]]:
    """{case: the lines of metrics.jsonl}; the first process alone writes them."""
    found = {}
    for name, options in CASES.items():
        if distributed.world_size > 2 and name not in MANY:
            continue
        given = {
            "model.backbone.dropout": 0.0,
            "train_dataloader.sampler": dict(type="retrieval.PK", classes=3, per_class=3),
            "train_cfg": dict(max_steps=9),
            "default_hooks.logger.interval": 3,
            "val_dataloader": None,
            "val_evaluator": None,
            "test_dataloader": None,
            "test_evaluator": None,
            **options,
        }
        if "model" in options:
            del given["model.backbone.dropout"]
        target = folder / f"logged-{name}-{distributed.world_size}"
        toolbox.train(
            toolbox.load_config(RECIPE, given),
            out=target,
            console=QuietConsole(),
            distributed=distributed,
            device="cpu",
        )
        lines = [json.loads(line) for line in (target / "metrics.jsonl").read_text().splitlines()]
        found[name] = [line for line in lines if "lr" in line]
        found[f"{name} items"] = checkpoints.read(target / "last").state()["progress"]["items"]
    return found
