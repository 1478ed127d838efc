"""The promises of alignment: steps as fast as those of a hand-written loop, and epochs on stored features.

Two towers of random weights, frozen, a head on each: a DINOv3 ViT and a Qwen3 text encoder. The hand-written loop has
open_clip's loss, `pip install open_clip_torch`.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from toolbox_alignment.dual_encoder import DualEncoder
from torch import Tensor, nn

import toolbox
from benchmarks.engine import RepeatedBatchTrainer, StretchTrainer
from benchmarks.timing import measure_in_turn, measure_seconds, summarize_ratios
from toolbox.config import complete
from toolbox.engine.console import QuietConsole
from toolbox.engine.setup import set_up
from toolbox.errors import ToolboxError

PROMISE_SPEED, PROMISE_EPOCH = 0.95, 50.0
_SIDES = ("live", "stored")
_VIT = {"hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3, "intermediate_size": 768}
_QWEN3 = {
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 48,
    "intermediate_size": 576,
}
_LEARNING_RATE, _DECAY, _DIM = 1e-4, 0.05, 128


def run(
    *, pairs: int = 7, steps: int = 3, items: int = 64, batch: int = 32, size: int = 160, epochs: int = 20
) -> dict[str, Any]:
    """Time, in turn, `steps` steps of a hand-written loop and of the engine; then live epochs and stored ones.

    - `items`: pictures of letters with their names, `size` pixels a side; `batch`: items a batch.
    - `epochs`: on stored features, of which one is quoted.

    Both sides of the first comparison are given one batch again and again; the second reads and stores its data too.
    Returns the median ratios (speed of ours / by hand, epoch live / stored), the spread of by hand against itself, and
    the largest differences of losses, as a share of them.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recipes = {name: _make_recipe(folder, items, batch, size, is_stored=name == "stored") for name in _SIDES}
        differences = _compare_losses(recipes, folder)
        repeated = RepeatedBatchTrainer(set_up(recipes["live"], folder / "repeated", console=QuietConsole()))
        repeated.batch = next(repeated.setup.batches(0, 1))
        by_hand = _make_bare_loop(repeated)
        differences["by hand"] = _compare_first_loss(repeated)
        repeated.stretch(2)
        by_hand(2)
        measured = measure_in_turn(lambda: by_hand(steps), lambda: repeated.stretch(steps), pairs)
        epoch_seconds = _time_epochs(recipes, folder, pairs, epochs)
    return {
        "name": "alignment",
        **summarize_ratios(
            [(before + after) / (2 * ours) for before, ours, after in measured],
            [after / before for before, _, after in measured],
        ),
        "promise": PROMISE_SPEED,
        "step_ms": 1000 * statistics.median(before for before, _, _ in measured) / steps,
        "ratio_epoch_median": statistics.median(live / stored for live, stored in epoch_seconds),
        "ratios_epoch": [live / stored for live, stored in epoch_seconds],
        "promise_epoch": PROMISE_EPOCH,
        "stored_per_second": items / statistics.median(stored for _, stored in epoch_seconds),
        **{f"loss_difference_{name.replace(' ', '_')}": value for name, value in differences.items()},
    }


def _make_recipe(folder: Path, items: int, batch: int, size: int, *, is_stored: bool) -> dict[str, Any]:
    def make_tower(backbone: dict[str, Any], pool: str) -> dict[str, Any]:
        return {
            "backbone": backbone | {"name": None, "tune": {"mode": "frozen"}},
            "pool": pool,
            "head": {"type": "core.Projection", "dim": _DIM},
        }

    recipe = {
        "model": {
            "type": "alignment.DualEncoder",
            "vision": {"image": make_tower({"type": "dinov3.ViT", "arch": _VIT, "size": size}, "cls")},
            "text": {"text": make_tower({"type": "qwen3.Embedding", "arch": _QWEN3}, "last")},
            "loss": {"type": "losses.CLIP"},
            "positives": "items",
        },
        "train_dataloader": {
            "dataset": {
                "type": "core.FewItems",
                "dataset": {"type": "glyphs.Glyphs", "split": "train", "size": size},
                "count": items,
            },
            "batch_size": batch,
            "num_workers": 0,
            "augment": None,
        },
        "features": {"dtype": "fp32", "folder": str(folder / "features")} if is_stored else None,
        "optim_wrapper": {
            "optimizer": {"type": "core.AdamW", "lr": _LEARNING_RATE, "weight_decay": _DECAY},
            "clip_grad": {"max_norm": 1.0},
        },
        "param_scheduler": {"type": "core.Constant"},
        "train_cfg": {"max_steps": 10**6},
        "evaluate_before": False,
    }
    return complete(recipe)


