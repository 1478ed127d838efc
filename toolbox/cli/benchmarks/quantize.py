"""The promise of nested nf4: a ViT-B's weights in at most 0.30 of their bytes in bf16, and what that costs in time."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch.nn.functional import cosine_similarity

from toolbox.base import Backbone
from toolbox.cli.benchmarks.recall import seconds
from toolbox.registry import build

PROMISE = 0.30
WAYS = {
    "nf4_nested": {"bits": 4, "nested": True}, "nf4": {"bits": 4}, "fp4": {"bits": 4, "kind": "fp4"},
    "int8": {"bits": 8},
}  # fmt: skip


def run(*, pairs: int = 7, net: str = "vitb16", images: int = 4) -> dict[str, Any]:
    """A DINOv3 ViT with random weights at 224 px, fp32, on the CPU.

    - `net`: its name; `images`: noise, in one batch; `pairs`: how often each way is timed in turn with plain weights.

    Returns, for each way, "bytes_ratio" (the whole backbone's bytes / those of all its numbers in bf16), "cosine" and
    "cosine_least" (of the CLS token against plain weights) and "ratio_median" (plain seconds / quantised seconds).
    """
    pixels = torch.randn(images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    plain = _backbone(net)
    halves = 2 * sum(parameter.numel() for parameter in plain.parameters())
    found: dict[str, Any] = {"name": "quantize", "promise": PROMISE, "bytes_in_bf16": halves}
    with torch.no_grad():
        before = plain(pixels).tokens[:, 0]
        for way, arguments in WAYS.items():
            small = _backbone(net)
            build(arguments, "quantize").apply(small)
            cosines = cosine_similarity(before, small(pixels).tokens[:, 0])
            timed = [(seconds(lambda: plain(pixels)), seconds(lambda one=small: one(pixels))) for _ in range(pairs)]
            found |= {
                f"{way}_bytes_ratio": sum(t.nbytes for t in (*small.parameters(), *small.buffers())) / halves,
                f"{way}_cosine": float(cosines.mean()), f"{way}_cosine_least": float(cosines.min()),
                f"{way}_ratio_median": statistics.median(theirs / ours for theirs, ours in timed),
            }  # fmt: skip
    return found


def _backbone(name: str) -> Backbone:
    torch.manual_seed(0)
    return build({"type": "dinov3.ViT", "name": name, "weights": False}, "backbone").eval()
