"""Exact ranks of texts for images and of images for texts, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolbox.base import gather, get_dist_info
from toolbox.utils.ranking import TIE, check_finite, full_precision

_PAIRS = 16384
"""Matching pairs whose cosines are computed at a time."""


@dataclass(frozen=True)
class PairRanking:
    """Ranks, from 1 for the best, and mean cosines.

    - `texts`: (I,) the rank of the first matching text of each image; `images`: (T,) of the first image of each text.
    - `matching`: the mean cosine of pairs that match; `other`: of all others, None where there are none.
    """

    texts: Tensor
    images: Tensor
    matching: float
    other: float | None


def rank_pairs(
    images: Tensor, texts: Tensor, image_of: Tensor, text_of: Tensor, *, memory_mb: int = 256
) -> PairRanking:
    """Rank all texts for each image, and all images for each text, by cosine.

    - `images`: (I, D), `texts`: (T, D), rows of length 1.
    - `image_of`, `text_of`: (P,) the matching pairs, by image; every image and every text has one or more.
    - `memory_mb`: cap in MiB on the working memory beyond the embeddings.

    A rank is 1 + the number of those that do not match and are as similar as the best that does, or more so: a tie,
    within the rounding of float32, counts against the query, so a model that maps everything to one point finds
    nothing. With several processes each compares a part of the images, and all get the whole result. Raises ValueError
    where embeddings hold NaN or infinity.
    """
    check_finite(images, "image")
    check_finite(texts, "text")
    with full_precision():
        cosines = torch.cat(
            [
                (images[one] * texts[other]).sum(dim=1)
                for one, other in zip(image_of.split(_PAIRS), text_of.split(_PAIRS), strict=True)
            ]
        )
        least_texts = _find_best(cosines, image_of, len(images)) - TIE
        least_images = _find_best(cosines, text_of, len(texts)) - TIE
        text_ranks, image_ranks = _count_above(
            images, texts, image_of, text_of, least_texts, least_images, memory_mb=memory_mb
        )
        matching = _add(cosines)
        others = len(images) * len(texts) - len(cosines)
        everything = _add(_sum_rows(images) * _sum_rows(texts))
    return PairRanking(
        text_ranks,
        image_ranks,
        matching / len(cosines),
        (everything - matching) / others if others else None,
    )


def _count_above(
    images: Tensor,
    texts: Tensor,
    image_of: Tensor,
    text_of: Tensor,
    least_texts: Tensor,
    least_images: Tensor,
    *,
    memory_mb: int,
) -> tuple[Tensor, Tensor]:
    """Ranks of texts (I,) and of images (T,): 1 + the number of others that reach the least cosine, (I,) and (T,)."""
    rank, size = get_dist_info()
    begin, end = len(images) * rank // size, len(images) * (rank + 1) // size
    rows = max(1, min(256, end - begin, memory_mb * 2**20 // (8 * len(texts))))
    buffer, reached = (torch.empty(rows, len(texts), device=images.device) for _ in range(2))
    bounds = torch.searchsorted(image_of, torch.arange(begin, end + 1, device=image_of.device)).tolist()
    text_ranks = torch.ones(end - begin, device=images.device)
    image_ranks = torch.zeros(len(texts), device=images.device)
    for start in range(begin, end, rows):
        block = slice(start, min(start + rows, end))
        count = block.stop - block.start
        similar = torch.mm(images[block], texts.T, out=buffer[:count])
        own = slice(bounds[block.start - begin], bounds[block.stop - begin])
        similar[image_of[own] - start, text_of[own]] = -torch.inf
        # sums of ones in float32, faster than of truth values, and exact up to 2**24
        over_texts = torch.ge(similar, least_texts[block, None], out=reached[:count]).sum(dim=1)
        text_ranks[block.start - begin : block.stop - begin] += over_texts
        image_ranks += torch.ge(similar, least_images, out=reached[:count]).sum(dim=0)
    return gather(text_ranks.long()), 1 + gather(image_ranks.long()[None]).sum(dim=0)


def _find_best(cosines: Tensor, of: Tensor, count: int) -> Tensor:
    """(count,) the largest cosine of those pairs that are of each."""
    return torch.full((count,), -torch.inf, device=cosines.device).scatter_reduce(0, of, cosines, "amax")


def _sum_rows(rows: Tensor) -> Tensor:
    """(D,) float64 on the CPU: not every accelerator has that."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64)
    for part in rows.split(4096):
        total += part.cpu().double().sum(dim=0)
    return total


def _add(values: Tensor) -> float:
    return float(values.cpu().double().sum())
