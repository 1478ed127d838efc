"""Exact ranking of a gallery for many queries, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

TIE = 2e-7
"""Cosines nearer than this, the rounding error of float32, count as equal."""

_ROWS = 1024
"""Most queries in one matrix product: more makes it no faster, only larger."""


def rank_metrics(
    queries: Tensor,
    gallery: Tensor,
    *,
    query_labels: Tensor,
    gallery_labels: Tensor,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
    ks: Sequence[int] = (1, 10, 100, 1000),
    lone: Literal["miss", "skip"] = "miss",
    memory_mb: int = 512,
) -> dict[str, float]:
    """Retrieval numbers of queries against a gallery; the arguments are those of `rank_queries` and `summarize`."""
    found = rank_queries(
        queries, gallery, query_labels=query_labels, gallery_labels=gallery_labels,
        query_ids=query_ids, gallery_ids=gallery_ids, memory_mb=memory_mb,
    )  # fmt: skip
    return summarize(found, ks, lone=lone)


def summarize(
    found: dict[str, Tensor], ks: Sequence[int], *, lone: Literal["miss", "skip"] = "miss"
) -> dict[str, float]:
    """The per-query numbers of `rank_queries` -> means over queries.

    - `ks`: Recall@K is the share of queries whose first positive has rank K or better.
    - `lone`: whether a query without positives is a "miss" in Recall@K or "skip"ped. All other means skip it.

    The reciprocal rank is 1 / the rank of the first positive. Without any positive all numbers are 0.
    """
    rank = found["rank"].cpu()
    answerable = rank > 0
    count = int(answerable.sum())
    asked = len(rank) if lone == "miss" else count
    numbers = {f"recall@{k}": int((answerable & (rank <= k)).sum()) / max(asked, 1) for k in ks}
    for name in ("map@r", "r_precision"):
        numbers[name] = found[name].cpu().double()[answerable].sum().item() / max(count, 1)
    numbers["mrr"] = (1 / rank[answerable].double()).sum().item() / max(count, 1)
    return numbers | {"queries": len(rank), "queries_without_positive": len(rank) - count}


def rank_queries(
    queries: Tensor,
    gallery: Tensor,
    *,
    query_labels: Tensor,
    gallery_labels: Tensor,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
    memory_mb: int = 512,
) -> dict[str, Tensor]:
    """Rank the gallery for each query by cosine similarity, exactly, without an N x N matrix.

    - `queries`: (Q, D), `gallery`: (G, D), of any length; may be the same tensor.
    - `query_labels`: (Q,), `gallery_labels`: (G,) integers; equal labels are positives.
    - `query_ids`: (Q,), `gallery_ids`: (G,) integers, unique in the gallery: the gallery item with the query's own
      id is left out. None when no query stands in the gallery.
    - `memory_mb`: cap in MiB on the working memory beyond the embeddings and one normalised copy of the gallery.

    Returns per query, R being its number of positives: "rank" of its first positive (1 is best; 0 when R is 0),
    "r_precision" = share of positives among the best R, "map@r" = 1/R * sum over positives p of rank <= R of
    (positives up to p) / rank of p (Musgrave et al., "A Metric Learning Reality Check", 2020).

    A negative as similar as a positive, within `TIE`, stands before it: a model that maps everything to one point
    finds nothing. Raises ValueError when embeddings hold NaN or infinity.
    """
    check_finite(gallery, "gallery")
    if queries is not gallery:
        check_finite(queries, "query")
    device = gallery.device
    # Each class is one run of columns, classes of a size side by side: a chunk's positives then need little padding.
    order, classes = _by_class(gallery_labels)
    start, count = _find_class(query_labels, *classes)
    own = _find_item(query_ids, gallery_ids, order, len(queries))
    positives = count - ((own >= start) & (own < start + count)).long()
    result = {
        "rank": torch.zeros(len(queries), dtype=torch.long, device=device),
        "map@r": torch.zeros(len(queries), device=device),
        "r_precision": torch.zeros(len(queries), device=device),
    }
    answerable = torch.nonzero(positives > 0)[:, 0]
    if not len(answerable):
        return result
    answerable = answerable[start[answerable].argsort(stable=True)]

    columns = -(-len(gallery) // 128) * 128
    table = torch.zeros(columns, gallery.shape[1], device=device)
    torch.index_select(gallery.float(), 0, order, out=table[: len(gallery)])
    normalize_rows(table)
    rows = chunk_rows(columns, int(count.max()), int(positives.max()), memory_mb)
    buffer = torch.empty(min(rows, len(answerable)), columns, device=device)
    with _full_precision():
        for chunk in answerable.split(rows):
            block = normalize_rows(queries[chunk].float())
            similar = torch.mm(block, table.T, out=buffer[: len(chunk)])
            similar[:, len(gallery) :] = -torch.inf
            scores = _take_positives(similar, start[chunk], count[chunk], own[chunk])
            result["rank"][chunk], result["map@r"][chunk], result["r_precision"][chunk] = _judge(
                similar, scores, positives[chunk]
            )
    return result


def check_finite(embeddings: Tensor, name: str) -> None:
    """Raise ValueError that tells how many rows hold NaN or infinity."""
    bad = sum(int((~part.isfinite().all(dim=1)).sum()) for part in embeddings.split(4096))
    if bad:
        raise ValueError(
            f"{bad} of {len(embeddings)} {name} embeddings hold NaN or infinity: training diverged, "
            "try a lower learning rate or precision='fp32'"
        )


def normalize_rows(x: Tensor) -> Tensor:
    """Divide each row by its length, in place; zero rows stay zero."""
    for part in x.split(4096):
        part.div_(torch.linalg.vector_norm(part, dim=1, keepdim=True).clamp_min_(torch.finfo(x.dtype).tiny))
    return x


def chunk_rows(columns: int, widest: int, most: int, memory_mb: int) -> int:
    """How many queries fit: `columns` similarities each, `widest` class, `most` positives of a query."""
    a_row = 4 * columns + 64 * widest + 32 * most + 16 * (columns * most) ** 0.5
    return max(1, min(_ROWS, int(memory_mb * 2**20 // a_row)))


def _by_class(labels: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The order that makes each class one run, small classes first; and each class's label, start and size."""
    names, index, sizes = torch.unique(labels, return_inverse=True, return_counts=True)
    by_size = sizes.argsort(stable=True)
    starts = torch.empty_like(sizes)
    starts[by_size] = sizes[by_size].cumsum(0) - sizes[by_size]
    return starts[index].argsort(stable=True), (names, starts, sizes)


