"""The promise of the engine: a step costs hardly more than a hand-written torch loop on the same model and batch."""

from __future__ import annotations

import itertools
import statistics
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn

from benchmarks.timing import measure_in_turn, summarize_ratios
from toolbox.base import Batch
from toolbox.config import complete
from toolbox.engine.console import QuietConsole
from toolbox.engine.setup import set_up
from toolbox.engine.trainer import Trainer
from toolbox.utils.tower_model import TowerModel

PROMISES = {"vits16": 1.03, "demo": 1.10}
_DEMO_ARCHITECTURE = {"hidden_sizes": [32, 64, 128, 192], "depths": [1, 1, 2, 1], "layer_scale_init_value": 1.0}
_MODELS = {
    "vits16": ({"type": "dinov3.ViT", "name": "vits16", "weights": False}, 224, 8),
    "demo": ({"type": "dinov3.ConvNeXt", "name": None, "size": 32, "arch": _DEMO_ARCHITECTURE}, 32, 128),
}
"""Name -> backbone, pixels a side, images a batch."""


def run(*, pairs: int = 7, steps: int = 8, model: str = "vits16") -> dict[str, Any]:
    """Time stretches of `steps` steps of the engine and of a bare loop in turn, on one and the same model.

    - `model`: "vits16" (224 px, batch 8) or "demo" (the demo's ConvNeXt, 32 px, batch 128).

    The engine's side includes hooks, schedules, clipping, counting and logging, and no data loading, evaluation or
    checkpoint; the bare side does the same arithmetic. Returns the median ratio and the spread of bare against bare.
    """
    with tempfile.TemporaryDirectory() as folder:
        engine = RepeatedBatchTrainer(set_up(_make_recipe(model), Path(folder) / "run", console=QuietConsole()))
        engine.batch = _make_batch(*_MODELS[model][1:])
        bare = _make_bare_loop(engine)
        engine.stretch(2)
        bare(2)
        measured = measure_in_turn(lambda: bare(steps), lambda: engine.stretch(steps), pairs)
    ratios = [2 * ours / (before + after) for before, ours, after in measured]
    return {
        "name": "engine",
        "model": model,
        **summarize_ratios(ratios, [after / before for before, _, after in measured]),
        "promise": PROMISES[model],
        "step_ms": 1000 * statistics.median(before for before, _, _ in measured) / steps,
    }


class StretchTrainer(Trainer):
    """A run that goes on a stretch of steps at a time, and saves nothing."""

    def stretch(self, steps: int) -> None:
        """Train so many steps more."""
        self.steps = self.step + steps
        self.train()

    def save(self) -> Path:
        return self.work_dir


class RepeatedBatchTrainer(StretchTrainer):
    """A run that is fed one batch again and again."""

    batch: Batch

    def stretch(self, steps: int) -> None:
        def repeat(first: int, last: int) -> Generator[Batch, None, None]:
            yield from itertools.repeat(self.batch, last - first)

        with mock.patch.object(self.setup, "batches", side_effect=repeat):
            super().stretch(steps)


def _make_recipe(model: str) -> dict[str, Any]:
    embedder = {
        "type": "retrieval.Embedder",
        "backbone": _MODELS[model][0],
        "head": {"type": "core.Projection", "dim": 128},
        "loss": {"type": "losses.SupCon"},
    }
    recipe = {
        "model": embedder,
        "train_dataloader": {
            "dataset": {"type": "glyphs.Glyphs", "split": "train"},
            "sampler": {"type": "retrieval.PK", "classes": 4, "per_class": 2},
        },
        "optim_wrapper": {"optimizer": {"type": "core.AdamW", "lr": 1e-4}, "clip_grad": {"max_norm": 1.0}},
        "param_scheduler": {"type": "core.WarmupCosine", "warmup": 0},
        "train_cfg": {"max_steps": 10**6},
    }
    return complete(recipe)


def _make_batch(size: int, items: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (items, 3, size, size), generator=generator, dtype=torch.uint8)
    return Batch.example({"image": images}, labels=torch.arange(items) // 4)


def _make_bare_loop(engine: RepeatedBatchTrainer) -> Callable[[int], None]:
    """What one would write by hand: the same model, loss, clipping and kind of optimizer."""
    model, labels = engine.model, engine.batch.labels
    assert isinstance(model, TowerModel)
    head, criterion = model.head, model.criterion
    assert head is not None
    assert criterion is not None
    assert labels is not None
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.05, fused=engine.setup.device.fused_optimizer)
    images, labels = engine.batch.inputs["image"], labels.to(engine.setup.torch_device)
    preprocess = model.backbone.preprocess()

    def bare(steps: int) -> None:
        for _ in range(steps):
            pixels = preprocess.finish(images.to(engine.setup.torch_device))
            criterion(head(model.pool(model.backbone(pixels))), labels).backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return bare
