"""The promise of exact retrieval metrics: hardly more time than their matrix products, bounded memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.timing import compare_with_products
from toolbox.utils.ranking import chunk_rows, rank_metrics

PROMISE = 1.6
ITEMS_PER_CLASS = 5
"""About the class size of Stanford Online Products."""


def run(*, pairs: int = 7, n: int = 12000, dim: int = 768) -> dict[str, Any]:
    """Time Recall@1..1000, MAP@R, R-precision and the mean reciprocal rank against their matrix products alone.

    - `pairs`: how many interleaved measurements of each.
    - `n`: items, each a query against all others; `dim`: their width.

    Returns what `compare_with_products` does.
    """
    embeddings, labels = make_items(n, dim)
    ids = torch.arange(n)

    def whole() -> dict[str, float]:
        return rank_metrics(
            embeddings, embeddings, query_labels=labels, gallery_labels=labels, query_ids=ids, gallery_ids=ids
        )

    def products() -> None:
        """Compute all similarities in the same chunks, and use them for nothing."""
        rows = chunk_rows(len(embeddings), ITEMS_PER_CLASS, ITEMS_PER_CLASS - 1, memory_mb=512)
        buffer = torch.empty(rows, len(embeddings))
        for part in embeddings.split(rows):
            torch.mm(part, embeddings.T, out=buffer[: len(part)])

    return {
        "name": "recall",
        **compare_with_products(products, whole, pairs),
        "promise": PROMISE,
        "promise_bytes": 10**9,
        "n": n,
        "dim": dim,
    }


def make_items(n: int, dim: int) -> tuple[Tensor, Tensor]:
    """Embeddings (n, dim) scattered about one center a class, and their labels (n,), shuffled."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) // ITEMS_PER_CLASS
    labels = labels[torch.randperm(n, generator=generator)]
    centers = torch.randn(-(-n // ITEMS_PER_CLASS), dim, generator=generator)
    embeddings = torch.randn(n, dim, generator=generator).mul_(2.5)
    for part, part_labels in zip(embeddings.split(4096), labels.split(4096), strict=True):
        part += centers[part_labels]
    return embeddings, labels
