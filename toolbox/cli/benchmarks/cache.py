"""The promises of stored features: an epoch on them costs next to nothing, and making them one plain pass."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from toolbox.cli.benchmarks.loader import draw_pictures
from toolbox.config import complete
from toolbox.engine.console import Silent
from toolbox.engine.loop import Run
from toolbox.engine.reading.batches import batches, ready
from toolbox.engine.reading.draws import Draws
from toolbox.engine.reading.fetch import Fetch, inputs_of
from toolbox.engine.storing.shelf import Shelf
from toolbox.registry import build

PROMISE_EPOCH, PROMISE_EXTRACTION = 100.0, 1.10


def run(*, pairs: int = 7, items: int = 128, batch: int = 32, size: int = 224, epochs: int = 20) -> dict[str, Any]:
    """Time, in turn, a plain pass over pictures, their extraction, an epoch with the frozen backbone and one without.

    - `items`: JPEG files of 500 x 400 pixels; `batch`: items a batch; `size`: what the ViT-S/16 reads.
    - `epochs`: on stored features, of which one is quoted.

    The plain pass is written by hand: the same loader, model and batches, and nothing is kept. Returns the median
    ratios (epoch live / stored; extraction / plain pass) and the spread of plain pass against plain pass.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        draw_pictures(folder / "pictures", items)
        live = _Stretch(_recipe(folder, batch, size, stored=False), folder / "live", console=Silent())
        stored = _Stretch(_recipe(folder, batch, size, stored=True), folder / "stored", console=Silent())
        steps, plain = int(live.steps_per_epoch), _plain_pass(live, batch)
        plain()
        stored.stretch(steps)
        measured = []
        for _ in range(pairs):
            before = _seconds(plain)
            extraction = _seconds(lambda: _extraction(live, folder / "features"))
            after = _seconds(plain)
            epoch = _seconds(lambda: live.stretch(steps))
            measured.append(
                (before, extraction, after, epoch, _seconds(lambda: stored.stretch(steps * epochs)) / epochs)
            )
    found = {
        "epoch": [epoch / fast for *_, epoch, fast in measured],
        "extraction": [2 * ours / (before + after) for before, ours, after, *_ in measured],
    }
    again = [after / before for before, _, after, *_ in measured]
    return {
        "name": "cache", "ratio_epoch_median": statistics.median(found["epoch"]), "ratios_epoch": found["epoch"],
        "ratio_extraction_median": statistics.median(found["extraction"]), "ratios_extraction": found["extraction"],
        "spread": [min(again), max(again)], "promise_epoch": PROMISE_EPOCH, "promise_extraction": PROMISE_EXTRACTION,
        "images_per_second": items / statistics.median(before for before, *_ in measured),
        "stored_per_second": items / statistics.median(fast for *_, fast in measured),
    }  # fmt: skip


class _Stretch(Run):
    """A run that goes on, a stretch of steps at a time."""

    def stretch(self, steps: int) -> None:
        self.steps = self.step + steps
        self._train()

    def save(self) -> Path:
        return self.work_dir


def _recipe(folder: Path, batch: int, size: int, *, stored: bool) -> dict[str, Any]:
    return complete(
        {
            "model": {
                "type": "retrieval.Embedder", "head": {"type": "core.Projection", "dim": 128},
                "backbone": {
                    "type": "dinov3.ViT", "name": "vits16", "size": size, "weights": False, "tune": {"mode": "frozen"},
                },
                "loss": {"type": "losses.SupCon"},
            },
            "train_dataloader": {
                "dataset": {"type": "datasets.ImageFolder", "root": str(folder / "pictures")}, "batch_size": batch,
                "num_workers": 1,
            },
            "features": {"dtype": "fp16", "folder": str(folder / "store")} if stored else None,
            "optim_wrapper": {"optimizer": {"type": "core.AdamW", "lr": 1e-4}},
            "train_cfg": {"max_steps": 10**6},
        }
    )  # fmt: skip


def _plain_pass(engine: Run, batch: int) -> Callable[[], None]:
    """What one would write by hand."""
    model, sampler = engine.model, build({"type": "core.Sequential", "batch_size": batch}, "sampler")
    sampler.setup(engine.dataset, 0)
    inputs = inputs_of(model)

    def plain() -> None:
        kept = []
        with torch.no_grad():
            for got in batches(Fetch(engine.dataset, inputs), Draws(sampler, 0, len(sampler)), workers=1):
                pixels = ready(got, inputs, engine.torch_device).inputs["image"]
                kept.append(model.pool(model.backbone(pixels)).cpu())

    return plain


def _extraction(engine: Run, folder: Path) -> None:
    """All of it: the key, the shards, their checksums, the manifest, and opening the store."""
    shutil.rmtree(folder, ignore_errors=True)
    recipe = engine.config | {"features": {"dtype": "fp16", "views": None, "folder": str(folder)}}
    shelf = Shelf(recipe, engine.model, engine.device, engine.precision, console=Silent())
    shelf.add("train", engine.dataset, recipe["train_dataloader"], training=True)


def _seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start
