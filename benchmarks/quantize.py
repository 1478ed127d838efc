"""The promise of nested nf4: a ViT-B's weights in at most 0.30 of their bytes in bf16, and what that costs in time."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from benchmarks.timing import measure_seconds
from toolbox.base import Backbone
from toolbox.registry import build

PROMISE = 0.30
FORMATS = {
    "nf4_nested": {"bits": 4, "nested": True},
    "nf4": {"bits": 4},
    "fp4": {"bits": 4, "kind": "fp4"},
    "int8": {"bits": 8},
}


def run(*, pairs: int = 7, net: str = "vitb16", images: int = 4) -> dict[str, Any]:
    """A DINOv3 ViT with random weights at 224 px, fp32, on the CPU.

    - `net`: its name; `images`: noise, in one batch; `pairs`: measurements of each format, in turn with plain weights.

    Returns, for each format, "bytes_ratio" (the whole backbone's bytes / those of all its numbers in bf16), "cosine"
    and "cosine_least" (of the CLS token against plain weights) and "ratio_median" (plain seconds / quantised seconds).
    """
    pixels = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    plain = _build_backbone(net)
    bytes_in_bf16 = 2 * sum(parameter.numel() for parameter in plain.parameters())
    measurements: dict[str, Any] = {"name": "quantize", "promise": PROMISE, "bytes_in_bf16": bytes_in_bf16}
    with torch.no_grad():
        before = plain(pixels).tokens[:, 0]
        for name, arguments in FORMATS.items():
            quantized = _build_backbone(net)
            build(arguments, "quantize").apply(quantized)
            compute = partial(quantized, pixels)
            cosines = cosine_similarity(before, quantized(pixels).tokens[:, 0])
            nbytes = sum(tensor.nbytes for tensor in (*quantized.parameters(), *quantized.buffers()))
            ratios = [measure_seconds(lambda: plain(pixels)) / measure_seconds(compute) for _ in range(pairs)]
            measurements |= {
                f"{name}_bytes_ratio": nbytes / bytes_in_bf16,
                f"{name}_cosine": float(cosines.mean()),
                f"{name}_cosine_least": float(cosines.min()),
                f"{name}_ratio_median": statistics.median(ratios),
            }
    return measurements


def _build_backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    return build({"type": "dinov3.ViT", "name": name, "weights": False}, "backbone").eval()
