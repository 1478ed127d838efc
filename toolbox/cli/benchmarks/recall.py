"""The promise of exact retrieval metrics: hardly more time than their matrix products, bounded memory."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolbox.utils.ranking import chunk_rows, rank_metrics

PROMISE = 1.6
ITEMS_PER_CLASS = 5
"""About the class size of Stanford Online Products."""


def run(*, pairs: int = 7, n: int = 12000, dim: int = 768) -> dict[str, Any]:
    """Time Recall@1..1000, MAP@R, R-precision and the mean reciprocal rank against their matrix products alone.

    - `pairs`: how many interleaved measurements of each.
    - `n`: items, each a query against all others; `dim`: their width.

    Returns "ratio_median" over the `ratios` of whole / products, the `spread` (products measured again / products:
    lowest and highest), the seconds of both, and "peak_extra_bytes" beyond the embeddings (None where the system
    does not tell).
    """
    embeddings, labels = items(n, dim)
    numbers = torch.arange(n)

    def whole() -> dict[str, float]:
        return rank_metrics(
            embeddings, embeddings, query_labels=labels, gallery_labels=labels, query_ids=numbers, gallery_ids=numbers
        )

    def products() -> None:
        matrix_products(embeddings)

    peak = peak_extra_bytes(whole)
    products()
    measured = [(seconds(products), seconds(whole), seconds(products)) for _ in range(pairs)]
    ratios = [both / alone for alone, both, _ in measured]
    again = [second / first for first, _, second in measured]
    return {
        "name": "recall",
        "ratio_median": statistics.median(ratios),
        "ratios": ratios,
        "spread": [min(again), max(again)],
        "promise": PROMISE,
        "seconds": statistics.median(both for _, both, _ in measured),
        "seconds_products": statistics.median(alone for alone, _, _ in measured),
        "peak_extra_bytes": peak,
        "promise_bytes": 10**9,
        "n": n,
        "dim": dim,
    }


def items(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """Embeddings (n, dim) scattered about one center a class, and their labels (n,), shuffled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) // ITEMS_PER_CLASS
    labels = labels[torch.randperm(n, generator=generator)]
    centers = torch.randn(-(-n // ITEMS_PER_CLASS), dim, generator=generator)
    embeddings = torch.randn(n, dim, generator=generator).mul_(2.5)
    for part, own in zip(embeddings.split(4096), labels.split(4096), strict=True):
        part += centers[own]
    return embeddings, labels


def matrix_products(embeddings: Tensor) -> None:
    """All similarities in the same chunks, and nothing done with them."""
    rows = chunk_rows(len(embeddings), ITEMS_PER_CLASS, ITEMS_PER_CLASS - 1, memory_mb=512)
    buffer = torch.empty(rows, len(embeddings))
    for part in embeddings.split(rows):
        torch.mm(part, embeddings.T, out=buffer[: len(part)])


def seconds(function: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def peak_extra_bytes(function: Callable[[], object]) -> int | None:
    """How far one call raises the resident memory of this process, looked at every 2 ms."""
    before, done = resident_bytes(), threading.Event()
    if before is None:
        return None
    peak = [before]

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], resident_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        function()
    finally:
        done.set()
        watcher.join()
    return peak[0] - before


def resident_bytes() -> int | None:
    """Resident memory of this process, None on systems without /proc."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    import resource

    return pages * resource.getpagesize()
