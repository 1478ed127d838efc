"""What the settings of the retrieval demo gain: from the published baseline's to the demo's, and what others lose."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from toolbox import api
from toolbox.engine.console import QuietConsole

RECIPE = Path(__file__).parents[1] / "configs" / "demo" / "dinov3_sop.py"
HELD_OUT = 1 / 3
"""Share of the training letters to evaluate on: more than 200 classes, as a dozen rank settings wrongly."""

BASELINE = {
    "train_dataloader.sampler": {"type": "retrieval.Pairs", "batch_size": 64},
    "train_dataloader.augment": None,
    "model.cross_view": True,
    "model.loss": {"type": "losses.InfoNCE", "temperature": 0.05},
    "optim_wrapper.optimizer.lr": 1e-3,
}
"""Pairs in plain shuffled order, InfoNCE over them, no augmentation, features without a head."""

SWITCHES: dict[str, dict[str, Any]] = {
    "class-balanced batches": {"train_dataloader.sampler": ..., "model.cross_view": ...},
    "augmentation": {"train_dataloader.augment": ...},
    "the demo": {"model.loss": ..., "optim_wrapper.optimizer.lr": ...},
}
"""Each switch changes these keys and leaves those of the switches before it; `...` is the value in the recipe."""

HEAD = {"type": "core.Projection", "dim": 128}
SUPCON = {"type": "losses.SupCon", "temperature": 0.1}
PLAIN_LOOP = "SupCon and a head, a plain loop"
CHANGES: dict[str, dict[str, Any]] = {
    "head of 128": {"model.head": HEAD},
    "head of 128 for the loss only": {"model.head": HEAD, "model.retrieve": "features"},
    PLAIN_LOOP: {"model.head": HEAD, "model.loss": SUPCON},
    "no augmentation": {"train_dataloader.augment": None},
    "color jitter of 0.4": {"train_dataloader.augment.color": 0.4},
    "half the rate": {"optim_wrapper.optimizer.lr": 1e-3},
    "averaged weights": {"optim_wrapper.average": {"decay": 0.98}},
    "the layer scale of a pretrained net": {"model.backbone.arch.layer_scale_init_value": 1e-6},
}
"""Changes of the demo that were tried and left out."""


def run(*, steps: int = 900, seeds: int = 3, letters: str = "held-out") -> dict[str, Any]:
    """Recall@1 of the last step of every setting and seed, `steps` steps of 128 images each.

    - `letters`: what is evaluated, "held-out" a third of the training letters, which are then not trained on; "test"
      the test letters, by which nothing should be chosen.

    Returns for each setting the mean, the spread over seeds and the seconds of training, and "gain", the demo minus
    the baseline, with "gain_lowest", its smallest value over all pairs of seeds.
    """
    if letters not in ("held-out", "test"):
        raise ValueError(f"letters must be 'held-out' or 'test', not {letters!r}")
    settings = {"baseline": dict(BASELINE)}
    options = dict(BASELINE)
    for name, changes in SWITCHES.items():
        options = {key: value for key, value in (options | changes).items() if value is not ...}
        settings["+ " + name] = options
    demo = list(settings)[-1]
    settings |= {f"demo, but {name}": changes for name, changes in CHANGES.items()}
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in settings}
    for seed in range(seeds):
        for name, changes in settings.items():
            runs[name].append(train_once(changes, steps, seed, held_out=letters == "held-out"))
    first, last = ([recall for recall, _ in runs[name]] for name in ("baseline", demo))
    return {
        "name": "ablation",
        "steps": steps,
        "seeds": seeds,
        "letters": letters,
        **{name: _summarize(runs_of_setting) for name, runs_of_setting in runs.items()},
        "gain": statistics.mean(last) - statistics.mean(first),
        "gain_lowest": min(last) - max(first),
    }


def _summarize(runs: list[tuple[float, float]]) -> str:
    mean = statistics.mean(recall for recall, _ in runs)
    seconds = statistics.mean(seconds for _, seconds in runs)
    return f"{mean:.4f}  ({min(runs)[0]:.4f} to {max(runs)[0]:.4f}), {seconds:.0f} s"


def train_once(changes: dict[str, Any], steps: int, seed: int, *, held_out: bool) -> tuple[float, float]:
    """(Recall@1, seconds of training) of the demo with some keys changed.

    - `held_out`: evaluate on a third of the training letters, and not on the test letters.
    """
    fixed: dict[str, Any] = {
        "train_cfg.max_steps": steps,
        "randomness.seed": seed,
        "evaluate_before": False,
        "evaluate_pixels": False,
        "evaluate_features": False,
        "val_dataloader": None,
        "val_evaluator": None,
    }
    if held_out:
        fixed |= {
            "train_dataloader.dataset.val_share": HELD_OUT,
            "test_dataloader.dataset.split": "val",
            "test_dataloader.dataset.val_share": HELD_OUT,
        }
    with tempfile.TemporaryDirectory() as folder:
        config = api.load_config(RECIPE, {**fixed, **changes})
        results = api.train(config, out=Path(folder) / "run", console=QuietConsole())
    return results["after"]["recall@1"], results["seconds"]