def _find_class(labels: Tensor, names: Tensor, starts: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """For each label the first column and the number of columns of its class; 0 columns when it has none."""
    at = torch.searchsorted(names, labels.contiguous()).clamp(max=len(names) - 1)
    return starts[at], torch.where(names[at] == labels, sizes[at], 0)


def _find_item(query_ids: Tensor | None, gallery_ids: Tensor | None, order: Tensor, count: int) -> Tensor:
    """The column of each query's own item, -1 where the gallery does not hold it."""
    if query_ids is None or gallery_ids is None:
        return torch.full((count,), -1, device=order.device)
    names, columns = gallery_ids[order].sort()
    if (names[1:] == names[:-1]).any():
        raise ValueError("gallery_ids are not unique: leave repeated items out")
    at = torch.searchsorted(names, query_ids.contiguous()).clamp(max=len(names) - 1)
    return torch.where(names[at] == query_ids, columns[at], -1)


def _take_positives(similar: Tensor, start: Tensor, count: Tensor, own: Tensor) -> Tensor:
    """Each query's similarities to its positives, descending; `similar` keeps the negatives, the rest is -inf."""
    offset = torch.arange(int(count.max()), device=similar.device)
    columns = start[:, None] + torch.minimum(offset, count[:, None] - 1)
    scores = similar.gather(1, columns).masked_fill_((offset >= count[:, None]) | (columns == own[:, None]), -torch.inf)
    similar.scatter_(1, columns, -torch.inf)
    present = torch.nonzero(own >= 0)[:, 0]
    similar[present, own[present]] = -torch.inf
    return scores.sort(dim=1, descending=True).values


def _judge(similar: Tensor, scores: Tensor, positives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """First rank, MAP@R and R-precision from negatives and sorted positives. Overwrites `similar`."""
    most = int(positives.max())
    threshold = scores[:, :most] - TIE
    nearest = _largest(similar, most).flip(1).contiguous()
    before = most - torch.searchsorted(nearest, threshold)  # exact below `most`, which is all that can matter
    found = torch.arange(1, most + 1, device=scores.device)
    hit = (found + before <= positives[:, None]) & (found <= positives[:, None])
    precision = (hit * (found / (found + before))) / positives[:, None]
    # in float64, which not every accelerator has, the number of summands changes nothing
    precision = precision.cpu().sum(dim=1, dtype=torch.float64).float().to(scores.device)
    first = similar.ge_(threshold[:, :1]).sum(dim=1).long() + 1  # sums of ones: exact in float32 up to 2**24
    return first, precision, hit.sum(dim=1) / positives


def _largest(values: Tensor, count: int) -> Tensor:
    """Each row's `count` largest values, descending.

    Looks at the maxima of `parts`-element groups first: the largest values lie in the groups of the largest maxima.
    """
    rows, columns = values.shape
    parts = 64
    while parts > 1 and parts * parts * count > columns:
        parts //= 2
    if parts < 4:
        return values.topk(count, dim=1).values
    groups = values.view(rows, parts, columns // parts)
    best = groups.amax(dim=1).topk(count, dim=1, sorted=False).indices
    members = groups.gather(2, best[:, None].expand(rows, parts, count))
    return members.flatten(1).topk(count, dim=1).values


@contextmanager
def _full_precision() -> Iterator[None]:
    """Matrix products in true float32, also where a recipe allows TF32 or bfloat16 in training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
