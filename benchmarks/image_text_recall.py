"""The promise of recall between images and texts: hardly more time than its matrix product, bounded memory."""

from __future__ import annotations

from typing import Any

import torch
from toolbox_alignment.pair_ranking import PairRanking, rank_pairs
from torch import Tensor

from benchmarks.timing import compare_with_products

PROMISE = 1.6
_ROWS = 256
"""Images in one matrix product, as in the ranking."""


def run(*, pairs: int = 7, images: int = 5000, captions: int = 5, dim: int = 512) -> dict[str, Any]:
    """Time the ranks of all texts for each image and of all images for each text against their matrix product alone.

    - `pairs`: how many interleaved measurements of each.
    - `images`: how many; `captions`: texts of each, all different; `dim`: width of the embeddings.

    Returns what `compare_with_products` does.
    """
    image_rows, text_rows = make_pairs(images, captions, dim)
    image_of = torch.arange(images).repeat_interleave(captions)
    text_of = torch.arange(images * captions)

    def whole() -> PairRanking:
        return rank_pairs(image_rows, text_rows, image_of, text_of)

    def products() -> None:
        """Compute all similarities in the same blocks, and use them for nothing."""
        buffer = torch.empty(_ROWS, len(text_rows))
        for part in image_rows.split(_ROWS):
            torch.mm(part, text_rows.T, out=buffer[: len(part)])

    return {
        "name": "image_text_recall",
        **compare_with_products(products, whole, pairs),
        "promise": PROMISE,
        "promise_bytes": 10**9,
        "images": images,
        "texts": len(text_rows),
        "dim": dim,
    }


def make_pairs(images: int, captions: int, dim: int) -> tuple[Tensor, Tensor]:
    """Rows of length 1: (images, dim), and (images * captions, dim) scattered about them."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(images, dim, generator=generator)
    texts = rows.repeat_interleave(captions, dim=0) + 3 * torch.randn(images * captions, dim, generator=generator)
    return torch.nn.functional.normalize(rows), torch.nn.functional.normalize(texts)
