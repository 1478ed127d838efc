"""Confidence intervals of retrieval numbers by resampling classes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from toolbox.utils.ranking import Lone
from toolbox.utils.resampling import ClusteredOutcomes, bootstrap_clusters


def estimate_intervals(
    ranking: dict[str, Tensor], labels: Tensor, ks: Sequence[int], resamples: int, *, lone: Lone = "skip"
) -> dict[str, tuple[float, float]]:
    """{name: (low, high)} of the numbers of `summarize`, at 95 %.

    - `ranking`: the result of `rank_queries`; `labels`: (Q,) the queries' classes.
    - `lone`: as in `summarize`; "skip" also leaves out classes of which no query has a positive.
    - `resamples`: how often as many classes as there are get drawn, with replacement and with all their queries.

    The percentile bootstrap over clusters: the queries of a class look for each other, so that one odd class moves
    all of them together, and drawing single queries would give intervals that are too narrow. The draws depend on the
    number of classes alone. What it cannot know: the same embedder trained again.
    Raises ValueError for fewer than two classes.
    """
    if lone == "skip":  # classes that nothing counts of are not drawn
        counted = torch.nonzero(ranking["rank"].cpu() > 0)[:, 0]
        ranking, labels = {name: values.cpu()[counted] for name, values in ranking.items()}, labels.cpu()[counted]
    _, cluster = labels.cpu().unique(return_inverse=True)
    classes = int(cluster.max()) + 1 if len(cluster) else 0
    if classes < 2:
        raise ValueError(f"an interval needs queries of two classes at least, and there are {classes}: use intervals=0")
    outcomes = compute_query_outcomes(ranking, ks, lone=lone)
    return bootstrap_clusters(
        {name: ClusteredOutcomes(values, counted, cluster) for name, (values, counted) in outcomes.items()},
        classes,
        resamples,
    )


def compute_query_outcomes(
    ranking: dict[str, Tensor], ks: Sequence[int], *, lone: Lone = "skip"
) -> dict[str, tuple[Tensor, Tensor]]:
    """{name: (value of each query, 1 where it counts)}: `summarize` gives the means of these."""
    rank = ranking["rank"].cpu()
    answerable = (rank > 0).double()
    counted = torch.ones_like(answerable) if lone == "miss" else answerable
    outcomes = {f"recall@{k}": ((rank <= k).double() * answerable, counted) for k in ks}
    for name in ("map@r", "r_precision"):
        outcomes[name] = ranking[name].cpu().double(), answerable
    return outcomes | {"mrr": (answerable / rank.clamp(min=1), answerable)}