def _make_bare_loop(engine: RepeatedBatchTrainer) -> Callable[[int], None]:
    """What one would write by hand: the same towers, loss, clipping, decay and kind of optimizer."""
    heads, scale = (
        [tower.head for tower in _get_model(engine).towers.values() if tower.head is not None],
        _get_scale(engine),
    )
    parameters = [parameter for head in heads for parameter in head.parameters()] + [scale]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": _DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=_LEARNING_RATE, fused=engine.setup.device.fused_optimizer)
    compute = _make_bare_loss(engine)

    def bare(steps: int) -> None:
        for _ in range(steps):
            compute().backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                scale.clamp_(0, math.log(100))

    return bare


def _get_model(engine: RepeatedBatchTrainer) -> DualEncoder:
    assert isinstance(engine.model, DualEncoder)
    return engine.model


def _get_scale(engine: RepeatedBatchTrainer) -> nn.Parameter:
    return next(value for name, value in engine.model.named_parameters() if name.endswith("log_scale"))


def _make_bare_loss(engine: RepeatedBatchTrainer) -> Callable[[], Tensor]:
    try:
        criterion = import_module("open_clip.loss").ClipLoss()
    except ModuleNotFoundError as error:
        hint = "pip install open_clip_torch"
        raise ToolboxError("The loop written by hand needs open_clip's loss.", hint=hint) from error
    towers, inputs, scale = _get_model(engine).towers, engine.batch.inputs, _get_scale(engine)
    conversions = {name: tower.backbone.preprocess() for name, tower in towers.items()}

    def compute() -> Tensor:
        rows = []
        for name, tower in towers.items():
            with torch.no_grad():
                pooled = tower.pool(tower.backbone(conversions[name].finish(inputs[name])))
            rows.append(nn.functional.normalize(tower.apply_head(pooled), dim=-1))
        return criterion(*rows, scale.exp())

    return compute


def _compare_first_loss(engine: RepeatedBatchTrainer) -> float:
    """How far the loss by hand is from the model's, as a share of it."""
    inputs = {name: part.finish(engine.batch.inputs[name]) for name, part in engine.model.preprocess().items()}
    with torch.no_grad():
        ours = float(engine.model.loss(type(engine.batch).example(inputs))["loss"])
        return abs(float(_make_bare_loss(engine)()) - ours) / ours


def _compare_losses(recipes: dict[str, dict[str, Any]], folder: Path) -> dict[str, float]:
    """How far the losses of the first steps on stored features are from live ones, as a share of them."""
    losses = {}
    for name, recipe in recipes.items():
        length = {"train_cfg": recipe["train_cfg"] | {"max_steps": 6}}
        hooks = {"default_hooks": recipe["default_hooks"] | {"logger": {"interval": 1}}}
        toolbox.train(recipe | length | hooks, out=folder / f"losses-{name}", console=QuietConsole())
        lines = map(json.loads, (folder / f"losses-{name}" / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line["loss"] for line in lines if "loss" in line]
    pairs = zip(losses["live"], losses["stored"], strict=True)
    return {"stored": max(abs(stored - live) / live for live, stored in pairs)}


def _time_epochs(
    recipes: dict[str, dict[str, Any]], folder: Path, pairs: int, epochs: int
) -> list[tuple[float, float]]:
    """Seconds of a live epoch and of a stored one, so many times."""
    live, stored = (
        StretchTrainer(set_up(recipes[name], folder / f"epochs-{name}", console=QuietConsole())) for name in _SIDES
    )
    steps = int(live.steps_per_epoch)
    for trainer in (live, stored):
        trainer.stretch(steps)
    return [
        (
            measure_seconds(lambda: live.stretch(steps)),
            measure_seconds(lambda: stored.stretch(steps * epochs)) / epochs,
        )
        for _ in range(pairs)
    ]
