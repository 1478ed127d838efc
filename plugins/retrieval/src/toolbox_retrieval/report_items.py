"""The report items of retrieval metrics: curves, tables, misses and confused classes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from toolbox.base import Curve, Dataset, Example, Gallery, Outcomes, ReportItem, Table
from toolbox.utils.accumulators import Items
from toolbox.utils.class_names import list_super_classes, make_class_namer
from toolbox.utils.neighbours import make_unit_rows
from toolbox.utils.ranking import TIE, Lone, full_precision, summarize
from toolbox.utils.ranking_charts import make_cosine_histogram, make_recall_curve
from toolbox_retrieval.intervals import compute_query_outcomes
from toolbox_retrieval.ranking_metric import find_largest_k

RESULTS = 10
"""How many results an example shows."""

_MOST_GROUPS = 100
_OVERLAP = "Over queries. Where the two overlap little, a threshold tells matches from others."

Rankings = dict[str, dict[str, Tensor]]
"""{prefix: the result of `rank_queries`}, "" for the embeddings as they are."""


def make_report_items(
    items: Items,
    rankings: Rankings,
    dataset: Dataset,
    ks: Sequence[int],
    *,
    lone: Lone = "skip",
    by_group: bool = True,
) -> list[ReportItem]:
    """The report items of a retrieval metric.

    - `items`: what was ranked; `dataset`: the one that its indices are of.
    - `rankings`: of the embeddings, by prefix.
    """
    rankings = {
        prefix: {name: values.cpu() for name, values in ranking.items()} for prefix, ranking in rankings.items()
    }
    plain = rankings[""]
    ranks = {prefix or "plain": ranking["rank"] for prefix, ranking in rankings.items()}
    nearest = {f"nearest {name}": plain[name] for name in ("positive", "negative")}
    report_items: list[ReportItem | None] = [
        make_recall_curve(ranks, find_largest_k(items), ks, lone),
        make_dimension_curve(rankings, items.values.shape[1], ks, lone),
        make_cosine_histogram("Similarity of the nearest", nearest, _OVERLAP),
        make_rank_table(plain["rank"]),
    ]
    groups = list_super_classes(
        dataset, [items.indices[row] for row in items.queries.tolist()] if items.indices else []
    )
    if groups and by_group:
        report_items.append(make_group_table(plain, groups, ks, lone))
    confusions = QueryConfusions(items, plain)
    name = make_class_namer(dataset)
    report_items.append(confusions.table(name))
    if items.indices:
        spread, misses = list_spread_examples(items, plain["rank"], 24, lone), list_hardest_misses(items, plain, 12)
        confused = confusions.examples(name, 8)
        report_items += [
            Gallery("Queries and what was found", spread, "Spread evenly over the queries, about half of them missed."),
            Gallery("Hardest misses", misses, "The queries whose first match ranks worst."),
            Gallery("Confused classes", confused, "For each pair of classes its surest mistake."),
        ]
    report_items.append(make_outcomes(items, plain["rank"], groups, lone))
    return [
        report_item
        for report_item in report_items
        if report_item is not None and getattr(report_item, "examples", True)
    ]


def make_dimension_curve(rankings: Rankings, width: int, ks: Sequence[int], lone: Lone) -> Curve | None:
    """The first of the numbers over the width of the embedding, where several widths were evaluated."""
    widths = {int(prefix[3:]): ranking for prefix, ranking in rankings.items() if prefix.startswith("dim")}
    if not widths:
        return None
    series: dict[str, list[tuple[float, float]]] = {f"recall@{min(ks)}": [], "map@r": []}
    for d, ranking in sorted(({width: rankings[""]} | widths).items()):
        means = summarize(ranking, ks, lone=lone)
        for name, line in series.items():
            line.append((d, means[name]))
    return Curve("Shorter embeddings", series, x="dimensions", y="value", log_x=True)


def make_rank_table(rank: Tensor) -> Table:
    """The number of queries by the rank of their first match."""
    bounds = [(1, 1), (2, 10), (11, 100), (101, 1000), (1001, None)]
    rows = []
    for low, high in bounds:
        count = int(((rank >= low) & (rank <= (high or rank.max().clamp(min=low)))).sum())
        name = str(low) if low == high else f"{low:,} to {high:,}" if high else f"beyond {low - 1:,}"
        rows.append([name, count, count / max(len(rank), 1)])
    if absent := int((rank == 0).sum()):
        rows.append(["nothing to find", absent, absent / len(rank)])
    return Table("Where the first match stands", ["rank", "queries", "share"], rows)


def make_group_table(ranking: dict[str, Tensor], groups: list[str], ks: Sequence[int], lone: Lone) -> Table:
    """The numbers of each super-class that has queries which count, the worst first. The gallery is the whole one."""
    names = sorted(set(groups))
    number = {name: index for index, name in enumerate(names)}
    group = torch.tensor([number[name] for name in groups])
    outcomes = compute_query_outcomes(ranking, ks, lone=lone)
    columns = [*(f"recall@{k}" for k in ks), "map@r"]
    sums = {
        name: [torch.zeros(len(names)).double().index_add_(0, group, x).tolist() for x in (values * counted, counted)]
        for name, (values, counted) in ((column, outcomes[column]) for column in columns)
    }
    counts = sums[columns[0]][1]
    rows = [
        [name, int(counts[i]), *(sums[column][0][i] / max(sums[column][1][i], 1) for column in columns)]
        for i, name in enumerate(names)
        if counts[i]
    ]
    rows.sort(key=lambda row: (row[2], row[0]))
    note = "Every query is compared with the whole gallery."
    if len(rows) > _MOST_GROUPS:
        note += f" The worst {_MOST_GROUPS} of {len(rows)} groups."
    return Table("By super-class", ["group", "queries", *columns], rows[:_MOST_GROUPS], note)


class QueryConfusions:
    """Pairs of classes of which one stands first for queries of the other, most frequent first."""

    def __init__(self, items: Items, ranking: dict[str, Tensor], most: int = 20) -> None:
        self.items = items
        self._wrong = torch.nonzero(ranking["rank"] > 1)[:, 0]
        self._lead = (ranking["negative"] - ranking["positive"])[self._wrong]
        labels = items.labels.cpu()
        queries, gallery = labels[items.queries.cpu()], labels[items.gallery.cpu()]
        pairs = torch.stack([queries[self._wrong], gallery[ranking["nearest_negative"][self._wrong]]], dim=1)
        unordered, self._pair = pairs.sort(dim=1).values.unique(dim=0, return_inverse=True)
        times = torch.bincount(self._pair, minlength=len(unordered))
        self.chosen = times.argsort(descending=True, stable=True)[:most].tolist()
        self.classes, self.times = unordered.tolist(), times.tolist()
        self._is_forth = pairs[:, 0] == unordered[self._pair, 0] if len(pairs) else torch.zeros(0, dtype=torch.bool)
        self._sizes = dict(zip(*(x.tolist() for x in queries.unique(return_counts=True)), strict=True))

    def table(self, name: Callable[[int], str]) -> Table | None:
        """The pairs of classes, with counts in both directions."""
        rows = []
        for pair in self.chosen:
            a, b = self.classes[pair]
            forth = int(self._is_forth[self._pair == pair].sum())
            rows.append(
                [name(a), name(b), forth, self.times[pair] - forth, self.times[pair] / self._count_queries(pair)]
            )
        if not rows:
            return None
        columns = ["class", "other class", "class found other", "other found class", "share of their queries"]
        return Table("Confused classes", columns, rows, "Pairs of which one most often stands first for the other.")

    def examples(self, name: Callable[[int], str], count: int) -> list[Example]:
        """For each pair of classes the query whose wrong result is farthest ahead."""
        chosen = self.chosen[:count]
        queries, notes = [], []
        for pair in chosen:
            members = torch.nonzero(self._pair == pair)[:, 0]
            queries.append(int(self._wrong[members[self._lead[members].argmax()]]))
            a, b = self.classes[pair]
            notes.append(f"{name(a)} and {name(b)}: {self.times[pair]} of {self._count_queries(pair)} queries")
        return make_examples(self.items, queries, notes)

    def _count_queries(self, pair: int) -> int:
        return sum(self._sizes.get(label, 0) for label in self.classes[pair])


def list_hardest_misses(items: Items, ranking: dict[str, Tensor], count: int) -> list[Example]:
    """The queries whose first match ranks worst."""
    rank = ranking["rank"]
    order = rank.argsort(descending=True, stable=True)[:count].tolist()
    worst = [query for query in order if rank[query] > 1]
    return make_examples(items, worst, [f"first match at rank {int(rank[query]):,}" for query in worst])


def list_spread_examples(items: Items, rank: Tensor, count: int, lone: Lone) -> list[Example]:
    """Queries spread evenly over the data, about half of them missed."""
    missed = _spread(torch.nonzero((rank != 1) & _counted(rank, lone))[:, 0].tolist(), count // 2)
    hit = _spread(torch.nonzero(rank == 1)[:, 0].tolist(), count - len(missed))
    return sorted(make_examples(items, missed + hit), key=lambda example: example.query)


def make_examples(items: Items, queries: list[int], notes: Sequence[str] = ()) -> list[Example]:
    """Examples with the first results of some queries, by their positions; ties put negatives first, as in ranking."""
    if not queries or len(items.gallery) < 2:
        return []
    rows = items.queries[torch.tensor(queries, device=items.values.device)]
    gallery = items.gallery
    units = make_unit_rows(items.values[rows])
    with full_precision():
        similar = torch.cat([units @ make_unit_rows(items.values[part]).T for part in gallery.split(4096)], dim=1)
    right = items.labels[rows][:, None] == items.labels[gallery][None]
    same_item = items.ids[rows][:, None] == items.ids[gallery][None]
    order = (similar - TIE * right).masked_fill_(same_item, -torch.inf)
    columns = order.topk(min(RESULTS + 1, len(gallery)), dim=1).indices
    examples = []
    for position, row in enumerate(rows.tolist()):
        results = [
            (items.indices[index], bool(right[position, column]), float(similar[position, column]))
            for column, index in zip(columns[position].tolist(), gallery[columns[position]].tolist(), strict=True)
            if not same_item[position, column]
        ]
        note = notes[position] if notes else ""
        examples.append(Example(items.indices[row], results[:RESULTS], note))
    return examples


def make_outcomes(items: Items, rank: Tensor, groups: list[str], lone: Lone) -> Outcomes:
    """The rank of every query's first match; NaN where nothing can answer it and that counts as a miss."""
    counted = torch.nonzero(_counted(rank, lone))[:, 0].tolist()
    queries = items.queries.tolist()
    names = [str(items.names[queries[query]]) for query in counted]
    ranks = [float(place) if place else math.nan for place in rank[counted].tolist()]
    return Outcomes("rank of the first match", names, ranks, [groups[query] for query in counted] if groups else [])


def _counted(rank: Tensor, lone: Lone) -> Tensor:
    """Which queries count in Recall@K."""
    return rank >= 0 if lone == "miss" else rank > 0


def _spread(items: list[int], count: int) -> list[int]:
    """At most `count` of the items, evenly spaced."""
    return items[:: max(1, len(items) // max(1, count))][:count]
