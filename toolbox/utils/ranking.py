"""Exact ranking of a gallery for many queries, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Lone = Literal["miss", "skip"]
"""What a query without any positive does to Recall@K."""

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
    lone: Lone = "skip",
    memory_mb: int = 512,
) -> dict[str, float]:
    """Retrieval numbers of queries against a gallery; the arguments are those of `rank_queries` and `summarize`."""
    ranks = rank_queries(
        queries,
        gallery,
        query_labels=query_labels,
        gallery_labels=gallery_labels,
        query_ids=query_ids,
        gallery_ids=gallery_ids,
        memory_mb=memory_mb,
    )
    return summarize(ranks, ks, lone=lone)


def summarize(ranks: dict[str, Tensor], ks: Sequence[int], *, lone: Lone = "skip") -> dict[str, float]:
    """The per-query numbers of `rank_queries` -> means over queries.

    - `ks`: Recall@K is the share of queries whose first positive has rank K or better.
    - `lone`: whether a query without positives is "skip"ped in Recall@K, or a "miss". All other means skip it.

    The reciprocal rank is 1 / the rank of the first positive. Without any positive all numbers are 0.
    """
    rank = ranks["rank"].cpu()
    answerable = rank > 0
    count = int(answerable.sum())
    asked = len(rank) if lone == "miss" else count
    numbers = {f"recall@{k}": int((answerable & (rank <= k)).sum()) / max(asked, 1) for k in ks}
    for name in ("map@r", "r_precision"):
        numbers[name] = ranks[name].cpu().double()[answerable].sum().item() / max(count, 1)
    numbers["mrr"] = (1 / rank[answerable].double()).sum().item() / max(count, 1)
    return numbers | {"queries": len(rank), "queries_without_positive": len(rank) - count}


@dataclass
class GalleryOrder:
    """Where the positives of each query stand when the gallery is ordered by class; made by `order_gallery`.

    - `order`: (G,) gallery rows, each class one run of columns, classes of a size side by side: a chunk's positives
      then need little padding.
    - `start`, `count`: (Q,) first column and size of the query's class.
    - `self_column`: (Q,) the column of the query's own item, or -1.
    - `positives`: (Q,) how many there are without itself; `answerable`: the queries that have any, by class.
    """

    order: Tensor
    start: Tensor
    count: Tensor
    self_column: Tensor
    positives: Tensor
    answerable: Tensor

    @property
    def columns(self) -> int:
        """The gallery's size, rounded up for `find_largest`."""
        return -(-len(self.order) // 128) * 128

    def rows(self, memory_mb: int, buffers: int = 1) -> int:
        """How many queries at a time keep within `memory_mb`, with `buffers` matrices of scores."""
        if not len(self.answerable):
            return 1
        return chunk_rows(buffers * self.columns, int(self.count.max()), int(self.positives.max()), memory_mb)


def order_gallery(
    query_labels: Tensor, gallery_labels: Tensor, query_ids: Tensor | None = None, gallery_ids: Tensor | None = None
) -> GalleryOrder:
    """The layout of a gallery for queries; the arguments are those of `rank_queries`."""
    order, classes = _group_by_class(gallery_labels)
    start, count = _find_class(query_labels, *classes)
    self_column = torch.full((len(query_labels),), -1, device=order.device)
    if query_ids is not None and gallery_ids is not None:
        self_column = find_items(query_ids, gallery_ids[order])
    positives = count - ((self_column >= start) & (self_column < start + count)).long()
    answerable = torch.nonzero(positives > 0)[:, 0]
    return GalleryOrder(order, start, count, self_column, positives, answerable[start[answerable].argsort(stable=True)])


def rank_queries(
    queries: Tensor,
    gallery: Tensor,
    *,
    query_labels: Tensor,
    gallery_labels: Tensor,
    query_ids: Tensor | None = None,
    gallery_ids: Tensor | None = None,
    memory_mb: int = 512,
    rescore: Callable[[Tensor, Tensor, Tensor], None] | None = None,
    tie: float = TIE,
) -> dict[str, Tensor]:
    """Rank the gallery for each query by cosine similarity, exactly, without an N x N matrix.

    - `queries`: (Q, D), `gallery`: (G, D), of any length; may be the same tensor.
    - `query_labels`: (Q,), `gallery_labels`: (G,) integers; equal labels are positives.
    - `query_ids`: (Q,), `gallery_ids`: (G,) integers, unique in the gallery: the gallery item with the query's own
      id is left out. None when no query stands in the gallery.
    - `memory_mb`: cap in MiB on the working memory beyond the embeddings and one normalised copy of the gallery.
    - `rescore`: called with (rows of `queries`, gallery row of each column, cosines (rows, columns)); turns these
      cosines into other scores in place. It may use twice as much memory again as the cosines take.
    - `tie`: scores nearer than this count as equal.

    Returns what `rank_scores` does. Raises ValueError when embeddings hold NaN or infinity.
    """
    check_finite(gallery, "gallery")
    if queries is not gallery:
        check_finite(queries, "query")
    layout = order_gallery(query_labels, gallery_labels, query_ids, gallery_ids)
    rows = layout.rows(memory_mb, buffers=1 if rescore is None else 3)
    table = torch.zeros(layout.columns if len(layout.answerable) else 0, gallery.shape[1], device=gallery.device)
    if len(table):
        torch.index_select(gallery.float(), 0, layout.order, out=table[: len(gallery)])
        normalize_rows(table)
    buffer = torch.empty(min(rows, len(layout.answerable)), len(table), device=gallery.device)

    def score(chunk: Tensor) -> Tensor:
        block = normalize_rows(queries[chunk].float())
        similar = torch.mm(block, table.T, out=buffer[: len(chunk)])
        if rescore is not None:
            rescore(chunk, layout.order, similar[:, : len(gallery)])
        return similar

    return rank_scores(layout, score, rows=rows, tie=tie)


def rank_scores(
    layout: GalleryOrder, score: Callable[[Tensor], Tensor], *, rows: int, tie: float = TIE
) -> dict[str, Tensor]:
    """Evaluate the ranking that scores give, `rows` queries at a time.

    - `score`: query rows -> their scores (rows, `layout.columns`) in the layout's order, overwritten afterwards.

    Returns per query, R being its number of positives: "rank" of its first positive (1 is best; 0 when R is 0),
    "r_precision" = share of positives among the best R, "map@r" = 1/R * sum over positives p of rank <= R of
    (positives up to p) / rank of p (Musgrave et al., "A Metric Learning Reality Check", 2020); and the scores of its
    nearest "positive" and "negative" (NaN when R is 0; -inf where no negative is) and "nearest_negative", the latter's
    gallery row (-1 where there is none).

    A negative as similar as a positive, within `tie`, stands before it: a model that maps everything to one point
    finds nothing.
    """
    device, size = layout.order.device, len(layout.self_column)
    result = {
        "rank": torch.zeros(size, dtype=torch.long, device=device),
        "map@r": torch.zeros(size, device=device),
        "r_precision": torch.zeros(size, device=device),
        "positive": torch.full((size,), torch.nan, device=device),
        "negative": torch.full((size,), torch.nan, device=device),
        "nearest_negative": torch.full((size,), -1, dtype=torch.long, device=device),
    }
    padded = torch.nn.functional.pad(layout.order, (0, layout.columns - len(layout.order)), value=-1)
    with full_precision():
        for chunk in layout.answerable.split(rows) if len(layout.answerable) else ():
            similar = score(chunk)
            similar[:, len(layout.order) :] = -torch.inf
            scores = _take_positives(similar, layout.start[chunk], layout.count[chunk], layout.self_column[chunk])
            comparisons = _compare_scores(similar, scores, layout.positives[chunk], tie)
            result["positive"][chunk] = scores[:, 0]
            for name, values in comparisons.items():
                result[name][chunk] = values
            none = comparisons["negative"] == -torch.inf
            result["nearest_negative"][chunk] = padded[comparisons["nearest_negative"]].masked_fill(none, -1)
    return result


def check_finite(embeddings: Tensor, name: str) -> None:
    """Raise ValueError that tells how many rows hold NaN or infinity."""
    if bad := sum(int((~part.isfinite().all(dim=1)).sum()) for part in embeddings.split(4096)):
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


def _group_by_class(labels: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
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


def find_items(query_ids: Tensor, gallery_ids: Tensor) -> Tensor:
    """(Q,): the gallery row of each query's own item, -1 where the gallery does not hold it.

    Raises ValueError when ids repeat in the gallery.
    """
    names, rows = gallery_ids.sort()
    if (names[1:] == names[:-1]).any():
        raise ValueError("gallery_ids are not unique: leave repeated items out")
    at = torch.searchsorted(names, query_ids.contiguous()).clamp(max=len(names) - 1)
    return torch.where(names[at] == query_ids, rows[at], -1)


def _take_positives(similar: Tensor, start: Tensor, count: Tensor, self_column: Tensor) -> Tensor:
    """Each query's similarities to its positives, descending; `similar` keeps the negatives, the rest is -inf."""
    offset = torch.arange(int(count.max()), device=similar.device)
    columns = start[:, None] + torch.minimum(offset, count[:, None] - 1)
    scores = similar.gather(1, columns).masked_fill_(
        (offset >= count[:, None]) | (columns == self_column[:, None]), -torch.inf
    )
    similar.scatter_(1, columns, -torch.inf)
    present = torch.nonzero(self_column >= 0)[:, 0]
    similar[present, self_column[present]] = -torch.inf
    return scores.sort(dim=1, descending=True).values


def _compare_scores(similar: Tensor, scores: Tensor, positives: Tensor, tie: float) -> dict[str, Tensor]:
    """Compare negatives with sorted positives, for `rank_scores`, with columns for rows. Overwrites `similar`."""
    most = int(positives.max())
    threshold = scores[:, :most] - tie
    best, columns = find_largest(similar, most)
    nearest = best.flip(1).contiguous()
    before = most - torch.searchsorted(nearest, threshold)  # exact below `most`, which is all that can matter
    rank = torch.arange(1, most + 1, device=scores.device)
    hit = (rank + before <= positives[:, None]) & (rank <= positives[:, None])
    precision = (hit * (rank / (rank + before))) / positives[:, None]
    # in float64, which not every accelerator has, the number of summands changes nothing
    precision = precision.cpu().sum(dim=1, dtype=torch.float64).float().to(scores.device)
    first = similar.ge_(threshold[:, :1]).sum(dim=1).long() + 1  # sums of ones: exact in float32 up to 2**24
    return {
        "rank": first,
        "map@r": precision,
        "r_precision": hit.sum(dim=1) / positives,
        "negative": best[:, 0],
        "nearest_negative": columns[:, 0],
    }


def find_largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Each row's `count` largest values, descending, and their columns.

    Looks at the maxima of `parts`-element groups first: the largest values lie in the groups of the largest maxima.
    """
    rows, columns = values.shape
    parts = 64
    while parts > 1 and (parts * parts * count > columns or columns % parts):
        parts //= 2
    if parts < 4:
        largest = values.topk(count, dim=1)
        return largest.values, largest.indices
    groups = values.view(rows, parts, columns // parts)
    best = groups.amax(dim=1).topk(count, dim=1, sorted=False).indices
    members = groups.gather(2, best[:, None].expand(rows, parts, count))
    top, places = members.flatten(1).topk(count, dim=1)
    return top, places // count * (columns // parts) + best.gather(1, places % count)


@contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products in true float32, also where a recipe allows TF32 or bfloat16 in training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
