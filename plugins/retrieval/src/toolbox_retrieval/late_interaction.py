"""Exact retrieval metrics of items that are sets of tokens, compared by late interaction."""

from __future__ import annotations

import torch
from torch import Tensor

from toolbox.base import Dataset, ReportItem
from toolbox.plugin import Problem
from toolbox.utils.neighbours import make_unit_rows
from toolbox.utils.ranking import Lone, check_finite, full_precision, order_gallery, rank_scores
from toolbox.utils.ranking_charts import make_recall_curve
from toolbox_retrieval.ranking_metric import (
    MEANS,
    RankingMetric,
    find_largest_k,
    join_shares,
    select_ks,
    take_labelling_share,
    take_share,
)
from toolbox_retrieval.report_items import make_outcomes, make_rank_table

TIE = 1e-6
"""Scores are means of cosines in float32; nearer ones than this count as equal."""

PREFIX = "late_interaction/"


class LateInteractionRecall(RankingMetric):
    """Recall@K of token sets: each item is a query against all others, and a score is the mean over the query's tokens
    of the largest cosine with a token of the other item (Khattab and Zaharia, "ColBERT", 2020, who sum instead).

    - `ks`: the K of Recall@K; None for 1, 10, 100 and 1000.
    - `memory_mb`: cap on the working memory in MiB beyond the tokens; changes speed, not results.
    - `lone`: what a query without any positive does to Recall@K: "skip" or "miss", as in retrieval.Recall.

    Reads `outputs["tokens"]` (B, N, E) of any length, zero tokens being padding (`pool='tokens'` makes them), and
    labels, ids and roles as retrieval.Recall does. Every pair of items is compared, token by token: the time grows
    with the square of the items and of their tokens, and all tokens are kept. Gives
    "late_interaction/recall@K", "late_interaction/map@r", "late_interaction/r_precision", "late_interaction/mrr",
    "late_interaction/queries" and "late_interaction/queries_without_positive".
    Raises ValueError for arguments that make no sense, for batches without labels or ids, and for empty token sets.
    """

    title, output = "Late interaction", "tokens"
    better = {f"{PREFIX}queries_without_positive": "less"}

    def __init__(self, ks: list[int] | None = None, memory_mb: int = 512, lone: Lone = "skip"):
        super().__init__(ks, memory_mb, lone)
        self.reset()

    def names(self) -> list[str]:
        means = [*(f"recall@{k}" for k in self.ks), *MEANS]
        return [PREFIX + name for name in (*means, "queries", "queries_without_positive")]

    def check_outputs(self, outputs: dict[str, Tensor]) -> list[Problem]:
        if "tokens" in outputs:
            return []
        message = f"Late interaction reads the model's 'tokens', and it gives {', '.join(sorted(outputs))}."
        return [Problem(message, hint="Set model.pool='tokens', or use retrieval.Recall.")]

    def compute(self) -> dict[str, float]:
        self._items = items = self._accumulator.items()
        check_finite(items.values.flatten(1), "token")
        if empty := int((~items.values.flatten(1).any(dim=1)).sum()):
            raise ValueError(f"{empty} of {len(items.values)} items have no token that is not zero: nothing to compare")
        gallery, queries = items.select(items.gallery), items.select(items.queries)
        ranked, labelling = take_share(queries), take_labelling_share(items)
        ranking = rank_token_sets(ranked, gallery, memory_mb=self.memory_mb, **labelling)
        self._rankings[""] = ranking = join_shares(ranking, items)
        return {PREFIX + name: mean for name, mean in self._summarize(ranking, items).items()}

    def report_items(self, dataset: Dataset) -> list[ReportItem]:
        if self._items is None:
            return []
        rank, ks = self._rankings[""]["rank"].cpu(), select_ks(self.ks, self._items)
        report_items = [
            make_recall_curve({"plain": rank}, find_largest_k(self._items), ks, self.lone),
            make_rank_table(rank),
            make_outcomes(self._items, rank, [], self.lone),
        ]
        for report_item in report_items:
            if report_item is not None:
                report_item.title += ", late interaction"
        return [report_item for report_item in report_items if report_item is not None]


def rank_token_sets(
    queries: Tensor,
    gallery: Tensor,
    *,
    query_labels: Tensor,
    gallery_labels: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    memory_mb: int = 512,
) -> dict[str, Tensor]:
    """Rank token sets, (Q, N, E) against (G, M, E), by late interaction; the rest is as in `rank_queries`."""
    layout = order_gallery(query_labels, gallery_labels, query_ids, gallery_ids)
    rows = layout.rows(max(1, memory_mb // 2))
    # a product of some queries with some items is as large as their tokens' numbers multiplied
    budget = memory_mb * 2**17 // 4
    rows = max(1, min(rows, budget // (queries.shape[1] * gallery.shape[1])))

    def score(chunk: Tensor) -> Tensor:
        scores = gallery.new_full((len(chunk), layout.columns), -torch.inf)
        query_rows = make_unit_rows(queries[chunk].flatten(0, 1)).view(len(chunk), *queries.shape[1:])
        step = max(1, budget // (len(chunk) * queries.shape[1] * gallery.shape[1]))
        for start in range(0, len(gallery), step):
            part = gallery[layout.order[start : start + step]]
            scores[:, start : start + len(part)] = score_late_interaction(query_rows, part)
        return scores

    return rank_scores(layout, score, rows=rows, tie=TIE)


def score_late_interaction(queries: Tensor, documents: Tensor) -> Tensor:
    """(Q, N, E) and (G, M, E) -> (Q, G): the mean over a query's tokens of the largest cosine with a document's.

    Zero tokens count on neither side; every set must hold another one.
    """
    query_rows = make_unit_rows(queries.flatten(0, 1))
    document_rows = make_unit_rows(documents.flatten(0, 1))
    with full_precision():
        similar = (query_rows @ document_rows.T).view(*queries.shape[:2], *documents.shape[:2])
    nearest = similar.masked_fill_(~documents.any(dim=2), -torch.inf).amax(dim=3)
    valid = queries.any(dim=2)
    return nearest.masked_fill_(~valid[:, :, None], 0).sum(dim=1) / valid.sum(dim=1)[:, None]
