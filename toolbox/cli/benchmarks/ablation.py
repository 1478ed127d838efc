"""What each switch of the retrieval recipe gains on letters: from the published baseline's settings to the demo's."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from toolbox import api
from toolbox.engine.console import Silent

RECIPE = Path(__file__).parents[3] / "configs" / "demo" / "dinov3_sop.py"
BASELINE = {
    "train_dataloader.sampler": {"type": "core.Pairs", "batch_size": 64},
    "train_dataloader.augment": None,
    "model.cross_view": True,
    "model.head": None,
    "model.loss": {"type": "losses.InfoNCE", "temperature": 0.05},
    "optim_wrapper.average": None,
}
"""Pairs in plain shuffled order, InfoNCE over them, no augmentation, features without a head."""

SUPCON = {"type": "losses.SupCon", "temperature": 0.1}
SWITCHES: dict[str, dict[str, Any]] = {
    "class-balanced batches": {"train_dataloader.sampler": ..., "model.cross_view": ...},
    "supervised contrastive loss": {"model.loss": SUPCON},
    "projection head": {"model.head": ...},
    "augmentation": {"train_dataloader.augment": ...},
    "smooth recall in the loss": {"model.loss": ...},
    "averaged weights": {"optim_wrapper.average": ...},
}
"""Each switch changes these keys and leaves those of the switches before it; `...` is the value in the recipe."""


def run(*, steps: int = 900, seeds: int = 3) -> dict[str, Any]:
    """Train every stage with every seed, `steps` steps of 128 images each; Recall@1 of the last step on unseen letters.

    Returns for each stage the mean, the spread over seeds and the seconds of training, and "gain", last stage minus
    first, with "gain_lowest", its smallest value over all pairs of seeds.
    """
    stages = {"baseline": dict(BASELINE)}
    options = dict(BASELINE)
    for name, changes in SWITCHES.items():
        options = {key: value for key, value in (options | changes).items() if value is not ...}
        stages["+ " + name] = options
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in stages}
    for seed in range(seeds):
        for name, changes in stages.items():
            found[name].append(_train(changes, steps, seed))
    first, last = ([value for value, _ in found[name]] for name in (next(iter(stages)), list(stages)[-1]))
    return {
        "name": "ablation", "steps": steps, "seeds": seeds,
        **{
            name: f"{statistics.mean(v for v, _ in runs):.4f}  ({min(runs)[0]:.4f} to {max(runs)[0]:.4f}), "
            f"{statistics.mean(s for _, s in runs):.0f} s"
            for name, runs in found.items()
        },
        "gain": statistics.mean(last) - statistics.mean(first), "gain_lowest": min(last) - max(first),
    }  # fmt: skip


def _train(changes: dict[str, Any], steps: int, seed: int) -> tuple[float, float]:
    """(Recall@1 on the test letters, seconds of training)."""
    fixed = {
        "train_cfg.max_steps": steps, "randomness.seed": seed, "evaluate_before": False, "evaluate_pixels": False,
        "val_dataloader": None, "val_evaluator": None,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        config = api.load_config(RECIPE, {**fixed, **changes})
        results = api.train(config, work_dir=Path(folder) / "run", console=Silent())
    return results["after"]["recall@1"], results["seconds"]
