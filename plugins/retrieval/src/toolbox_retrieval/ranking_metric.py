"""The base of metrics that rank a gallery for each query: which queries and which K it can answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toolbox.base import Batch, Dataset, Metric, gather, get_dist_info
from toolbox.plugin import Problem
from toolbox.utils.accumulators import EmbeddingAccumulator, Items, check_labelled
from toolbox.utils.ranking import Lone, summarize

Ranking = dict[str, Tensor]
"""The result of `rank_queries`."""

MEANS = ("map@r", "r_precision", "mrr")


class RankingMetric(Metric):
    """The base of metrics that rank a gallery for each query.

    - `title`: the metric's name, for messages; `output`: what it reads of the model's outputs.
    - `ks`: the K of Recall@K, None for 1 to 1000; `memory_mb`, `lone`: as of `Recall`.
    """

    title: str
    output: str

    def __init__(self, ks: list[int] | None, memory_mb: int, lone: Lone):
        self.ks = [1, 10, 100, 1000] if ks is None else list(ks)
        if not self.ks or min(self.ks) < 1 or len(set(self.ks)) < len(self.ks):
            raise ValueError(f"ks must be different numbers from 1 up, not {self.ks}: try ks=[1,10]")
        if memory_mb < 1:
            raise ValueError(f"memory_mb must be at least 1, not {memory_mb}: try 512")
        if lone not in ("miss", "skip"):
            raise ValueError(f"lone must be 'miss' or 'skip', not {lone!r}")
        self.memory_mb, self.lone = memory_mb, lone

    def reset(self) -> None:
        self._accumulator = EmbeddingAccumulator(self.title, self.output)
        self._items: Items | None = None
        self._rankings: dict[str, Ranking] = {}  # "" is the one that remarks and report items are of

    def check(self, dataset: Dataset) -> list[Problem]:
        if dataset.labels is None:
            return check_labelled("Recall@K", dataset)
        labels = list(map(int, dataset.labels))
        if (roles := getattr(dataset, "roles", None)) is None:
            largest, answerable = len(labels) - 1, len(set(labels)) < len(labels)
            message = "No two items of this dataset share a class, so no query has anything to find."
            hint = "Use a dataset with several items in a class."
        else:
            pairs = list(zip(labels, roles, strict=True))
            queries, gallery = ([label for label, role in pairs if role == name] for name in ("query", "gallery"))
            largest, answerable = len(gallery), not set(queries).isdisjoint(gallery)
            message = f"No class of the {len(queries)} queries is among the {len(gallery)} items of the gallery."
            hint = "Use a dataset whose gallery holds the classes of its queries."
        if not answerable:
            return [Problem(message, hint=hint)]
        if max(self.ks) <= largest:
            return []
        fitting = [k for k in self.ks if k <= largest] or [largest]
        compared = f"the {largest} items that a query is compared with"
        message = f"Recall@{max(self.ks)} asks for more than {compared}: the largest K is {largest}."
        return [Problem(message, "ks", f"use ks=[{','.join(map(str, fitting))}]")]

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        self._accumulator.add(outputs, batch)

    def remarks(self) -> list[str]:
        """The remarks on the numbers: queries that nothing can answer, and K that were left out."""
        if self._items is None:
            return []
        rank, remarks, largest = self._rankings[""]["rank"], [], find_largest_k(self._items)
        if absent := int((rank == 0).sum()):
            fate = "they count as misses in Recall@K" if self.lone == "miss" else "they are left out of all means"
            remarks.append(f"{absent:,} of {len(rank):,} queries have no other item of their class to find: {fate}.")
        if large := [k for k in sorted(self.ks) if k > largest]:
            names = ", ".join(f"Recall@{k}" for k in large)
            remarks.append(f"{names} is left out: a query is compared with {largest:,} items.")
        return remarks

    def _summarize(self, ranking: Ranking, items: Items) -> dict[str, float]:
        """The means of a ranking. Raises ValueError where no query has a positive, or every K is too large."""
        rank = ranking["rank"]
        if not bool((rank > 0).any()):
            raise ValueError(
                f"none of the {len(rank)} queries has an item of its class to find: nothing can be evaluated"
            )
        return summarize(ranking, select_ks(self.ks, items), lone=self.lone)


def find_largest_k(items: Items) -> int:
    """How many items of the gallery a query is compared with: all of them but itself."""
    within = items.is_symmetric or bool((items.find_self_rows() >= 0).all())
    return len(items.gallery) - int(within)


def select_ks(ks: Sequence[int], items: Items) -> list[int]:
    """The K that are not above the number of items that a query is compared with. Raises ValueError without any."""
    largest = find_largest_k(items)
    fitting = [k for k in ks if k <= largest]
    if not fitting:
        raise ValueError(f"Recall@{min(ks)} asks for more than the {largest} items that a query is compared with")
    return fitting


def take_share(rows: Tensor) -> Tensor:
    """The rows of this process, where each ranks for some of the queries."""
    rank, size = get_dist_info()
    return rows[rank::size].contiguous()


def take_labelling_share(items: Items) -> dict[str, Tensor]:
    """Labels and ids as `rank_queries` takes them, of the queries of this process."""
    labelling = items.get_ranking_arguments()
    return labelling | {name: take_share(labelling[name]) for name in ("query_labels", "query_ids")}


def join_shares(ranking: Ranking, items: Items) -> Ranking:
    """The ranking of all queries, from those of each process's own."""
    _, size = get_dist_info()
    if size == 1:
        return ranking
    place = torch.cat([torch.arange(rank, len(items.queries), size) for rank in range(size)]).argsort()
    return {name: gather(values)[place.to(values.device)] for name, values in ranking.items()}
