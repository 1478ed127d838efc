"""The promises of GradCache: the memory of a chunk for a batch of any size, at 0.6 x the plain step's speed or more."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.timing import measure_in_turn, measure_peak_bytes, summarize_ratios
from toolbox.base import Batch, Model
from toolbox.engine.assemble import apply_tuning, build_structure
from toolbox.engine.device import choose_device
from toolbox.engine.grad_cache import GradCache
from toolbox.engine.memory import Peak
from toolbox.engine.precision import Precision

PROMISE, PROMISE_MEMORY = 0.6, 1.3


def run(*, pairs: int = 7, rows: int = 1024, chunk: int = 64, both: int = 64) -> dict[str, Any]:
    """ViT-S/16 at 224 px with random weights, a head of 128, supervised contrastive loss, on the CPU.

    - `rows`, `chunk`: of the batch whose memory is measured; 0 rows leave memory out.
    - `both`: rows of the batch whose time is measured, plain and in four chunks, `pairs` times in turn.

    Returns "ratio_median" (plain seconds / chunked seconds), and of the memory beyond parameters and the batch's own
    input "tensor_ratio" (bytes of tensors alive at once, in chunks / one plain chunk), "resident_ratio" (the same of
    the process's resident memory) and their bytes.
    """
    device = choose_device("cpu")
    model = _make_model()
    batch = make_image_batch(both)
    cached = GradCache(model, both // 4, Precision("fp32", device), device)

    def plain(rows: Batch = batch) -> None:
        model(rows, "loss")["loss"].backward()

    def chunked(rows: Batch = batch, cache: GradCache = cached) -> None:
        cache(rows, lambda loss: loss.backward())

    plain()
    chunked()
    measured = measure_in_turn(plain, chunked, pairs)
    ratios = [(before + after) / 2 / ours for before, ours, after in measured]
    measurements: dict[str, Any] = {
        "name": "grad_cache",
        **summarize_ratios(ratios, [after / before for before, _, after in measured]),
        "promise": PROMISE,
        "rows_timed": both,
    }
    if rows:
        large, small = make_image_batch(rows), make_image_batch(chunk)
        cache = GradCache(model, chunk, cached.precision, device)
        peaks = {}
        for name, action in (("chunk", lambda: plain(small)), ("batch", lambda: chunked(large, cache))):
            with Peak() as peak:
                for tensor in (*model.parameters(), *model.buffers()):
                    peak.leave_out(tensor)
                resident = measure_peak_bytes(action)
            peaks[name] = peak.peak, resident or 0
        measurements |= {
            "tensor_ratio": peaks["batch"][0] / peaks["chunk"][0],
            "promise_memory": PROMISE_MEMORY,
            "tensor_bytes": [peaks["batch"][0], peaks["chunk"][0]],
            "resident_ratio": peaks["batch"][1] / peaks["chunk"][1] if peaks["chunk"][1] else None,
            "rows": rows,
            "chunk": chunk,
        }
    return measurements


def _make_model() -> Model:
    torch.manual_seed(0)
    backbone = {"type": "dinov3.ViT", "name": "vits16", "weights": False}
    recipe = {"type": "retrieval.Embedder", "backbone": backbone, "head": {"type": "core.Projection", "dim": 128}}
    model = build_structure({"model": recipe | {"loss": {"type": "losses.SupCon"}}}, classes=2)
    apply_tuning(model)
    model.train()
    for parameter in model.parameters():  # gradients exist before anything is measured
        parameter.grad = torch.zeros_like(parameter)
    return model


def make_image_batch(rows: int, size: int = 224, device: str = "cpu") -> Batch:
    """A batch of noise in classes of four."""
    images = torch.randn(rows, 3, size, size, generator=torch.Generator().manual_seed(0))
    return Batch.example({"image": images.to(device)}, labels=(torch.arange(rows) // 4).to(device))
