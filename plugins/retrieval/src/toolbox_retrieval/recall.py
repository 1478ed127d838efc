"""Exact retrieval metrics by cosine similarity: Recall@K, MAP@R, R-precision and the mean reciprocal rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from toolbox.base import Batch, Dataset, ReportItem, get_dist_info
from toolbox.plugin import Problem
from toolbox.utils.accumulators import Items
from toolbox.utils.neighbours import expand_queries, make_unit_rows
from toolbox.utils.ranking import TIE, Lone, rank_queries
from toolbox_retrieval import k_reciprocal
from toolbox_retrieval.intervals import estimate_intervals
from toolbox_retrieval.ranking_metric import (
    MEANS,
    Ranking,
    RankingMetric,
    join_shares,
    select_ks,
    take_labelling_share,
    take_share,
)
from toolbox_retrieval.report_items import make_report_items
from toolbox_retrieval.whitening import Whitening, WhiteningProjection

Rescore = Callable[[Tensor, Tensor, Tensor], None]
"""Changes cosines in place: (rows of queries, order of the gallery, their cosines)."""


@dataclass
class _Variant:
    """Embeddings to rank: those of the queries and of the gallery, and a function that changes their cosines."""

    queries: Tensor
    gallery: Tensor
    rescore: Rescore | None = None
    tie: float = TIE


class Recall(RankingMetric):
    """Recall@K and other metrics of how well items of one class find each other; each is a query against all others.

    - `ks`: the K of Recall@K; None for 1, 10, 100 and 1000, the protocol of Stanford Online Products.
    - `memory_mb`: cap on the working memory in MiB beyond the embeddings; changes speed, not results.
    - `lone`: what a query without any positive in the gallery (an explicit negative, a class of one item) does to
      Recall@K. "skip": it is left out, as of the other numbers. "miss": it counts as a miss. It is counted either way.
    - `dims`: widths at which the first dimensions of an embedding are evaluated alone (Matryoshka), e.g. [64,128].
    - `intervals`: how many times to resample for 95 % confidence intervals, e.g. 1000; 0 for none. Whole classes are
      drawn, as queries of a class depend on each other (toolbox_retrieval/intervals.py).
    - `by_group`: whether the report items hold a table by super-class, where the dataset has `groups`.
    - `whiten`: width of a whitening by principal components (whitening.py beside this file); None for none.
    - `whiten_from`: what it is learned from: "train" (None), the training set without augmentation, which is embedded
      for it; or "gallery", the very items that are evaluated, though not their labels.
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

    title, output = "Recall@K", "embeddings"
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
        super().__init__(ks, memory_mb, lone)
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
        self.intervals, self.by_group = intervals, by_group
        self.whiten, self.whiten_from, self.expand_gallery = whiten, whiten_from or "train", expand_gallery
        self.alpha_qe = None if alpha_qe is None else _check_query_expansion(list(alpha_qe))
        self.rerank = None if rerank is None else _check_reranking(list(rerank))
        self.reset()

    def reset(self) -> None:
        super().reset()
        self._whitening = Whitening(self.whiten) if self.whiten else None

    def names(self) -> list[str]:
        means = [*(f"recall@{k}" for k in self.ks), *MEANS]
        settings = {"whiten": self.whiten, "alpha_qe": self.alpha_qe, "k_reciprocal": self.rerank}
        variants = [*(f"dim{d}" for d in self.dims), *(name for name, setting in settings.items() if setting)]
        bounds = [f"{name}_{end}" for name in means for end in ("low", "high")] if self.intervals else []
        of_variants = [f"{variant}/{name}" for variant in variants for name in means]
        return [*means, "queries", "queries_without_positive", *bounds, *of_variants]

    def check(self, dataset: Dataset) -> list[Problem]:
        problems = super().check(dataset)
        if self.intervals and dataset.labels is not None and len(set(map(int, dataset.labels))) < 2:
            message = "Intervals are of several classes, and this dataset has one."
            problems.append(Problem(message, "intervals", "Set it to 0."))
        return problems

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        if "embeddings" not in outputs:
            return [Problem(f"Recall@K reads the model's 'embeddings', and it gives {', '.join(sorted(outputs))}.")]
        width = outputs["embeddings"].shape[1]
        widths = [("dims", d) for d in self.dims] + ([("whiten", self.whiten)] if self.whiten else [])
        return [
            Problem(f"{name} asks for {d} dimensions, and the embeddings have {width}.", name, f"Use {width} at most.")
            for name, d in widths
            if d > width
        ]

    def wants_training(self) -> bool:
        return self.whiten is not None and self.whiten_from == "train"

    def notes(self, training: int | None) -> list[str]:
        if self.whiten is None:
            return []
        learned = f"Whitening to {self.whiten} dimensions is learned from"
        if self.whiten_from == "gallery":
            return [f"{learned} the gallery itself: the items that are evaluated."]
        count = "" if training is None else f", {training:,} items,"
        return [f"{learned} the training set{count} without augmentation."]

    def fit(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        if self._whitening is not None and self.whiten_from == "train":
            self._whitening.add(outputs["embeddings"].detach())

    def compute(self) -> dict[str, float]:
        self._items = items = self._accumulator.items()
        self._rankings = {}
        numbers: dict[str, float] = {}
        for prefix, variant in self._variants(items):
            ranking = self._rankings[prefix] = self._rank(variant, items)
            means = self._summarize(ranking, items)
            if prefix:
                numbers |= {f"{prefix}/{name}": means[name] for name in means if not name.startswith("queries")}
                continue
            numbers |= means
            if self.intervals:
                labels, ks = items.labels[items.queries], select_ks(self.ks, items)
                intervals = estimate_intervals(ranking, labels, ks, self.intervals, lone=self.lone)
                for name, bounds in intervals.items():
                    numbers |= {f"{name}_{end}": bound for end, bound in zip(("low", "high"), bounds, strict=True)}
        return numbers

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if self._items is None:
            return []
        ks = select_ks(self.ks, self._items)
        return make_report_items(self._items, self._rankings, dataset, ks, lone=self.lone, by_group=self.by_group)

    def _variants(self, items: Items) -> Iterator[tuple[str, _Variant]]:
        """Yield (prefix, embeddings to rank); each is made when the one before it is done with."""
        gallery = items.select(items.gallery)
        queries = gallery if items.is_symmetric else items.select(items.queries)
        yield "", _Variant(queries, gallery)
        for d in self.dims:
            if d > gallery.shape[1]:
                raise ValueError(f"dims asks for {d} dimensions, and the embeddings have {gallery.shape[1]}")
            yield f"dim{d}", _Variant(queries[:, :d], gallery[:, :d])
        if self._whitening is not None:
            whiten = self._fit_whitening(self._whitening, gallery)
            whitened = whiten(gallery)
            yield "whiten", _Variant(whitened if items.is_symmetric else whiten(queries), whitened)
        if self.alpha_qe:
            yield "alpha_qe", self._expand(queries, gallery, items, *self.alpha_qe)
        if self.rerank:
            yield "k_reciprocal", self._rerank(queries, gallery, items, *self.rerank)

    def _fit_whitening(self, whitening: Whitening, gallery: Tensor) -> WhiteningProjection:
        if self.whiten_from == "gallery":
            whitening = Whitening(whitening.dim)
            whitening.add(gallery)
            return whitening.fit()
        whitening = whitening.gather()
        if not whitening.count:
            raise ValueError(
                "whiten is learned from the training set's embeddings, and none were given: "
                "evaluate with a recipe that has a train_dataloader, or use whiten_from='gallery'"
            )
        return whitening.fit()

    def _expand(self, queries: Tensor, gallery: Tensor, items: Items, k: int, alpha: float) -> _Variant:
        units = make_unit_rows(gallery)
        query_units = units if items.is_symmetric else make_unit_rows(queries)
        expanded = expand_queries(query_units, units, items.find_self_rows(), k, alpha, memory_mb=self.memory_mb)
        if self.expand_gallery:
            rows = torch.arange(len(units), device=units.device)
            units = (
                expanded
                if items.is_symmetric
                else expand_queries(units, units, rows, k, alpha, memory_mb=self.memory_mb)
            )
        return _Variant(expanded, units)

    def _rerank(self, queries: Tensor, gallery: Tensor, items: Items, k1: int, k2: int, weight: float) -> _Variant:
        units = make_unit_rows(gallery)
        query_units = units if items.is_symmetric else make_unit_rows(queries)
        nodes_of_queries = items.find_self_rows()
        outside = torch.nonzero(nodes_of_queries < 0)[:, 0]  # queries that the gallery does not hold
        nodes_of_queries[outside] = len(gallery) + torch.arange(len(outside), device=outside.device)
        nodes = torch.cat([units, query_units[outside]]) if len(outside) else units
        encoding = k_reciprocal.KReciprocal(nodes, len(units), k1, k2, weight, memory_mb=self.memory_mb)

        def rescore(rows: Tensor, order: Tensor, cosines: Tensor) -> None:
            encoding.rescore(nodes_of_queries[rows], order, cosines)

        return _Variant(query_units, units, rescore, k_reciprocal.TIE)

    def _rank(self, variant: _Variant, items: Items) -> Ranking:
        """The result of `rank_queries`; this process ranks for its share of the queries."""
        rank, size = get_dist_info()
        rescore_all = variant.rescore

        def rescore(rows: Tensor, order: Tensor, cosines: Tensor) -> None:
            if rescore_all is not None:
                rescore_all(rows * size + rank, order, cosines)  # of all queries, as `take_share` chose them

        ranking = rank_queries(
            take_share(variant.queries),
            variant.gallery,
            **take_labelling_share(items),
            memory_mb=self.memory_mb,
            rescore=None if rescore_all is None else rescore,
            tie=variant.tie,
        )
        return join_shares(ranking, items)


def _check_query_expansion(setting: list[Any]) -> tuple[int, float]:
    if len(setting) != 2 or not _is_whole(setting[0]) or setting[0] < 1 or not 0 <= setting[1] < float("inf"):
        raise ValueError(
            f"alpha_qe must be [k, alpha] with a whole k from 1 up and alpha >= 0, not {setting}: try [10,3]"
        )
    return int(setting[0]), float(setting[1])


def _check_reranking(setting: list[Any]) -> tuple[int, int, float]:
    whole = len(setting) == 3 and all(map(_is_whole, setting[:2]))
    if not (whole and 1 <= setting[1] <= setting[0] and 0 <= setting[2] <= 1):
        raise ValueError(
            f"rerank must be [k1, k2, lambda] with whole numbers k1 >= k2 >= 1 and lambda from 0 to 1, not {setting}: "
            "try [20,6,0.3]"
        )
    return int(setting[0]), int(setting[1]), float(setting[2])


def _is_whole(number: float) -> bool:
    """Whether it is a whole number; neither infinity nor NaN is."""
    return float(number).is_integer()
