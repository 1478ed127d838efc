"""The promise of the loader: at least 0.9 times the rate of reading and transforming alone, per core."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.timing import measure_seconds, summarize_ratios
from toolbox.engine.data.batch_builder import BatchBuilder, InputSpec
from toolbox.engine.data.batch_plan import TrainBatches
from toolbox.engine.data.loader import batches
from toolbox.registry import build

PROMISE = 0.9


def run(*, pairs: int = 7, items: int = 256, batch: int = 32, size: int = 224) -> dict[str, Any]:
    """Time one worker process against a plain loop over the same JPEG files of a photograph's size, in turn.

    - `items`: files read a measurement, 500 x 400 pixels each; `batch`: items a batch; `size`: of the crops.

    Returns the median ratio of rates (worker / plain loop) and the spread of plain loop against plain loop.
    """
    with tempfile.TemporaryDirectory() as folder:
        draw_photos(Path(folder), items)
        dataset = build({"type": "datasets.ImageFolder", "root": folder}, "dataset")
        augment = build({"type": "core.Augment"}, "augment")
        backbone = build({"type": "dinov3.ViT", "name": "vits16", "size": size, "weights": False}, "backbone")
        preprocess = backbone.preprocess()
        sampler = build({"type": "core.Shuffled", "batch_size": batch}, "sampler")
        sampler.setup(dataset, seed=0)
        fetch = BatchBuilder(dataset, {"image": InputSpec("image", preprocess)}, augment=augment)
        per_measurement = items // batch
        # one endless stream, so that starting the worker is not measured
        stream = iter(batches(fetch, TrainBatches(sampler, 0, 10**6), workers=1, prefetch=2))
        for _ in range(3):
            next(stream)

        def worker() -> None:
            for _ in range(per_measurement):
                next(stream)

        def plain() -> None:
            for index in range(items):
                preprocess(augment(dataset[index % len(dataset)]["image"], (size, size)))

        plain()
        measured = []
        for _ in range(pairs):
            before, ours = measure_seconds(plain), _measure_drained(stream, worker)
            measured.append((before, ours, measure_seconds(plain)))
    ratios = [(before + after) / 2 / ours for before, ours, after in measured]
    return {
        "name": "loader",
        **summarize_ratios(ratios, [before / after for before, _, after in measured]),
        "promise": PROMISE,
        "items_per_second": items / statistics.median(ours for _, ours, _ in measured),
    }


def _measure_drained(stream: Any, worker: Any) -> float:
    """Time a stretch of the worker after what it had prepared meanwhile is used up."""
    for _ in range(4):
        next(stream)
    seconds = measure_seconds(worker)
    time.sleep(seconds / 2)  # until the worker has filled its queue and rests
    return seconds


def draw_photos(folder: Path, count: int) -> None:
    """Write smooth random images in four folders of classes, about as hard to decode as photographs."""
    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8))
        path = folder / f"class{index % 4}" / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse.resize((500, 400), Image.Resampling.BICUBIC).save(path, quality=90)
