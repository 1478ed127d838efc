"""The promises of stored features: an epoch on them costs next to nothing, and making them one plain pass."""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine import StretchTrainer
from benchmarks.loader import draw_photos
from benchmarks.timing import measure_seconds
from toolbox.config import complete
from toolbox.engine.console import QuietConsole
from toolbox.engine.data.batch_builder import BatchBuilder, input_specs
from toolbox.engine.data.batch_plan import TrainBatches
from toolbox.engine.data.loader import batches, ready
from toolbox.engine.feature_extraction.feature_cache import FeatureCache
from toolbox.engine.setup import set_up
from toolbox.engine.trainer import Trainer
from toolbox.registry import build

PROMISE_EPOCH, PROMISE_EXTRACTION = 100.0, 1.10


def run(*, pairs: int = 7, items: int = 128, batch: int = 32, size: int = 224, epochs: int = 20) -> dict[str, Any]:
    """Time, in turn, a plain pass over photos, their extraction, an epoch with the frozen backbone and one without.

    - `items`: JPEG files of 500 x 400 pixels; `batch`: items a batch; `size`: what the ViT-S/16 reads.
    - `epochs`: on stored features, of which one is quoted.

    The plain pass is written by hand: the same loader, model and batches, and nothing is kept. Returns the median
    ratios (epoch live / stored; extraction / plain pass) and the spread of plain pass against plain pass.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_photos(folder / "photos", items)
        live, stored = (
            StretchTrainer(
                set_up(_make_recipe(folder, batch, size, stored=is_stored), folder / name, console=QuietConsole())
            )
            for name, is_stored in (("live", False), ("stored", True))
        )
        steps, plain = int(live.steps_per_epoch), _make_plain_pass(live, batch)
        plain()
        stored.stretch(steps)
        measured = []
        for _ in range(pairs):
            before = measure_seconds(plain)
            extraction = measure_seconds(lambda: _extract(live, folder / "features"))
            after = measure_seconds(plain)
            live_epoch = measure_seconds(lambda: live.stretch(steps))
            stored_epoch = measure_seconds(lambda: stored.stretch(steps * epochs)) / epochs
            measured.append((before, extraction, after, live_epoch, stored_epoch))
    epoch_ratios = [live_epoch / stored_epoch for *_, live_epoch, stored_epoch in measured]
    extraction_ratios = [2 * ours / (before + after) for before, ours, after, *_ in measured]
    repeats = [after / before for before, _, after, *_ in measured]
    return {
        "name": "cache",
        "ratio_epoch_median": statistics.median(epoch_ratios),
        "ratios_epoch": epoch_ratios,
        "ratio_extraction_median": statistics.median(extraction_ratios),
        "ratios_extraction": extraction_ratios,
        "spread": [min(repeats), max(repeats)],
        "promise_epoch": PROMISE_EPOCH,
        "promise_extraction": PROMISE_EXTRACTION,
        "images_per_second": items / statistics.median(before for before, *_ in measured),
        "stored_per_second": items / statistics.median(stored_epoch for *_, stored_epoch in measured),
    }


def _make_recipe(folder: Path, batch: int, size: int, *, stored: bool) -> dict[str, Any]:
    backbone = {"type": "dinov3.ViT", "name": "vits16", "size": size, "weights": False, "tune": {"mode": "frozen"}}
    head = {"type": "core.Projection", "dim": 128}
    recipe = {
        "model": {"type": "retrieval.Embedder", "head": head, "backbone": backbone, "loss": {"type": "losses.SupCon"}},
        "train_dataloader": {
            "dataset": {"type": "datasets.ImageFolder", "root": str(folder / "photos")},
            "batch_size": batch,
            "num_workers": 1,
        },
        "features": {"dtype": "fp16", "folder": str(folder / "store")} if stored else None,
        "optim_wrapper": {"optimizer": {"type": "core.AdamW", "lr": 1e-4}},
        "train_cfg": {"max_steps": 10**6},
    }
    return complete(recipe)


def _make_plain_pass(engine: Trainer, batch: int) -> Callable[[], None]:
    """What one would write by hand."""
    [tower], sampler = (
        engine.model.pooled_backbones().values(),
        build({"type": "core.Sequential", "batch_size": batch}, "sampler"),
    )
    sampler.setup(engine.setup.dataset, 0)
    inputs = input_specs(engine.model)

    def plain() -> None:
        kept = []
        with torch.no_grad():
            for loaded in batches(
                BatchBuilder(engine.setup.dataset, inputs), TrainBatches(sampler, 0, len(sampler)), workers=1
            ):
                pixels = ready(loaded, inputs, engine.setup.torch_device).inputs["image"]
                kept.append(tower(pixels).cpu())

    return plain


def _extract(engine: Trainer, folder: Path) -> None:
    """All of it: the key, the shards, their checksums, the manifest, and opening the store."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe = engine.config | {"features": {"dtype": "fp16", "views": None, "folder": str(folder)}}
    feature_cache = FeatureCache(
        recipe, engine.model, engine.setup.device, engine.setup.precision, console=QuietConsole()
    )
    feature_cache.add("train", engine.setup.dataset, recipe["train_dataloader"], training=True)
