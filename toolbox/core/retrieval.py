"""Exact retrieval metrics by cosine similarity: Recall@K, MAP@R, R-precision and the mean reciprocal rank."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from toolbox.base import Batch, Dataset, Metric, gather, world
from toolbox.errors import Problem

TIE = 2e-7
"""Cosines nearer than this, the rounding error of float32, count as equal."""

_ROWS = 1024
"""Most queries in one matrix product: more makes it no faster, only larger."""


class RetrievalRecall(Metric):
    """How well items of one class find each other, each item being a query against all others.

    - `ks`: the K of Recall@K; None for 1, 10, 100 and 1000, the protocol of Stanford Online Products.
    - `memory_mb`: cap on the working memory in MiB beyond the embeddings; changes speed, not results.
    - `lone`: what a query without any positive in the gallery does to Recall@K. "miss": it counts as a miss.
      "skip": it is left out. It is always left out of the other numbers.

    Reads `outputs["embeddings"]` (B, D), of any length; `batch["labels"]` (B,) and `batch["ids"]`, B ints or strings.
    A batch may carry `batch["roles"]`, B times "query" or "gallery": then queries are compared with the gallery only.
    An item is never found by itself, known by its id wherever it stands, and an id seen twice counts once.

    `compute` gives "recall@K" for each K, "map@r", "r_precision" and "mrr" (each 0 to 1; see `rank_metrics`),
    "queries", and "queries_without_positive". Every process gets the same numbers, for any number of processes.
    Raises ValueError for arguments that make no sense, and for batches without labels or ids.
    """

    def __init__(self, ks: list[int] | None = None, memory_mb: int = 512, lone: Literal["miss", "skip"] = "miss"):
        self.ks = [1, 10, 100, 1000] if ks is None else list(ks)
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks must be different numbers from 1 up, not {self.ks}: try ks=[1,10]")
        if memory_mb < 1:
            raise ValueError(f"memory_mb must be at least 1, not {memory_mb}: try 512")
        if lone not in ("miss", "skip"):
            raise ValueError(f"lone must be 'miss' or 'skip', not {lone!r}")
        self.memory_mb, self.lone = memory_mb, lone
        self.reset()

    def reset(self) -> None:
        self._embeddings: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._ids: list[int | str] = []
        self._roles: list[str] = []

    def check(self, dataset: Dataset) -> list[Problem]:
        if dataset.labels is None:
            message = "Recall@K needs labels, and this dataset has none."
            return [Problem(message, hint="Use a labelled dataset, or another metric.")]
        largest = len(dataset) - 1
        if len(set(map(int, dataset.labels))) > largest:
            message = "No two items of this dataset share a class, so no query has anything to find."
            return [Problem(message, hint="Use a dataset with several items in a class.")]
        fitting = [k for k in self.ks if k <= largest] or [largest]
        if fitting == self.ks:
            return []
        message = (
            f"Recall@{max(self.ks)} asks for more than the {largest} items that a query is compared with: "
            f"the largest K is {largest}."
        )
        return [Problem(message, "ks", f"use ks=[{','.join(map(str, fitting))}]")]

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        labels, ids, roles = batch.get("labels"), batch.get("ids"), batch.get("roles")
        if "embeddings" not in outputs:
            raise ValueError(f"Recall@K reads the model's 'embeddings', and this model gives {sorted(outputs)}")
        if labels is None or ids is None:
            raise ValueError("Recall@K needs labels and ids, and this batch lacks them: use a labelled dataset")
        embeddings = outputs["embeddings"].detach().float()
        if not len(embeddings) == len(labels) == len(ids) == len(ids if roles is None else roles):
            raise ValueError(
                f"one label, id and role belong to each embedding, but there are {len(embeddings)} embeddings, "
                f"{len(labels)} labels and {len(ids)} ids" + ("" if roles is None else f" and {len(roles)} roles")
            )
        if unknown := set(roles or ()) - {"query", "gallery"}:
            raise ValueError(f"roles are 'query' or 'gallery', not {sorted(unknown)}")
        self._embeddings.append(embeddings)
        self._labels.append(labels.to(embeddings.device))
        self._ids += ids
        self._roles += ["both"] * len(ids) if roles is None else roles

    def compute(self) -> dict[str, float]:
        embeddings, labels, ids, roles = self._gathered()
        if len(set(roles)) > 1 and "both" in roles:
            raise ValueError("some batches have roles and some have none: give roles for every item, or for none")
        # the same items in the same order, whichever process saw them and whatever was padded
        unique = {
            (role, type(name).__name__, name): row for row, (role, name) in enumerate(zip(roles, ids, strict=True))
        }
        order = [unique[key] for key in sorted(unique)]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(ids))}
        ids = torch.tensor([numbers[name] for name in ids], device=embeddings.device)

        def select(left_out: str) -> tuple[Tensor, Tensor, Tensor]:
            rows = torch.tensor([row for row in order if roles[row] != left_out], device=embeddings.device).long()
            return embeddings[rows], labels[rows], ids[rows]

        gallery = select("query")
        queries = gallery if "both" in roles else select("gallery")
        if not len(gallery[0]) or not len(queries[0]):
            raise ValueError(
                f"Recall@K needs queries and a gallery, and saw {len(queries[0])} and {len(gallery[0])} items"
            )
        rank, size = world()
        found = rank_queries(
            queries[0][rank::size], gallery[0], query_labels=queries[1][rank::size], gallery_labels=gallery[1],
            query_ids=queries[2][rank::size], gallery_ids=gallery[2], memory_mb=self.memory_mb,
        )  # fmt: skip
        if size > 1:
            shares = torch.cat([torch.arange(r, len(queries[0]), size) for r in range(size)])
            place = shares.argsort().to(embeddings.device)
            found = {name: gather(values)[place] for name, values in found.items()}
        return summarize(found, self.ks, lone=self.lone)

    def _gathered(self) -> tuple[Tensor, Tensor, list[int | str], list[str]]:
        """Everything that all processes saw, in rank order; one of them may have seen nothing."""
        ids, roles, size = self._ids, self._roles, world()[1]
        width, device = 0, "cpu"
        if self._embeddings:
            self._embeddings, self._labels = [torch.cat(self._embeddings)], [torch.cat(self._labels)]
            width, device = self._embeddings[0].shape[1], self._embeddings[0].device.type
        if size > 1:
            parts: list = [None] * size
            dist.all_gather_object(parts, (ids, roles, width, device))
            ids, roles = ([row for part in parts for row in part[i]] for i in (0, 1))
            _, _, width, device = max(parts, key=lambda part: part[2])
        if not ids:
            raise ValueError("Recall@K saw no item at all")
        embeddings = self._embeddings[0] if self._embeddings else torch.empty(0, width, device=device)
        labels = self._labels[0] if self._labels else torch.empty(0, dtype=torch.long, device=device)
        return gather(embeddings), gather(labels.long()), ids, roles


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
