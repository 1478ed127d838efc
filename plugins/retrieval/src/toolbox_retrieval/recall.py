"""Exact retrieval metrics by cosine similarity: Recall@K, MAP@R, R-precision and the mean reciprocal rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from toolbox.base import Batch, Dataset, Metric, ReportItem, gather, get_dist_info
from toolbox.plugin import Problem
from toolbox.utils.accumulators import EmbeddingAccumulator, Items
from toolbox.utils.neighbours import expand, unit_rows
from toolbox.utils.ranking import TIE, Lone, rank_queries, summarize
from toolbox_retrieval import k_reciprocal
from toolbox_retrieval.intervals import intervals as resampled
from toolbox_retrieval.queries import check_answerable, check_arguments, check_labels, fitting_ks, remarks
from toolbox_retrieval.report_items import describe
from toolbox_retrieval.whitening import Projected, Whitening

_MEANS = ("map@r", "r_precision", "mrr")


@dataclass
class _Variant:
    """Embeddings to rank: those of the queries and of the gallery, and how to change their cosines, if at all."""

    queries: Tensor
    gallery: Tensor
    rescore: Callable[[Tensor, Tensor, Tensor], None] | None = None
    tie: float = TIE


class Recall(Metric):
    """How well items of one class find each other, each item being a query against all others.

    - `ks`: the K of Recall@K; None for 1, 10, 100 and 1000, the protocol of Stanford Online Products.
    - `memory_mb`: cap on the working memory in MiB beyond the embeddings; changes speed, not results.
    - `lone`: what a query without any positive in the gallery (an explicit negative, a class of one item) does to
      Recall@K. "skip": it is left out, as of the other numbers. "miss": it counts as a miss. It is counted either way.
    - `dims`: widths at which the first dimensions of an embedding are judged alone (Matryoshka), e.g. [64,128].
    - `intervals`: how many times to resample for 95 % confidence intervals, e.g. 1000; 0 for none. Whole classes are
      drawn, as queries of a class depend on each other (toolbox_retrieval/intervals.py).
    - `by_group`: whether the report items hold a table by super-class, where the dataset has `groups`.
    - `whiten`: width of a whitening by principal components (whitening.py beside this file); None for none.
    - `whiten_from`: what it is learned from: "train" (None), the training set without augmentation, which is embedded
      for it; or "gallery", the very items that are judged, though not their labels.
    - `alpha_qe`: [k, alpha] of alpha query expansion (neighbours.py), e.g. [10,3]; None for none. A query
      is joined by the k items of the gallery nearest to it, never by itself, and meets the gallery as it is.
    - `expand_gallery`: whether the gallery's items are expanded too. Each by its nearest in the gallery, of which the
      query may be one: so a query's answer then depends on the query being there.
    - `rerank`: [k1, k2, lambda] of k-reciprocal re-ranking (k_reciprocal.py), e.g. [20,6,0.3]; None for
      none. It looks at neighbours among all items: queries and gallery, each id once. Its neighbourhoods depend on
      what other queries there are.

    Reads `outputs["embeddings"]` (B, D), of any length; `batch.labels` (B,) and `batch.ids`, B ints or strings.
    A batch may carry `batch.roles`, B times "query" or "gallery": then queries are compared with the gallery only.
    An item is never found by itself, known by its id wherever it stands, and an id seen twice counts once.

    `compute` gives "recall@K" for each K that is not above the number of items that a query is compared with, "map@r",
    "r_precision" and "mrr" (each 0 to 1; see ranking.py), "queries", and "queries_without_positive". Then, where asked
    for, bounds "recall@1_low" and "recall@1_high", and the same numbers once more as "dim64/recall@1",
    "whiten/recall@1", "alpha_qe/recall@1" and "k_reciprocal/recall@1", each alone from the embeddings as they are.
    Every process gets the same numbers, for any number of processes.
    Raises ValueError for arguments that make no sense, for batches without labels or ids, and where no query has a
    positive or every K is too large.
    """

    better = {"queries_without_positive": "less"}

    def __init__(
        self,
        ks: list[int] | None = None,
        memory_mb: int = 512,
        lone: Lone = "skip",
        dims: list[int] | None = None,
        intervals: int = 0,
        by_group: bool = True,
        whiten: int | None = None,
        whiten_from: Literal["train", "gallery"] | None = None,
        alpha_qe: list[float] | None = None,
        expand_gallery: bool = False,
        rerank: list[float] | None = None,
    ):
        self.ks = check_arguments(ks, memory_mb, lone)
        self.dims = list(dims or [])
        if any(d < 1 for d in self.dims) or len(set(self.dims)) < len(self.dims):
            raise ValueError(f"dims must be different widths from 1 up, not {self.dims}: try dims=[64,128]")
        if intervals < 0 or 0 < intervals < 20:
            raise ValueError(f"intervals must be 0 for none, or at least 20 resamples, not {intervals}: try 1000")
        if whiten is not None and whiten < 1:
            raise ValueError(f"whiten must be at least 1 dimension, not {whiten}: try 128")
        if whiten_from not in (None, "train", "gallery"):
            raise ValueError(f"whiten_from must be 'train' or 'gallery', not {whiten_from!r}")
        if whiten_from and whiten is None:
            raise ValueError(f"whiten_from={whiten_from!r} has no effect without whiten: set it, e.g. to 128")
        if expand_gallery and alpha_qe is None:
            raise ValueError("expand_gallery=True has no effect without alpha_qe: set it, e.g. to [10,3]")
        self.memory_mb, self.lone, self.intervals, self.by_group = memory_mb, lone, intervals, by_group
        self.whiten, self.whiten_from, self.expand_gallery = whiten, whiten_from or "train", expand_gallery
        self.alpha_qe = None if alpha_qe is None else _query_expansion(list(alpha_qe))
        self.rerank = None if rerank is None else _re_ranking(list(rerank))
        self.reset()

    def reset(self) -> None:
        self._seen = EmbeddingAccumulator("Recall@K", "embeddings")
        self._whitening = Whitening(self.whiten) if self.whiten else None
        self._items: Items | None = None
        self._found: dict[str, dict[str, Tensor]] = {}

    def names(self) -> list[str]:
        means = [*(f"recall@{k}" for k in self.ks), *_MEANS]
        variants = [*(f"dim{d}" for d in self.dims)]
        variants += [
            name
            for name, used in (("whiten", self.whiten), ("alpha_qe", self.alpha_qe), ("k_reciprocal", self.rerank))
            if used
        ]
        bounds = [f"{name}_{end}" for name in means for end in ("low", "high")] if self.intervals else []
        return [
            *means,
            "queries",
            "queries_without_positive",
            *bounds,
            *(f"{variant}/{name}" for variant in variants for name in means),
        ]

    def check(self, dataset: Dataset) -> list[Problem]:
        return check_labels(dataset, self.ks) + self._check_classes(dataset)

    def _check_classes(self, dataset: Dataset) -> list[Problem]:
        if not self.intervals or dataset.labels is None or len(set(map(int, dataset.labels))) > 1:
            return []
        return [Problem("Intervals are of several classes, and this dataset has one.", "intervals", "Set it to 0.")]

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        if "embeddings" not in outputs:
            return [Problem(f"Recall@K reads the model's 'embeddings', and it gives {', '.join(sorted(outputs))}.")]
        width = outputs["embeddings"].shape[1]
        asked = [("dims", d) for d in self.dims] + ([("whiten", self.whiten)] if self.whiten else [])
        return [
            Problem(f"{name} asks for {d} dimensions, and the embeddings have {width}.", name, f"Use {width} at most.")
            for name, d in asked
            if d > width
        ]

    def wants_training(self) -> bool:
        return self.whiten is not None and self.whiten_from == "train"

    def notes(self, training: int | None) -> list[str]:
        if self.whiten is None:
            return []
        if self.whiten_from == "gallery":
            return [
                f"Whitening to {self.whiten} dimensions is learned from the gallery itself: the items being judged."
            ]
        count = "" if training is None else f", {training:,} items,"
        return [f"Whitening to {self.whiten} dimensions is learned from the training set{count} without augmentation."]

    def fit(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        if self._whitening is not None and self.whiten_from == "train":
            self._whitening.see(outputs["embeddings"].detach())

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        self._seen.add(outputs, batch)

    def compute(self) -> dict[str, float]:
        self._items = items = self._seen.items()
        self._found = {}
        numbers: dict[str, float] = {}
        ks = fitting_ks(self.ks, items)
        for prefix, variant in self._variants(items):
            found = self._found[prefix] = self._ranked(variant, items)
            check_answerable(found["rank"])
            means = summarize(found, ks, lone=self.lone)
            if prefix:
                numbers |= {f"{prefix}/{name}": means[name] for name in means if not name.startswith("queries")}
                continue
            numbers |= means
            if self.intervals:
                labels = items.labels[items.queries]
                for name, bounds in resampled(found, labels, ks, self.intervals, lone=self.lone).items():
                    numbers |= {f"{name}_{end}": bound for end, bound in zip(("low", "high"), bounds, strict=True)}
        return numbers

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if self._items is None:
            return []
        ks = fitting_ks(self.ks, self._items)
        return describe(self._items, self._found, dataset, ks, lone=self.lone, by_group=self.by_group)

    def remarks(self) -> list[str]:
        return [] if self._items is None else remarks(self.ks, self._items, self._found[""]["rank"], self.lone)

    def _variants(self, items: Items) -> Iterator[tuple[str, _Variant]]:
        """What is ranked, under its prefix; each is made when the one before it is done with."""
        gallery = items.of(items.gallery)
        queries = gallery if items.alone else items.of(items.queries)
        yield "", _Variant(queries, gallery)
        for d in self.dims:
            if d > gallery.shape[1]:
                raise ValueError(f"dims asks for {d} dimensions, and the embeddings have {gallery.shape[1]}")
            yield f"dim{d}", _Variant(queries[:, :d], gallery[:, :d])
        if self._whitening is not None:
            whiten = self._whitened(gallery)
            new = whiten(gallery)
            yield "whiten", _Variant(new if items.alone else whiten(queries), new)
        if self.alpha_qe:
            yield "alpha_qe", self._expanded(queries, gallery, items)
        if self.rerank:
            yield "k_reciprocal", self._re_ranked(queries, gallery, items)

    def _whitened(self, gallery: Tensor) -> Projected:
        whitening = self._whitening
        if self.whiten_from == "gallery":
            whitening = Whitening(self.whiten)
            whitening.see(gallery)
            return whitening.fit()
        whitening = whitening.merged()
        if not whitening.count:
            raise ValueError(
                "whiten is learned from the training set's embeddings, and none were given: "
                "evaluate with a recipe that has a train_dataloader, or use whiten_from='gallery'"
            )
        return whitening.fit()

    def _expanded(self, queries: Tensor, gallery: Tensor, items: Items) -> _Variant:
        k, alpha = self.alpha_qe
        units = unit_rows(gallery)
        asked = units if items.alone else unit_rows(queries)
        new = expand(asked, units, items.own(), k, alpha, memory_mb=self.memory_mb)
        if self.expand_gallery:
            own = torch.arange(len(units), device=units.device)
            units = new if items.alone else expand(units, units, own, k, alpha, memory_mb=self.memory_mb)
        return _Variant(new, units)

    def _re_ranked(self, queries: Tensor, gallery: Tensor, items: Items) -> _Variant:
        units = unit_rows(gallery)
        asked = units if items.alone else unit_rows(queries)
        node = items.own()
        new = torch.nonzero(node < 0)[:, 0]
        node[new] = len(gallery) + torch.arange(len(new), device=node.device)
        nodes = torch.cat([units, asked[new]]) if len(new) else units
        k1, k2, weight = self.rerank
        encoded = k_reciprocal.KReciprocal(nodes, len(units), k1, k2, weight, memory_mb=self.memory_mb)

        def rescore(rows: Tensor, order: Tensor, cosines: Tensor) -> None:
            encoded.rescore(node[rows], order, cosines)

        return _Variant(asked, units, rescore, k_reciprocal.TIE)

    def _ranked(self, variant: _Variant, items: Items) -> dict[str, Tensor]:
        """What `rank_queries` says, this process asking its share of the queries."""
        rank, size = get_dist_info()
        rescore, labelling = variant.rescore, items.labelling()
        if size > 1:
            share = torch.arange(rank, len(variant.queries), size, device=variant.queries.device)
            labelling |= {name: labelling[name][share] for name in ("query_labels", "query_ids")}
            queries = variant.queries[share]
            if rescore is not None:
                rescore = lambda rows, *rest: variant.rescore(share[rows], *rest)  # noqa: E731
        else:
            queries = variant.queries
        found = rank_queries(
            queries, variant.gallery, **labelling, memory_mb=self.memory_mb, rescore=rescore, tie=variant.tie
        )
        if size > 1:
            shares = torch.cat([torch.arange(r, len(variant.queries), size) for r in range(size)])
            place = shares.argsort().to(queries.device)
            found = {name: gather(values)[place] for name, values in found.items()}
        return found


def _query_expansion(given: list[Any]) -> tuple[int, float]:
    if len(given) != 2 or not _whole(given[0]) or given[0] < 1 or not 0 <= given[1] < float("inf"):
        raise ValueError(
            f"alpha_qe must be [k, alpha] with a whole k from 1 up and alpha >= 0, not {given}: try [10,3]"
        )
    return int(given[0]), float(given[1])


def _re_ranking(given: list[Any]) -> tuple[int, int, float]:
    fine = len(given) == 3 and all(map(_whole, given[:2])) and 1 <= given[1] <= given[0] and 0 <= given[2] <= 1
    if not fine:
        raise ValueError(
            f"rerank must be [k1, k2, lambda] with whole numbers k1 >= k2 >= 1 and lambda from 0 to 1, not {given}: "
            "try [20,6,0.3]"
        )
    return int(given[0]), int(given[1]), float(given[2])


def _whole(number: float) -> bool:
    """Whether it is a whole number; neither infinity nor NaN is."""
    return float(number).is_integer()
